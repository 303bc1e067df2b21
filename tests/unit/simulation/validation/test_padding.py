"""What an example's loss and metrics may depend on: its own row, and other rows that the mask names."""

from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fedrecon as fr
from fedrecon.core._examples import EXAMPLE_MASK
from fedrecon.core._model import fully_global, personal_copy, without_tables
from fedrecon.models import matrix_factorization
from fedrecon.simulation._validation import padding
from fedrecon.simulation._validation.model import check_model

CLIENTS = fr.Clients.from_arrays(
    {"ann": {"x": np.arange(1, 13, dtype=np.float32).reshape(6, 2), "y": np.ones(6, np.float32)}}
)


def model_of(rows: Any, metric: Any = None) -> fr.Model:
    """A model whose loss has the part `rows(batch)`, `[example]`."""

    def loss(p: Any, batch: Any, key: Any = None) -> fr.Mean:
        return fr.Mean.of(jnp.square(batch["x"] @ p["w"] + p["bias"] - batch["y"]) + rows(batch))

    return fr.partition(
        lambda key: {"w": jnp.full(2, 0.1), "bias": jnp.zeros(())},
        loss,
        None if metric is None else lambda p, batch: {"m": fr.Mean.of(metric(batch))},
        local=fr.is_local("bias"),
    )


def check(model: fr.Model, clients: fr.Clients = CLIENTS) -> None:
    sgd = fr.optimizer("sgd", learning_rate=0.1)
    algorithm = fr.fedrecon(model, fr.Solver(sgd, 2), fr.Solver(sgd, 2), sgd)
    check_model(algorithm, clients, model.init_global(jax.random.key(0)), jax.random.key(1))


def nothing(batch: Any) -> Any:
    return 0 * batch["y"]


def masked_mean(batch: Any) -> Any:
    mask = batch[EXAMPLE_MASK]
    return jnp.sum(jnp.where(mask, batch["y"] * batch["x"][:, 0], 0)) / jnp.sum(mask) + nothing(batch)


@pytest.fixture
def compiled(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Collects what is compiled for a batch without padding."""
    calls: list[Any] = []

    def quickly(fn: Any) -> Any:
        calls.append(fn)
        return fn

    monkeypatch.setattr(padding, "quickly", quickly)
    return calls


def test_a_model_of_rows_alone_takes_no_further_program(compiled):
    check(model_of(nothing, lambda batch: batch["y"]))
    ratings = {"item": np.arange(6), "rating": np.ones(6)}
    check(matrix_factorization(10, 2), fr.Clients.from_arrays({"ann": ratings}))
    assert not compiled


def test_a_model_that_reads_the_mask_passes(compiled):
    check(model_of(masked_mean, masked_mean))
    assert len(compiled) == 1


@pytest.mark.parametrize(
    "rows",
    [
        lambda batch: batch["y"] / len(batch["y"]),
        lambda batch: batch["y"] / jnp.size(batch["y"]),
        lambda batch: batch["y"] * np.log(batch["y"].shape[0]),
        lambda batch: batch["y"] * np.full(batch["y"].shape, 1.0 / batch["y"].shape[0], np.float32),
        lambda batch: jnp.sum(batch["x"] * batch[EXAMPLE_MASK][:, None]) / len(batch["y"]) + nothing(batch),
        lambda batch: jax.lax.fori_loop(0, 2, lambda i, y: y / len(y), batch["y"]),
        lambda batch: jnp.max(-batch["x"]) + nothing(batch),
        lambda batch: jnp.mean(batch["x"]) + nothing(batch),
        lambda batch: jnp.sum(batch[EXAMPLE_MASK]) - jnp.sum(~batch[EXAMPLE_MASK]) + nothing(batch),
    ],
    ids=["length", "size", "logarithm", "constant", "mask", "loop", "largest", "mean", "count"],
)
@pytest.mark.parametrize("where", ["loss", "metric"])
def test_whatever_depends_on_the_padding_is_refused(rows, where):
    model = model_of(rows) if where == "loss" else model_of(nothing, rows)
    with pytest.raises(
        ValueError, match="must not depend on rows of padding in its batch, but that of example"
    ):
        check(model)


@pytest.mark.parametrize("view_of", [fully_global, personal_copy, without_tables])
def test_a_loss_that_replaces_that_of_a_view_is_checked_again(view_of, compiled):
    """A view of a model that passed is not tried again, as its functions are the model's, unless replaced."""
    model = model_of(masked_mean)
    check(model)
    view = view_of(model)
    assert view.origin is model
    check(view)
    assert len(compiled) == 1

    def loss(g: Any, x: Any, batch: Any, key: Any) -> Any:
        mean = view.loss(g, x, batch, key)
        return fr.Mean(mean.total + batch["y"].mean(), mean.weight)

    with pytest.raises(ValueError, match="the loss of an example must not depend on rows of padding"):
        check(replace(view, loss=loss))


# ---- models that start where all rows are alike ------------------------------------------------------------


def starting_at(value: float, rows: Any) -> fr.Model:
    """A model whose parameters start as one number, and whose loss has the part `rows(scores, batch)`."""

    def loss(p: Any, batch: Any, key: Any = None) -> fr.Mean:
        scores = batch["x"] @ p["w"]
        return fr.Mean.of(jnp.square(scores + p["bias"] - batch["y"]) + rows(scores, batch))

    start = {"w": jnp.full(2, value), "bias": jnp.zeros(())}
    return fr.partition(lambda key: start, loss, local=fr.is_local("bias"))


def from_batch_mean(scores: Any, batch: Any) -> Any:
    return jnp.square(scores - scores.mean())


def from_masked_mean(scores: Any, batch: Any) -> Any:
    mask = batch[EXAMPLE_MASK]
    return jnp.square(scores - jnp.sum(scores * mask) / jnp.sum(mask))


def test_statistics_of_a_batch_are_seen_where_all_scores_start_alike():
    with pytest.raises(ValueError, match="the loss of an example must not depend on rows of padding"):
        check(starting_at(0.0, from_batch_mean))
    check(starting_at(0.0, from_masked_mean))
    check(starting_at(0.0, lambda scores, batch: nothing(batch)))


def test_a_model_that_is_no_number_elsewhere_is_tried_where_it_starts():
    def elsewhere(value: Any) -> Any:
        return lambda scores, batch: jnp.where(scores == 0, value(batch), jnp.nan)

    check(starting_at(0.0, elsewhere(lambda batch: 0.0)))
    with pytest.raises(ValueError, match="the loss of an example must not depend on rows of padding"):
        check(starting_at(0.0, elsewhere(lambda batch: batch["y"].mean())))
