"""The engine's own promises: its records of a round, its errors, and what it lets others do meanwhile."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import optax.contrib
import pytest
from tests.small import FACTORS, ITEMS, Given, federation, rating_model, sgd, solver

from fedrecon.algorithms._fedrecon import fedrecon
from fedrecon.core._mean import Mean
from fedrecon.core._model import without_tables
from fedrecon.core._splits import AlternateBatches
from fedrecon.data._clients import Clients
from fedrecon.data._sampling import Passes, Poisson, Uniform, Weighted
from fedrecon.errors import DataError
from fedrecon.simulation._block_plan import Plan, Slot, plan_blocks
from fedrecon.simulation._simulation import Simulation

CLIENTS = federation(lengths=(0, 3, 5, 8))
ALGORITHM = fedrecon(rating_model(), solver(), solver(), sgd(1.0), AlternateBatches(2))
PLAN = Plan((Slot(1, 3, 8),))


@pytest.fixture(scope="module")
def simulation():
    return Simulation(ALGORITHM, CLIENTS, Passes(3), seed=1, plan=PLAN)


@pytest.fixture(scope="module")
def start(simulation):
    return simulation.init()


@pytest.fixture(scope="module")
def rounds(simulation, start):
    return list(simulation.rounds(start, 4))


def test_rounds_are_counted_from_one(rounds):
    assert [r.number for r in rounds] == [1, 2, 3, 4]
    assert [int(r.state.round) for r in rounds] == [1, 2, 3, 4]
    assert [r.clients for r in rounds] == [3, 1, 3, 1]


def test_a_round_goes_on_from_any_state(simulation, rounds):
    (again,) = simulation.rounds(rounds[1].state, 1)
    assert again.number == 3
    jax.tree.map(np.testing.assert_array_equal, again.state, rounds[2].state)


def test_stateless_clients_keep_nothing(simulation):
    assert simulation.client_states is None


def test_blocks_are_planned_for_the_cohorts_that_are_drawn():
    counts = np.array([1] * 180 + [40] * 12)  # by examples nearly three of four draws are of the twelve
    columns = {"item": np.zeros(660, np.int32), "rating": np.ones(660, np.float32)}
    clients = Clients.from_columns(np.arange(192), [0, *np.cumsum(counts)], columns)
    devices = jax.local_device_count()
    for sampling in (Uniform(8), Poisson(8)):
        alike = plan_blocks(counts, sampling.most(192)).in_parts(devices)
        assert Simulation(ALGORITHM, clients, sampling).plan == alike
    samplings = Uniform(8), Weighted(8)
    plans = [Simulation(ALGORITHM, clients, x, clients_per_block=1, devices=1).plan for x in samplings]
    room = [sum(slot.capacity for slot in plan.slots if slot.length == 40) for plan in plans]
    assert room[0] < 6 < room[1]


def test_no_rounds(simulation, start):
    assert list(simulation.rounds(start, 0)) == []


def test_metrics_of_a_round(simulation, start, rounds):
    cohort = Passes(3).indices(0, CLIENTS.num_examples, 1)
    metrics = rounds[0].metrics()
    assert set(metrics) == {"loss", "mse", "hits", "dropped", "empty", "gradient_steps", "example_passes"}
    assert metrics["dropped"] == Mean(0, 3)
    assert metrics["empty"] == Mean(np.sum(CLIENTS.num_examples[cohort] <= 2), 3)
    # Alternate batches of two: of 3, 5 and 8 examples 1, 2 and 4 are query.
    query = np.array([0, 1, 2, 4])[cohort].sum()
    assert metrics["mse"].weight == metrics["loss"].weight == query
    assert all(isinstance(x, np.float64) for mean in metrics.values() for x in mean)


def test_bytes_of_a_round(rounds):
    cohort = Passes(3).indices(0, CLIENTS.num_examples, 1)
    rows, row = CLIENTS.num_examples[cohort].sum(), 4 * (FACTORS + 1)
    assert rounds[0].bytes_down == rows * row
    assert rounds[0].bytes_up == rows * (row + 4)
    assert rounds[0].dense_bytes_down == rounds[0].dense_bytes_up == 3 * ITEMS * row


def test_bytes_without_tables_are_those_of_everything():
    model = rating_model(scale=True)
    algorithm = fedrecon(without_tables(model), solver(), solver(), sgd(1.0))
    simulation = Simulation(algorithm, CLIENTS, Given([[]]), plan=PLAN)
    weight = 4 * (ITEMS * (FACTORS + 1) + 1)
    assert simulation._sizes.dense == weight
    assert simulation._sizes.of(3, {}) == (3 * weight, 3 * weight)


def test_an_empty_cohort_changes_nothing_but_the_number(simulation, start):
    sampling, simulation.sampling = simulation.sampling, Given([np.zeros(0, int)])
    (done,) = simulation.rounds(start, 1)
    simulation.sampling = sampling
    assert done.clients == done.bytes_down == 0
    assert done.metrics()["loss"] == Mean(0, 0)
    assert done.state.round == 1
    jax.tree.map(np.testing.assert_array_equal, done.state.global_params, start.global_params)


def test_start_from_the_seed_or_from_given_parameters(simulation, start):
    jax.tree.map(np.testing.assert_array_equal, simulation.init(), start)
    given = jax.tree.map(lambda x: np.asarray(x) + 1, start.global_params)
    jax.tree.map(np.testing.assert_array_equal, simulation.init(given).global_params, given)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"item": {"factors": np.ones((ITEMS, FACTORS))}}, "must have the model's structure"),
        (
            {"item": {"factors": np.ones((ITEMS, 3)), "bias": np.ones(ITEMS)}},
            r"initial global parameter 'item/factors' must be of shape \(40, 2\), got \(40, 3\)",
        ),
        (
            {"item": {"factors": np.full((ITEMS, FACTORS), np.nan), "bias": np.ones(ITEMS)}},
            "must be finite at the start",
        ),
        (
            {"item": {"factors": np.ones((ITEMS, FACTORS)), "bias": np.ones(ITEMS, np.int32)}},
            "initial global parameter 'item/bias' must be of type float32, as the model's own, got int32",
        ),
        (
            {"item": {"factors": np.ones((ITEMS, FACTORS)), "bias": np.ones(ITEMS, np.float16)}},
            "initial global parameter 'item/bias' must be of type float32, as the model's own, got float16",
        ),
    ],
    ids=["structure", "shape", "value", "whole numbers", "half precision"],
)
def test_given_parameters_that_are_refused(simulation, given, message):
    with pytest.raises(ValueError, match=message):
        simulation.init(given)


class _Momentum:
    """An aggregator whose state is a copy of the parameters."""

    def init(self, global_params):
        return global_params

    def __call__(self, state, update):
        return jax.tree.map(jnp.negative, update.delta.value()), state


@pytest.mark.parametrize(
    "optimizer",
    [
        optax.contrib.schedule_free_sgd(0.5),
        optax.contrib.prodigy(0.5),
        optax.contrib.dog(),
        optax.contrib.dadapt_adamw(0.5),
        optax.adam(0.5),
    ],
    ids=["schedule-free", "prodigy", "dog", "dadapt", "adam"],
)
def test_the_servers_state_is_made_for_the_given_start(optimizer):
    algorithm = fedrecon(rating_model(), solver(), solver(), optimizer, aggregator=_Momentum())
    simulation = Simulation(algorithm, CLIENTS, Uniform(2), plan=PLAN)
    given = jax.tree.map(lambda x: np.full(x.shape, 0.5), algorithm.model.init_global(jax.random.key(0)))
    state = simulation.init(given)
    start = jax.tree.map(lambda x: jnp.full(x.shape, 0.5, jnp.float32), given)
    wanted = jax.jit(optimizer.init)(start)
    jax.tree.map(np.testing.assert_array_equal, state.opt_state, wanted)
    jax.tree.map(np.testing.assert_array_equal, state.aggregator_state, start)
    assert not any(x.weak_type for x in jax.tree.leaves(state.global_params))


def test_the_model_is_tried_before_the_first_round():
    model = replace(
        rating_model(), loss=lambda g, x, batch, key: Mean.of(jnp.full(batch["rating"].shape, jnp.inf))
    )
    algorithm = fedrecon(model, solver(), solver(), sgd(1.0))
    with pytest.raises(
        ValueError, match="the loss must be finite at the start, got inf at example 0 of client 'c1'"
    ):
        Simulation(algorithm, CLIENTS, Uniform(2), plan=PLAN).init()


@pytest.mark.parametrize("sampling", [Uniform, Poisson, Passes])
def test_more_clients_per_round_than_there_are(sampling):
    with pytest.raises(ValueError, match="clients_per_round must be at most the 4 training clients, got 5"):
        Simulation(ALGORITHM, CLIENTS, sampling(5))


def test_no_clients():
    with pytest.raises(ValueError, match="at most the 0 training clients"):
        Simulation(ALGORITHM, CLIENTS.take([]), Uniform(1))


def test_ids_out_of_range():
    clients = Clients.from_arrays({"ann": {"item": [3, ITEMS], "rating": [1.0, 2.0]}})
    with pytest.raises(DataError, match=r"client 'ann' has \[40\] at example 1"):
        Simulation(ALGORITHM, clients, Uniform(1))


def test_a_plan_for_shorter_clients(start):
    simulation = Simulation(ALGORITHM, CLIENTS, Given([[3]]), plan=Plan((Slot(1, 1, 7),)))
    with pytest.raises(ValueError, match="must take the longest client, of 8 examples, but it takes 7"):
        next(simulation.rounds(start, 1))


def test_a_plan_is_chosen_and_recorded():
    simulation = Simulation(ALGORITHM, CLIENTS, Uniform(4), clients_per_block=2)
    assert simulation.plan.slots[-1].length >= 8
    assert max(s.clients for s in simulation.plan.slots) <= 2
    assert Plan.from_json(simulation.plan.to_json()) == simulation.plan


def test_a_client_that_diverges_is_dropped_and_counted(simulation, start):
    """A huge rating makes one client's delta overflow; the others' mean stays."""
    ratings = {i: CLIENTS[i] for i in CLIENTS.ids}
    ratings["c2"] = ratings["c2"] | {"rating": np.full(5, 3e38, np.float32)}
    sampling, clients = simulation.sampling, simulation._layout.clients
    simulation.sampling = Given([[1, 2, 3]])
    simulation._layout.clients = Clients.from_arrays(ratings)
    (spoilt,) = simulation.rounds(start, 1)
    simulation._layout.clients = clients
    simulation.sampling = Given([[1, 3]])
    (without,) = simulation.rounds(start, 1)
    simulation.sampling = sampling
    assert spoilt.metrics()["dropped"] == Mean(1, 3)
    assert spoilt.metrics()["mse"] == without.metrics()["mse"]
    jax.tree.map(np.testing.assert_array_equal, spoilt.state.global_params, without.state.global_params)


def test_parameters_of_half_precision_are_trained():
    """Their deltas are summed in single precision, and the server's state keeps its types."""
    model = rating_model()

    def halved(key):
        return jax.tree.map(lambda x: x.astype(jnp.bfloat16), model.init_global(key))

    server = sgd(0.5, momentum=0.9)
    algorithm = fedrecon(replace(model, init_global=halved), solver(), solver(), server, AlternateBatches(2))
    simulation = Simulation(algorithm, federation(), Uniform(4))
    start = simulation.init()
    *_, last = simulation.rounds(start, 2)
    kinds = jax.tree.map(lambda x: x.dtype, (start, last.state))
    assert kinds[0] == kinds[1]
    assert simulation.compilations == 1
    moved = jax.tree.map(lambda a, b: jnp.abs(a - b).max(), last.state.global_params, start.global_params)
    assert all(0.01 < x < 1 for x in jax.tree.leaves(moved))


