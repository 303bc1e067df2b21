"""The parts that algorithms share: what a client sends, what the server does, which tables stay."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from tests.small import rating_model, sgd, solver

from fedrecon.algorithms._base import Algorithm, Broadcast, ServerState, Update
from fedrecon.algorithms._building_blocks import (
    WeightedMean,
    by_examples,
    cost_of,
    server,
    solve_delta,
    subkeys,
    uniform,
    update_of,
    with_usable_tables,
)
from fedrecon.algorithms._fedavg import fedavg
from fedrecon.algorithms._fedrecon import fedrecon
from fedrecon.core._costs import COSTS
from fedrecon.core._examples import Examples
from fedrecon.core._mean import Mean
from fedrecon.core._model import Objective, Table
from fedrecon.core._splits import NoSplit
from fedrecon.solvers._gradient import Solver
from fedrecon.solvers._newton import Newton
from fedrecon.solvers._optimizers import optimizer

ADAM = optimizer("adam", learning_rate=0.1)
LOSS = Mean(jnp.array(6.0), jnp.array(3.0))


def sent(delta, metrics, **others):
    return update_of({"w": jnp.asarray(delta)}, {}, metrics, **others)


def test_a_client_sends_its_weighted_delta():
    update = sent([1.0, -2.0], {"loss": LOSS})
    np.testing.assert_array_equal(update.delta.total["w"], [3, -6])
    assert update.delta.weight == 3
    assert update.rows == {}
    assert update.statistics == ()
    assert update.metrics == {"loss": LOSS, "dropped": Mean(0, 1), "empty": Mean(0, 1)}


@pytest.mark.parametrize("spoilt", ["delta", "metric", "weight"])
def test_what_is_not_finite_is_dropped_and_counted(spoilt):
    delta = [1.0, np.inf] if spoilt == "delta" else [1.0, 2.0]
    other = Mean(jnp.array(np.nan if spoilt == "metric" else 1.0), jnp.array(3.0))
    weigh = (lambda loss: jnp.array(np.nan)) if spoilt == "weight" else by_examples
    update = sent(delta, {"loss": LOSS, "other": other}, client_weight=weigh)
    np.testing.assert_array_equal(update.delta.total["w"], [0, 0])
    assert update.delta.weight == 0
    assert update.metrics.pop("dropped") == Mean(1, 1)
    assert all(x == Mean(0, w) for (n, x) in update.metrics.items() for w in [1 if n == "empty" else 0])


def test_a_client_without_query_examples_is_counted():
    update = sent([0.0, 0.0], {"loss": Mean(jnp.array(0.0), jnp.array(0.0))})
    assert update.metrics["empty"] == Mean(1, 1)
    assert update.metrics["dropped"] == Mean(0, 1)


def test_the_work_of_all_stages_is_counted_also_of_who_is_dropped():
    examples = Examples({}, jnp.ones(5, bool))
    first, own = cost_of(solver(), examples, 0), cost_of(Newton(2), examples, 0)
    update = sent([np.nan], {"loss": LOSS} | first, other_costs=own)
    found = {name: float(update.metrics[name].total) for name in COSTS}
    assert found == {"gradient_steps": 3, "solves": 2, "example_passes": 15}
    assert update.metrics["dropped"] == Mean(1, 1)
    assert cost_of(lambda *_: None, examples, 0) == {}
    assert cost_of(solver(), examples, 0, ()) == {}  # no local parameters


def test_client_weights():
    assert [by_examples(Mean(jnp.array(1.0), jnp.array(w))) for w in (0.0, 5.0)] == [0, 5]
    assert [uniform(Mean(jnp.array(1.0), jnp.array(w))) for w in (0.0, 5.0)] == [0, 1]


def summed(total, weight):
    return Update(Mean({"item": jnp.asarray(total)}, jnp.float32(weight)), {}, {})


def test_the_server_steps_along_the_mean_delta():
    model = replace(rating_model(), init_global=lambda key: {"item": jnp.array([1.0, 2.0])})
    init, server_update = server(model, sgd(0.5), WeightedMean())
    state = server_update(init(jax.random.key(0)), summed([8.0, -4.0], 4.0))
    np.testing.assert_allclose(state.global_params["item"], [1 + 0.5 * 2, 2 - 0.5])
    assert state.round == 1
    assert state.round.dtype == jnp.int32


def test_a_round_without_weight_changes_nothing_but_its_number():
    model = replace(rating_model(), init_global=lambda key: {"item": jnp.array([1.0, 2.0])})
    init, server_update = server(model, ADAM, WeightedMean())
    before = server_update(init(jax.random.key(0)), summed([8.0, -4.0], 4.0))
    after = server_update(before, summed([0.0, 0.0], 0.0))
    assert after.round == 2
    jax.tree.map(np.testing.assert_array_equal, before._replace(round=after.round), after)
    assert isinstance(after, ServerState)


def test_an_aggregator_with_a_state():
    class Half:
        def init(self, global_params):
            return jnp.zeros(())

        def __call__(self, state, update):
            return jax.tree.map(lambda x: -x / 2, update.delta.total), state + 1

    model = replace(rating_model(), init_global=lambda key: {"item": jnp.zeros(2)})
    init, server_update = server(model, sgd(1.0), Half())
    state = server_update(init(jax.random.key(0)), summed([8.0, -4.0], 4.0))
    np.testing.assert_allclose(state.global_params["item"], [4, -2])
    assert state.aggregator_state == 1


def test_keys_differ():
    keys = [*subkeys(jax.random.key(0), 3), *subkeys(jax.random.key(0), 2, first=3)]
    assert len({tuple(jax.random.key_data(k).tolist()) for k in keys}) == 5


def test_displacement_of_a_stage_of_ones_own():
    def solver(objective, params, examples, key, round=None):
        return params + 3, {"loss": LOSS}

    examples = Examples({"x": jnp.ones(2)}, jnp.ones(2, bool))
    delta, rows, metrics = solve_delta(
        solver, Objective(lambda *args: None), jnp.ones(2), examples, jax.random.key(0), 0
    )
    np.testing.assert_array_equal(delta, [3, 3])
    assert (rows, metrics) == ({}, {"loss": LOSS})


# ---- tables ----------------------------------------------------------------------------------------------


def test_tables_stay_where_the_update_can_be_given_rows():
    model = rating_model()
    assert with_usable_tables(model, solver()) is model
    assert with_usable_tables(model, Solver(ADAM, 2)) is model


@pytest.mark.parametrize(
    ("update", "shown"),
    [
        (Solver(optax.lars(0.1), 2), "Solver(optax:chain, batch_size=2)"),
        (lambda objective, params, examples, key, round=None: (params, {}), "<function"),
    ],
    ids=["lars", "a function"],
)
def test_tables_are_dense_where_it_cannot_and_it_is_said_once(update, shown):
    with pytest.warns(UserWarning, match="does not treat the rows of a table") as caught:
        model = with_usable_tables(rating_model(), update)
    assert model.tables == ()
    assert len(caught) == 1
    assert str(caught[0].message).startswith(shown)


@pytest.mark.parametrize(
    "make", [fedavg, lambda *args: fedrecon(args[0], solver(), *args[1:])], ids=["fedavg", "fedrecon"]
)
def test_unknown_leaf_in_tables(make):
    model = replace(rating_model(), tables=(Table("item/factor", ("item",)),))
    with pytest.raises(
        ValueError, match=r"leaf '(0/)?item/factor', but .*; did you mean '(0/)?item/factors'"
    ):
        make(model, solver(), sgd(1.0))


# ---- records ---------------------------------------------------------------------------------------------


def test_algorithms_print_their_hyperparameters():
    algorithm = fedrecon(rating_model(), Newton(), solver(0.5, 5), ADAM, NoSplit(), client_weight=uniform)
    assert isinstance(algorithm, Algorithm)
    assert repr(algorithm) == (
        "fedrecon(reconstruct=Newton(iterations=1, damping=0.0), "
        "update=Solver(sgd(learning_rate=0.5), batch_size=5), server_optimizer=adam(learning_rate=0.1), "
        "split=NoSplit(), joint=False, client_weight=uniform, aggregator=WeightedMean())"
    )
    assert repr(fedavg(rating_model(), solver(), optax.sgd(1.0))) == (
        "fedavg(update=Solver(sgd(learning_rate=0.1), batch_size=2), server_optimizer=optax:chain, "
        "client_weight=by_examples, aggregator=WeightedMean())"
    )


def test_clients_of_both_algorithms_keep_nothing():
    for algorithm in (
        fedavg(rating_model(), solver(), ADAM),
        fedrecon(rating_model(), solver(), solver(), ADAM),
    ):
        assert algorithm.init_client_state({}, jax.random.key(0)) == ()


def test_fedavg_has_nothing_personal():
    algorithm = fedavg(rating_model(), solver(), ADAM)
    support = Examples({"x": jnp.ones(2)}, jnp.ones(2, bool))
    assert algorithm.personalize(Broadcast({}, jnp.int32(0)), (), support, jax.random.key(0)) == ()
    assert algorithm.personal_model is algorithm.model
