"""Federated Reconstruction falls back to what is older where there is nothing to reconstruct."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tests.small import ITEMS, Given, examples, federation, rating_model, sgd, solver

from fedrecon.algorithms._base import Broadcast
from fedrecon.algorithms._building_blocks import uniform
from fedrecon.algorithms._fedavg import fedavg
from fedrecon.algorithms._fedrecon import fedrecon
from fedrecon.core._mean import Mean
from fedrecon.core._model import Model, Table, fully_global, without_tables
from fedrecon.core._splits import NoSplit
from fedrecon.simulation._simulation import Simulation
from fedrecon.solvers._gradient import Solver
from fedrecon.solvers._optimizers import optimizer

CLIENTS = federation(repeats=True)


def compiled(algorithm, params):
    """What a client sends, by its name."""
    key = jax.random.key(0)
    run = jax.jit(lambda given: algorithm.client_update(Broadcast(params, jnp.int32(0)), (), given, key)[0])
    return lambda name: jax.device_get(run(examples(CLIENTS, name, 13)))


def assert_close(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-6, atol=1e-7), a, b)


@pytest.mark.parametrize(
    "update", [solver(0.1, 3, epochs=2), Solver(optimizer("adam", learning_rate=0.1), 4)], ids=repr
)
def test_without_local_parameters_and_unsplit_it_is_fedavg(update):
    model = rating_model(two_fields=True, scale=True)
    average = fedavg(model, update, sgd(1.0))
    alone = fedrecon(fully_global(model), solver(), update, sgd(1.0), NoSplit())
    params = jax.jit(average.init)(jax.random.key(0)).global_params
    one, other = compiled(average, params), compiled(alone, params)
    for name in ("c8", "c4", "c0"):
        assert_close(one(name), other(name))


def test_joint_training_without_local_parameters_is_fedavg_by_rows():
    """All that is trained is a table of which every step sees other rows: its updates are made at once."""

    def error(g, batch):
        return Mean.of(jnp.square(g["bias"][batch["item"]] - batch["rating"]))

    model = Model(
        init_global=lambda key: {"bias": jnp.arange(float(ITEMS))},
        init_local=lambda g, key: (),
        loss=lambda g, x, batch, key: error(g, batch),
        metrics=lambda g, x, batch: {"mse": error(g, batch)},
        tables=(Table("bias", ("item",)),),
    )
    joint = fedrecon(model, solver(), solver(), sgd(1.0), NoSplit(), joint=True)
    after = []
    for algorithm in (fedavg(model, solver(), sgd(1.0)), joint):
        simulation = Simulation(algorithm, federation(lengths=(3, 9)), Given([[0, 1]]))
        after.append(jax.tree.leaves(next(simulation.rounds(simulation.init(), 1)).state.global_params))
    assert_close(*after)


def test_a_client_with_one_batch_takes_a_step_of_sgd():
    """By hand: the local vector steps on all five ratings, then the rows that they touch do."""
    data, rate = CLIENTS["c4"], 0.1
    model = without_tables(rating_model())
    algorithm = fedrecon(
        model, solver(rate, None), solver(rate, None), sgd(1.0), NoSplit(), client_weight=uniform
    )
    params = jax.jit(model.init_global)(None)
    V, b, u = (np.float64(x) for x in (params["item"]["factors"], params["item"]["bias"], [0.5, -0.2]))
    item, rating = data["item"], data["rating"]

    def slopes(u):
        return 2 * (V[item] @ u + b[item] - rating) / len(item)

    u = u - rate * (slopes(u) @ V[item] + 0.2 * u / len(item))  # with the penalty's share
    delta_V, delta_b = np.zeros_like(V), np.zeros_like(b)
    np.add.at(delta_V, item, -rate * slopes(u)[:, None] * u)
    np.add.at(delta_b, item, -rate * slopes(u))
    update = compiled(algorithm, params)("c4")
    np.testing.assert_allclose(update.delta.total["item"]["factors"], delta_V, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(update.delta.total["item"]["bias"], delta_b, rtol=1e-4, atol=1e-6)
    assert update.delta.weight == 1
    np.testing.assert_allclose(
        update.metrics["mse"].total, np.sum((slopes(u) * len(item) / 2) ** 2), rtol=1e-5
    )
    assert np.count_nonzero(delta_b) == len(np.unique(item)) < ITEMS