def test_large_parameters_have_the_server_step_in_a_program_of_its_own(monkeypatch):
    def run(joined_bytes, plan):
        monkeypatch.setattr("fedrecon.simulation._simulation._JOINED_BYTES", joined_bytes)
        one = Simulation(ALGORITHM, CLIENTS, Passes(4), seed=1, plan=plan)
        *_, last = one.rounds(one.init(), 3)
        return one.compilations, last

    for plan, wanted in ((Plan((Slot(1, 4, 8),)), (1, 2)), (Plan((Slot(1, 2, 8),)), (3, 3))):
        (together, a), (apart, b) = (run(joined_bytes, plan) for joined_bytes in (2**22, 0))
        assert (together, apart) == wanted
        jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-6), a.state, b.state)
        assert a.metrics() == b.metrics()


@pytest.mark.parametrize("joined_bytes", [0, 2**30], ids=["apart", "joined"])
@pytest.mark.parametrize("width", [4, 2], ids=["one pass", "two passes"])
def test_a_round_leaves_nothing_of_the_size_of_its_table_but_the_state(monkeypatch, joined_bytes, width):
    monkeypatch.setattr("fedrecon.simulation._simulation._JOINED_BYTES", joined_bytes)
    base, shape = rating_model(), (4_000, FACTORS)

    def init_global(key):
        item = {"factors": 0.1 * jax.random.normal(key, shape), "bias": jnp.zeros(shape[0])}
        return {**base.init_global(key), "item": item}

    model = replace(base, init_global=init_global)
    algorithm = fedrecon(model, solver(), solver(), sgd(1.0), AlternateBatches(2))
    simulation = Simulation(algorithm, CLIENTS, Passes(4), plan=Plan((Slot(1, width, 8),)))

    def held():
        return [x for x in jax.live_arrays() if x.shape == shape]

    before = len(held())
    for done in simulation.rounds(simulation.init(), 3):
        jax.block_until_ready(done.state)
        assert len(held()) - before == 1
        del done


def test_a_slot_without_a_client_is_laid_out_where_ids_repeat():
    clients = federation(repeats=True, lengths=(3, 4, 4))
    ends = []
    for plan in (Plan((Slot(1, 3, 5),)), Plan((Slot(1, 3, 5), Slot(1, 2, 12)))):
        simulation = Simulation(ALGORITHM, clients, Given([[0, 1, 2]]), plan=plan)
        (done,) = simulation.rounds(simulation.init(), 1)
        ends.append(done.state.global_params)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5), *ends)


def test_samplings_of_ones_own_may_return_masks_and_lists(start):
    def after(cohort):
        simulation = Simulation(ALGORITHM, CLIENTS, Given([[0, 2]]), seed=1, plan=PLAN)
        simulation.sampling.indices = lambda *_: cohort
        return jax.tree.leaves(next(simulation.rounds(start, 1)).state.global_params)

    wanted = after(np.array([1, 3]))
    for cohort in ([False, True, False, True], [1, 3], (1, 3)):
        for a, b in zip(wanted, after(cohort), strict=True):
            np.testing.assert_array_equal(a, b)
    with pytest.raises(DataError, match="the cohort that Given draws for round 1 must have no client twice"):
        after([3, 1, 3])
