"""Leaves that no gradient reaches are told, unless they are declared frozen."""

import warnings
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fedrecon as fr
from fedrecon.simulation._validation.untrained_leaves import check_untrained

BATCH = {"x": np.ones((4, 2), np.float32), "y": np.ones(4, np.float32)}
CLIENTS = fr.Clients.from_arrays(dict.fromkeys(range(6), BATCH))
SGD = fr.optimizer("sgd", learning_rate=0.1)
SOLVER = fr.Solver(SGD, 2)


def init(key: Any) -> Any:
    return {"w": jnp.zeros(2), "statistics": {"mean": jnp.zeros(2)}, "bias": jnp.zeros(())}


def predict(p: Any, batch: Any) -> Any:
    return batch["x"] @ p["w"] + p["bias"]


def unused(p: Any, batch: Any, key: Any = None) -> fr.Mean:
    return fr.Mean.of(jnp.square(predict(p, batch) - batch["y"]))


def stopped(p: Any, batch: Any, key: Any = None) -> fr.Mean:
    mean = jax.lax.stop_gradient(p["statistics"]["mean"])
    return fr.Mean.of(jnp.square(predict(p, {"x": batch["x"] - mean}) - batch["y"]))


def looped(p: Any, batch: Any, key: Any = None) -> fr.Mean:
    def step(total: Any, mean: Any) -> Any:
        return total + predict(p, {"x": batch["x"] - jax.lax.stop_gradient(p["statistics"]["mean"])}), None

    total = jax.lax.scan(step, jnp.zeros(len(batch["x"])), jnp.zeros(3))[0]
    return fr.Mean.of(jnp.square(total - batch["y"]))


def model_of(loss: Any, **others: Any) -> fr.Model:
    return fr.partition(init, loss, local=fr.is_local("bias"), **others)


def reconstruction(model: fr.Model) -> fr.Algorithm:
    return fr.fedrecon(model, SOLVER, SOLVER, SGD, fr.AlternateBatches(2))


@pytest.mark.parametrize("loss", [unused, stopped, looped])
@pytest.mark.parametrize(
    "algorithm", [reconstruction, lambda model: fr.fedavg(model, SOLVER, SGD)], ids=["fedrecon", "fedavg"]
)
def test_a_leaf_without_a_gradient_is_told_once(loss, algorithm):
    model = model_of(loss)
    with pytest.warns(
        RuntimeWarning, match="the global parameter 'statistics/mean': the loss has no gradient"
    ):
        fr.train(algorithm(model), CLIENTS, 1)
    fr.train(algorithm(model), CLIENTS, 1)  # warnings are errors here


def test_a_local_leaf_is_told_too():
    model = fr.Model(
        init_global=lambda key: jnp.zeros(2),
        init_local=lambda g, key: {"used": jnp.zeros(()), "left": jnp.zeros(())},
        loss=lambda g, x, b, key: fr.Mean.of(jnp.square(b["x"] @ g + x["used"] - b["y"])),
        metrics=lambda g, x, b: {},
    )
    with pytest.warns(RuntimeWarning, match="the local parameter 'left': the loss has no gradient there"):
        fr.train(reconstruction(model), CLIENTS, 1)


@pytest.mark.parametrize("loss", [unused, stopped, looped])
def test_what_is_declared_frozen_is_not_told(loss):
    result = fr.train(reconstruction(model_of(loss, frozen=("statistics",))), CLIENTS, 2)
    assert not np.any(result.global_params["statistics"]["mean"])


def test_a_frozen_leaf_gets_no_gradient_and_stays():
    def used(p: Any, batch: Any, key: Any = None) -> fr.Mean:
        return fr.Mean.of(jnp.square(predict(p, batch) + p["statistics"]["mean"].sum() - batch["y"]))

    def penalty(p: Any) -> Any:
        return jnp.sum(jnp.square(p["w"] - 1)) + jnp.sum(jnp.square(p["statistics"]["mean"] - 1))

    moved = fr.train(reconstruction(model_of(used, penalty=penalty)), CLIENTS, 2).global_params
    frozen = model_of(used, penalty=penalty, frozen=("statistics/mean",))
    held = fr.train(reconstruction(frozen), CLIENTS, 2).global_params
    assert np.all(moved["statistics"]["mean"] != 0) and np.all(held["statistics"]["mean"] == 0)
    assert np.all(held["w"] != 0)


def test_a_declaration_that_is_not_true_is_refused():
    model = fr.Model(
        init_global=lambda key: {"w": jnp.zeros(2)},
        init_local=lambda g, key: jnp.zeros(()),
        loss=lambda g, x, b, key: fr.Mean.of(jnp.square(b["x"] @ g["w"] + x - b["y"])),
        metrics=lambda g, x, b: {},
        frozen=("0/w",),
    )
    with pytest.raises(
        ValueError, match="the global parameter 'w' is declared frozen, but the loss has a gradi"
    ):
        fr.train(reconstruction(model), CLIENTS, 1)


def test_a_gradient_that_is_zero_at_the_start_alone_is_a_gradient():
    def low_rank(p: Any, batch: Any, key: Any = None) -> fr.Mean:
        return fr.Mean.of(jnp.square(batch["x"] @ p["a"] * p["b"] + p["bias"] - batch["y"]))

    start = {"a": jnp.ones(2), "b": jnp.zeros(()), "bias": jnp.ones(())}
    check_untrained(
        fr.partition(lambda key: start, low_rank, local=fr.is_local("bias")), BATCH, jax.random.key(0)
    )


def test_a_leaf_that_local_parameters_start_from_is_trained_by_some_algorithms():
    model = fr.Model(
        init_global=lambda key: {"w": jnp.zeros(2), "start": jnp.ones(())},
        init_local=lambda g, key: 2 * g["start"],
        loss=lambda g, x, b, key: fr.Mean.of(jnp.square(b["x"] @ g["w"] + x - b["y"])),
        metrics=lambda g, x, b: {},
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_untrained(model, BATCH, jax.random.key(0))


def test_a_frozen_leaf_that_local_parameters_start_from_is_allowed_and_stays():
    model = fr.Model(
        init_global=lambda key: {"w": jnp.zeros(2), "e": jnp.full((), 2.0)},
        init_local=lambda g, key: {"b": g["e"]},
        loss=lambda g, x, b, key: fr.Mean.of(jnp.square(b["x"] @ g["w"] + x["b"] - b["y"])),
        metrics=lambda g, x, b: {},
        frozen=("0/e",),
    )
    # Full gradients are taken through the steps of a reconstruction, back to its start.
    for make in (fr.fedrecon, fr.full_gradient):
        algorithm = make(model, SOLVER, SOLVER, SGD, fr.AlternateBatches(2))
        trained = fr.train(algorithm, CLIENTS, 1).global_params
        assert trained["e"] == 2 and np.all(trained["w"] != 0)
