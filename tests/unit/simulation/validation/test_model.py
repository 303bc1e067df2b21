"""Models that break a promise are refused before the first round, by names."""

from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fedrecon as fr
from fedrecon.algorithms._fedrecon import fedrecon
from fedrecon.core._examples import EXAMPLE_MASK
from fedrecon.core._mean import Mean
from fedrecon.core._model import Model, Table, fully_global
from fedrecon.data._clients import Clients
from fedrecon.simulation._validation.model import check_model
from fedrecon.solvers._gradient import Solver
from fedrecon.solvers._optimizers import optimizer

SOLVER = Solver(optimizer("sgd", learning_rate=0.1), 2)
CLIENTS = Clients.from_arrays(
    {
        "nobody": {"item": np.zeros(0, int), "other": np.zeros(0, int), "rating": np.zeros(0)},
        "ann": {"item": [4, 1, 4], "other": [5, 3, 1], "rating": [4.0, 2.0, 5.0]},
    }
)


def score(global_params: Any, local_params: Any, batch: Any) -> Any:
    rows = global_params["item"]["factors"][batch["item"]]
    return rows @ local_params["user"] + global_params["item"]["bias"][batch["item"]]


def error(global_params: Any, local_params: Any, batch: Any) -> Any:
    return jnp.square(score(global_params, local_params, batch) - batch["rating"])


def init_global(key: Any) -> Any:
    return {"item": {"factors": jax.random.normal(key, (6, 2)), "bias": jnp.arange(6.0)}}


MODEL = Model(
    init_global=init_global,
    init_local=lambda global_params, key: {"user": jax.random.normal(key, (2,))},
    loss=lambda g, x, batch, key: Mean.of(error(g, x, batch)),
    metrics=lambda g, x, batch: {"mse": Mean.of(error(g, x, batch))},
    tables=(Table("item/factors", ("item",)), Table("item/bias", ("item",))),
)


ALGORITHM = fedrecon(MODEL, SOLVER, SOLVER, optimizer("sgd", learning_rate=1.0))
START = init_global(jax.random.key(0))


def check(model: Model = MODEL, clients: Clients = CLIENTS, global_params: Any = None) -> None:
    check_model(replace(ALGORITHM, model=model), clients, global_params or START, jax.random.key(1))


def with_loss(extra: Any, **changes: Any) -> Model:
    """The model with `extra(global_params, local_params, batch)` added to its loss."""
    return replace(
        MODEL, loss=lambda g, x, batch, key: Mean.of(error(g, x, batch) + extra(g, x, batch)), **changes
    )


@pytest.fixture(autouse=True)
def operation_by_operation(request):
    """Without programs to compile the many small checks are fast; one test has them compiled."""
    with jax.disable_jit("compiled" not in request.node.name):
        yield


def test_a_good_model_passes():
    check()


def test_what_is_compiled_says_the_same():
    check()
    with pytest.raises(ValueError, match="the loss changes"):
        check(with_loss(lambda g, x, batch: batch["item"] == 0))


def test_clients_without_any_example_pass():
    check(clients=CLIENTS.take([0]))


def test_two_fields_of_one_table_pass():
    tables = (Table("item/factors", ("item", "other")), Table("item/bias", ("item",)))
    check(with_loss(lambda g, x, batch: g["item"]["factors"][batch["other"]] @ x["user"], tables=tables))


def test_a_view_passes():
    start = START, {"user": jnp.ones(2)}
    check(fully_global(MODEL), global_params=start)
    with pytest.raises(ValueError, match="the table '0/item/factors'"):
        check(fully_global(replace(MODEL, tables=MODEL.tables[:1])), global_params=start)


def test_a_shape_taken_from_a_table_passes():
    # What is traced for it reads the table, but nothing comes of it.
    check(replace(MODEL, init_local=lambda g, key: {"user": jnp.zeros_like(g["item"]["factors"][0])}))


