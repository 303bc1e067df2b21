"""What leaves a client is an `Update` and nothing else, of shapes that tell nothing about its data."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tests.small import ITEMS, examples, federation, rating_model, sgd, solver

from fedrecon.algorithms._base import Algorithm, Broadcast, Update
from fedrecon.algorithms._fedavg import fedavg
from fedrecon.algorithms._fedrecon import fedrecon
from fedrecon.core._costs import COSTS
from fedrecon.core._mean import Mean
from fedrecon.core._model import leaves_of
from fedrecon.core._splits import AlternateBatches, RandomFraction
from fedrecon.solvers._newton import Newton

CLIENTS = federation()
SECRET = 1234.5678  # nowhere else among the numbers
ALGORITHMS = {
    "joint": lambda model: fedrecon(model, solver(), solver(), sgd(1.0), AlternateBatches(2), joint=True),
    "newton": lambda model: fedrecon(model, Newton(), solver(), sgd(1.0), RandomFraction()),
    "fedavg": lambda model: fedavg(model, solver(), sgd(1.0)),
}


@pytest.fixture(scope="module", params=ALGORITHMS)
def algorithm(request):
    return ALGORITHMS[request.param](rating_model(scale=True))


@pytest.fixture(scope="module")
def sent(algorithm: Algorithm):
    """`sent(data)`: what a client with these examples returns, and the global parameters it got."""
    params = algorithm.init(jax.random.key(0)).global_params
    run = jax.jit(
        lambda given: algorithm.client_update(Broadcast(params, jnp.int32(0)), (), given, jax.random.key(1))
    )
    return lambda given: (*jax.device_get(run(given)), params)


def test_it_is_exactly_an_update(sent):
    update, kept, params = sent(examples(CLIENTS, "c8", 13))
    assert type(update) is Update
    assert Update._fields == ("delta", "rows", "metrics", "statistics")
    assert kept == ()
    assert type(update.delta) is Mean
    assert jax.tree.map(np.shape, update.delta.total) == jax.tree.map(np.shape, params)
    assert np.shape(update.delta.weight) == ()
    assert update.rows == {}  # the client got whole tables
    assert update.statistics == ()
    assert set(update.metrics) - set(COSTS) == {"loss", "mse", "hits", "dropped", "empty"}
    for mean in update.metrics.values():
        assert type(mean) is Mean
        assert np.shape(mean.total) == np.shape(mean.weight) == ()


def test_no_example_is_among_its_leaves(sent):
    """A rating that cannot be mistaken shapes the delta and the sums, but does not come out as it is."""
    given = examples(CLIENTS, "c8", 13)
    given.data["rating"][[0, 2]] = (
        SECRET  # in the support and in the query set of all splits but a random one
    )
    update, _, _ = sent(given)
    numbers = np.concatenate([np.ravel(x) for x in jax.tree.leaves(update)])
    assert np.isfinite(numbers).all()
    for value in (SECRET, *given.data["item"][given.mask][1:]):
        if value > 5:  # smaller ones are counts too
            assert not np.isclose(numbers, value, rtol=1e-5).any()
    assert sent(examples(CLIENTS, "c8", 13))[0].metrics["loss"] != update.metrics["loss"]


def test_local_parameters_stay_where_they_are():
    """They start at a secret that the examples never touch; a stage that does not move leaves it whole."""
    model = rating_model(scale=True)
    calls = []

    def keep(objective, params, given, key, round=None):
        calls.append(params)
        return {"user": jnp.array([SECRET, -SECRET])}, {"loss": Mean(jnp.zeros(()), jnp.zeros(()))}

    algorithm = fedrecon(model, keep, solver(1e-9), sgd(1.0), AlternateBatches(2), joint=True)
    params = algorithm.init(jax.random.key(0)).global_params
    update, kept = jax.jit(
        lambda given: algorithm.client_update(Broadcast(params, jnp.int32(0)), (), given, jax.random.key(1))
    )(examples(CLIENTS, "c8", 13))
    assert calls
    assert kept == ()
    assert set(leaves_of(update.delta.total)) == {"item/factors", "item/bias", "scale"}
    numbers = np.abs(np.concatenate([np.ravel(x) for x in jax.tree.leaves(update)]))
    assert not np.isclose(numbers, SECRET, rtol=1e-4).any()
    assert update.metrics["mse"].total > SECRET  # it was used


def test_of_a_table_only_the_touched_rows_move(sent):
    update, _, _ = sent(examples(CLIENTS, "c8", 13))
    moved = next(x for path, x in leaves_of(update.delta.total).items() if path.endswith("item/bias"))
    touched = np.zeros(ITEMS, bool)
    touched[CLIENTS["c8"]["item"]] = True
    assert not moved[~touched].any()
    assert moved.any()