# ---- shapes and values -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("loss", "kind", "message"),
    [
        (lambda g, x, batch, key: error(g, x, batch), TypeError, "loss must return a Mean .* got "),
        (
            lambda g, x, batch, key: Mean.of(error(g, x, batch)).sum(),
            ValueError,
            r"total of shape \(3,\); got \(\)",
        ),
        (
            lambda g, x, batch, key: Mean(error(g, x, batch), jnp.ones(())),
            ValueError,
            r"weight of shape \(3,\); got \(\)",
        ),
        (
            lambda g, x, batch, key: Mean.of(error(g, x, batch) * batch["ratng"]),
            ValueError,
            r"looks up 'ratng', but .* \['item', 'other', 'rating'\]; did you mean 'rating'",
        ),
    ],
    ids=["array", "sum", "weight", "field"],
)
def test_loss_of_the_wrong_form(loss, kind, message):
    with pytest.raises(kind, match=message):
        check(replace(MODEL, loss=loss))


@pytest.mark.parametrize(
    ("both", "kind", "message"),
    [
        (
            lambda g, x, batch, key: Mean.of(error(g, x, batch)),
            TypeError,
            "pair of a Mean and a dict, got Mean",
        ),
        (lambda g, x, batch, key: (error(g, x, batch), {}), TypeError, "loss must return a Mean"),
        (
            lambda g, x, batch, key: (Mean.of(error(g, x, batch)), {"loss": 1}),
            ValueError,
            "not be called 'loss'",
        ),
        (
            lambda g, x, batch, key: (Mean.of(jnp.log(-batch["rating"])), {}),
            ValueError,
            "the loss must be finite",
        ),
    ],
    ids=["mean", "loss", "metrics", "value"],
)
def test_loss_and_metrics_of_the_wrong_form(both, kind, message):
    with pytest.raises(kind, match=message):
        check(replace(MODEL, loss_and_metrics=both))


@pytest.mark.parametrize(
    ("metrics", "kind", "message"),
    [
        (
            lambda g, x, batch: Mean.of(error(g, x, batch)),
            TypeError,
            "metrics must be a dict of Mean, got Mean",
        ),
        (lambda g, x, batch: {"mse": jnp.ones(3)}, TypeError, "metric 'mse' must be a Mean"),
        (
            lambda g, x, batch: {"mse": Mean.of(jnp.ones((3, 2)))},
            ValueError,
            r"metric 'mse'.*\(3,\); got \(3, 2\)",
        ),
        (lambda g, x, batch: {"loss": Mean.of(jnp.ones(3))}, ValueError, "must not be called 'loss'"),
        (
            lambda g, x, batch: {"mse": Mean.of(jnp.log(-batch["rating"]))},
            ValueError,
            "'mse' must be finite.*nan",
        ),
    ],
    ids=["mean", "array", "shape", "reserved", "nan"],
)
def test_metrics_of_the_wrong_form(metrics, kind, message):
    with pytest.raises(kind, match=message):
        check(replace(MODEL, metrics=metrics))


def test_loss_that_is_not_finite_from_the_start():
    bad = CLIENTS["ann"] | {"rating": [4.0, float("nan"), 5.0]}
    clients = Clients.from_arrays({"nobody": CLIENTS["nobody"], "ann": bad}, may_be_nan=["rating"])
    with pytest.raises(
        ValueError, match="the loss must be finite at the start, got nan at example 1 of client 'ann'"
    ):
        check(clients=clients)


def test_given_parameters_that_are_not_finite():
    start = {"item": {**START["item"], "factors": jnp.full((6, 2), jnp.inf)}}
    with pytest.raises(ValueError, match="the loss must be finite at the start"):
        check(global_params=start)


def test_local_parameters_that_are_not_finite():
    with pytest.raises(ValueError, match="local parameter 'user' must be finite"):
        check(replace(MODEL, init_local=lambda g, key: {"user": jnp.full(2, jnp.nan)}))


def test_gradient_that_is_not_finite():
    with pytest.raises(ValueError, match="gradient by the local 'user' must be finite"):
        check(with_loss(lambda g, x, batch: jnp.sqrt(jnp.sum(0 * x["user"]))))


def test_gradient_that_padding_spoils():
    with pytest.raises(ValueError, match=r"gradient by .* must be finite .* in rows of padding"):
        check(with_loss(lambda g, x, batch: jnp.log(batch["rating"]) * jnp.sum(x["user"])))


def test_penalty_that_is_no_scalar():
    with pytest.raises(ValueError, match=r"penalty must be a scalar, got the shape \(2,\)"):
        check(replace(MODEL, penalty=lambda g, x: x["user"]))


# ---- tables ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tables", "message"),
    [
        ((Table("item/factor", ("item",)),), "leaf 'item/factor', .*; did you mean 'item/factors'"),
        ((Table("item/factors", ("itm",)),), "field 'itm', .*; did you mean 'item'"),
        ((Table("item/factors", ()),), "fields of the table 'item/factors' must be a tuple of names"),
    ],
    ids=["leaf", "field", "none"],
)
def test_unknown_names(tables, message):
    with pytest.raises(ValueError, match=message):
        check(replace(MODEL, tables=tables))


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (lambda g, x, batch: batch["item"] == 0, "the loss changes .* the field 'item' must index"),
        (lambda g, x, batch: jnp.where(batch["item"] < 2, 3.0, 0.0), "the loss changes .* 'item' must index"),
        (
            lambda g, x, batch: x["user"].sum() * batch["item"],
            "the loss changes .* the field 'item' must index",
        ),
        (lambda g, x, batch: 1.0 / g["item"]["bias"].shape[0], "the loss changes .* the field 'item' must"),
        (lambda g, x, batch: g["item"]["bias"][5], "the loss reads rows of the table 'item/bias' that no"),
        (
            lambda g, x, batch: 1e-3 * jnp.sum(g["item"]["factors"] ** 2),
            "reads rows of the table 'item/factors'",
        ),
        (
            lambda g, x, batch: (
                jax.nn.one_hot(batch["other"], 6) @ jnp.ones((g["item"]["bias"].shape[0], 1))[:, 0]
            ),
            "the model fails where the table .* has only the rows",
        ),
    ],
    ids=["equal", "compared", "number", "size", "row", "all rows", "shape"],
)
def test_field_used_for_more_than_indexing(extra, message):
    with pytest.raises(ValueError, match=message):
        check(with_loss(extra))


def test_the_field_to_blame_is_found_among_several():
    tables = (Table("item/factors", ("item", "other")), Table("item/bias", ("item",)))
    model = with_loss(
        lambda g, x, batch: g["item"]["factors"][batch["other"]].sum(-1) + batch["other"], tables=tables
    )
    with pytest.raises(
        ValueError, match="'item/bias' or 'item/factors' are renumbered: the field 'other' must"
    ):
        check(model)


def test_field_that_also_indexes_a_leaf_that_is_no_table():
    with pytest.raises(
        ValueError, match=r"'item/factors' are renumbered: the field 'item' must .* leaf that is no"
    ):
        check(replace(MODEL, tables=MODEL.tables[:1]))


def test_field_used_in_a_metric():
    def metrics(g, x, batch):
        return {"first": Mean.of((batch["item"] == 1).astype(jnp.float32))}

    with pytest.raises(ValueError, match=r"the metric 'first' changes .* the field 'item' must index"):
        check(replace(MODEL, metrics=metrics))


def test_gradient_that_depends_on_the_number():
    def extra(g, x, batch):
        return (x["user"].sum() - jax.lax.stop_gradient(x["user"].sum())) * batch["item"]

    with pytest.raises(ValueError, match="the gradient by the local 'user' changes"):
        check(with_loss(extra))


def test_penalty_that_reads_a_table():
    model = replace(MODEL, penalty=lambda g, x: jnp.sum(jnp.square(g["item"]["factors"])))
    with pytest.raises(
        ValueError, match=r"penalty reads rows of the table 'item/factors' that no field in \['item'\]"
    ):
        check(model)


def test_local_parameters_that_are_made_from_a_table():
    model = replace(MODEL, init_local=lambda g, key: {"user": g["item"]["factors"].mean(0)})
    with pytest.raises(ValueError, match="init_local reads the table 'item/factors'"):
        check(model)


def _centred(masked):
    """A loss with a statistic of its batch, whose minimum in g is the mean of x."""

    def loss(p, batch, key=None):
        mask = batch[EXAMPLE_MASK][:, None] if masked else jnp.ones_like(batch["x"])
        mean = jnp.sum(batch["x"] * mask) / jnp.maximum(jnp.sum(mask), 1)
        return Mean.of(0 * batch["x"][:, 0] + jnp.square(p["g"] - mean) + 0 * p["l"])

    return loss


def _model_of(loss, metrics=None):
    init = {"g": 0.0, "l": 0.0}
    return fr.partition(lambda key: jax.tree.map(jnp.asarray, init), loss, metrics, local=fr.is_local("l"))


def _fitted(model):
    rng = np.random.default_rng(0)
    clients = fr.Clients.from_arrays(
        {i: {"x": rng.normal(5, 1, (3 + i % 6, 1)).astype(np.float32)} for i in range(20)}
    )
    sgd = fr.optimizer("sgd", learning_rate=0.1)
    algorithm = fr.fedavg(model, fr.Solver(sgd, batch_size=8), fr.optimizer("sgd", learning_rate=1.0))
    return float(fr.train(algorithm, clients, rounds=20, clients_per_round=20).global_params[0]["g"])


def test_a_loss_that_padding_changes_is_refused_and_one_that_reads_the_mask_trains():
    rule = r"the loss of an example must not depend on rows of padding .* of client 0 is .* batch\['example_"
    with pytest.raises(ValueError, match=rule):
        _fitted(_model_of(_centred(masked=False)))
    assert abs(_fitted(_model_of(_centred(masked=True))) - 5) < 0.15


@pytest.mark.parametrize(
    "other_rows",
    [
        lambda x: jax.nn.logsumexp(x @ x.T, axis=1),  # the other rows as negatives
        lambda x: jnp.square(x - jnp.mean(x, 0)).sum(1),
        lambda x: jnp.square(x / (jnp.std(x, 0) + 1)).sum(1),
        lambda x: jnp.abs(x - x[::-1]).sum(1),
    ],
    ids=["contrastive", "mean", "deviation", "neighbour"],
)
@pytest.mark.parametrize("where", ["loss", "metric"])
def test_whatever_looks_at_other_rows_is_found(other_rows, where):
    def loss(p, batch, key=None):
        return Mean.of(jnp.square(p["g"] - batch["x"][:, 0]) + 0 * p["l"])

    def looks(p, batch, key=None):
        return Mean.of(other_rows(batch["x"]) + p["g"] + p["l"])

    model = _model_of(looks) if where == "loss" else _model_of(loss, lambda p, batch: {"m": looks(p, batch)})
    with pytest.raises(ValueError, match=r"must not depend on rows of padding in its batch"):
        _fitted(model)


def test_a_field_of_the_masks_name_is_refused():
    clients = fr.Clients.from_arrays({0: {"x": np.ones((3, 1), np.float32), EXAMPLE_MASK: np.ones(3)}})
    sgd = fr.optimizer("sgd", learning_rate=0.1)
    algorithm = fr.fedavg(_model_of(_centred(True)), fr.Solver(sgd, 8), sgd)
    with pytest.raises(ValueError, match="must not have the field 'example_mask'"):
        fr.Simulation(algorithm, clients, fr.Uniform(1)).init()
