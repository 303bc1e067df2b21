"""Private algorithms: what an `Update` holds, what the server adds, and what is refused."""

import math
from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats
from tests.small import ITEMS, LENGTHS, examples, federation, rating_model, sgd, solver

from fedrecon.algorithms._base import Broadcast, Update
from fedrecon.algorithms._building_blocks import by_examples, uniform
from fedrecon.algorithms._fedalt import fedalt
from fedrecon.algorithms._fedavg import fedavg
from fedrecon.algorithms._fedrecon import fedrecon
from fedrecon.algorithms._full_gradient import full_gradient
from fedrecon.algorithms._local_only import local_only
from fedrecon.algorithms._reptile import reptile
from fedrecon.core._mean import Mean
from fedrecon.core._model import leaves_of
from fedrecon.core._splits import AlternateBatches, RandomFraction
from fedrecon.data._hashing import Purpose, round_keys
from fedrecon.data._sampling import Everyone, Passes, Poisson, Uniform
from fedrecon.privacy import _user_level
from fedrecon.privacy._clipping import dense
from fedrecon.privacy._guarantee import UserLevelDP
from fedrecon.privacy._secret import Secret
from fedrecon.privacy._user_level import user_level_dp
from fedrecon.simulation import _simulation
from fedrecon.simulation._batches import key_of
from fedrecon.simulation._client_state_store import current_client_state
from fedrecon.simulation._simulation import Simulation
from fedrecon.solvers import _gradient
from fedrecon.solvers._newton import Newton

CLIENTS = federation()
N = len(LENGTHS)
PAIRS, STEP = AlternateBatches(2), solver()
ALGORITHMS = {
    "sgd": lambda model: fedrecon(model, STEP, STEP, sgd(1.0), PAIRS, client_weight=uniform),
    "joint": lambda model: fedrecon(model, STEP, STEP, sgd(1.0), PAIRS, True, uniform),
    "newton": lambda model: fedrecon(
        model, Newton(), solver(0.1, None), sgd(1.0), RandomFraction(), client_weight=uniform
    ),
    "full_gradient": lambda model: full_gradient(model, STEP, STEP, sgd(1.0), PAIRS, client_weight=uniform),
    "fedavg": lambda model: fedavg(model, STEP, sgd(1.0), client_weight=uniform),
    "reptile": lambda model: reptile(model, STEP, sgd(1.0)),
    "fedalt": lambda model: fedalt(model, STEP, STEP, sgd(1.0), client_weight=uniform),
}
SECRET = Secret(bytes(range(32)))


def base(name="sgd"):
    return ALGORITHMS[name](rating_model(scale=True))


def private(algorithm=None, **changed):
    settings = {
        "clip": 0.3,
        "rounds": 5,
        "delta": 1e-3,
        "sampling": Everyone(),
        "num_clients": N,
        "noise_multiplier": 1.0,
    }
    return user_level_dp(algorithm or base(), **{**settings, **changed})


def norm(tree):
    return math.sqrt(sum(float(np.sum(np.square(x, dtype=np.float64))) for x in jax.tree.leaves(tree)))


@pytest.mark.parametrize("name", ALGORITHMS)
def test_update_holds_a_clipped_delta_and_nothing_else(name):
    """Every leaf of an `Update` is one that the ledger knows: the clipped delta and a weight of 1."""
    algorithm = private(base(name))
    params = algorithm.init(jax.random.key(0)).global_params

    @jax.jit
    def sent(given):
        broadcast, key = Broadcast(params, jnp.int32(0)), jax.random.key(1)
        state = algorithm.init_client_state(params, jax.random.key(2))
        return algorithm.client_update(broadcast, state, given, key)[0]

    for client in ("c0", "c1", "c8"):  # without examples, without a query example, with many
        update = sent(examples(CLIENTS, client, 13))
        assert update.rows == {} and update.metrics == {} and update.statistics == ()
        assert jax.tree.map(jnp.shape, update.delta.total) == jax.tree.map(jnp.shape, params)
        assert len(jax.tree.leaves(update)) == len(jax.tree.leaves(params)) + 1
        assert update.delta.weight == 1
        assert norm(update.delta.total) <= 0.3
        assert client != "c0" or not any(map(np.any, jax.tree.leaves(update.delta.total)))
    assert norm(update.delta.total) > 0.299  # the bound was met


@pytest.mark.parametrize("name", ALGORITHMS)
def test_a_round_is_the_sum_of_clipped_deltas_over_a_public_number(name):
    """With next to no noise: whatever blocks and rows a simulation uses, only clipped deltas are summed."""
    algorithm = private(base(name), noise_multiplier=1e-9)
    simulation = Simulation(algorithm, CLIENTS, Everyone(), secret=SECRET)
    start = simulation.init()
    (round,) = simulation.rounds(start, 1)

    params, deltas = start.global_params, []

    @jax.jit
    def sent(given, key):
        broadcast = Broadcast(params, jnp.int32(0))
        state = current_client_state(algorithm, params, (), key)
        return algorithm.client_update(broadcast, state, given, key)[0].delta.total

    for client, data in zip(CLIENTS.ids, round_keys(0, Purpose.TRAINING, 0, CLIENTS.keys), strict=True):
        deltas.append(sent(examples(CLIENTS, client, 13), key_of(data)))
        assert norm(deltas[-1]) <= 0.3
    moved = jax.tree.map(lambda new, old: N * (new - old), round.state.global_params, params)
    total = jax.tree.map(lambda *x: np.sum(x, 0), *deltas)
    for leaf, expected in leaves_of(total).items():
        np.testing.assert_allclose(leaves_of(moved)[leaf], expected, atol=2e-5)
    assert round.metrics() == {}
    assert round.state.privacy.releases == 1
    assert not np.any(round.state.privacy.noise_key)


@pytest.mark.parametrize("split", [PAIRS, RandomFraction()], ids=["known rows", "rows of a random half"])
def test_simulated_clients_are_clipped_by_their_rows_alone_where_none_comes_twice(split, monkeypatch):
    """No client's delta becomes whole tables then, and the sum is the same as if it did."""
    step, weight = solver(batch_size=None if isinstance(split, RandomFraction) else 2), uniform
    plain = fedrecon(rating_model(), solver(), step, sgd(1.0), split, client_weight=weight)
    made_dense = []

    def moved():
        algorithm = private(plain, noise_multiplier=1e-9)
        simulation = Simulation(algorithm, CLIENTS, Everyone(), secret=SECRET)
        (round,) = simulation.rounds(simulation.init(), 1)
        return jax.device_get(round.state.global_params)

    def noted(*arguments):
        made_dense.append(True)
        return dense(*arguments)

    monkeypatch.setattr(_user_level, "dense", noted)
    by_rows = moved()
    assert not made_dense
    monkeypatch.setattr(_gradient, "note_distinct", lambda ids: None)
    whole = moved()
    assert made_dense
    start = jax.device_get(plain.init(jax.random.key(0)).global_params)
    for a, b, before in zip(*map(jax.tree.leaves, (by_rows, whole, start)), strict=True):
        assert np.abs(a - before).max() > 0.01
        np.testing.assert_allclose(a, b, atol=1e-6)


@dataclass(frozen=True)
class FirstExampleOnly:
    """A split whose query set is the first example, as often as there are examples."""

    def __call__(self, examples, key):
        return examples, examples.take(jnp.zeros(examples.size, jnp.int32), examples.mask)


def test_a_split_that_gives_an_example_twice_exceeds_no_bound():
    """Its deltas of one row add up, so that their norm is that of the sum and not that of the rows."""
    one = CLIENTS.take([int(np.argmax(np.where(CLIENTS.num_examples < 10, CLIENTS.num_examples, 0)))])
    plain = fedrecon(
        rating_model(), solver(), solver(batch_size=2), sgd(1.0), FirstExampleOnly(), client_weight=uniform
    )
    algorithm = user_level_dp(
        plain, clip=0.001, rounds=1, sampling=Everyone(), num_clients=1, delta=0.5, noise_multiplier=1e-9
    )
    simulation = Simulation(algorithm, one, Everyone(), secret=SECRET)
    start = simulation.init()
    (round,) = simulation.rounds(start, 1)
    moved = jax.tree.map(lambda a, b: a - b, round.state.global_params, start.global_params)
    assert norm(moved) == pytest.approx(0.001, rel=1e-3)


@pytest.mark.parametrize("bands", [1, 2])
def test_noise_that_is_drawn_beside_the_clients_is_that_of_the_servers_step(bands, monkeypatch):
    """Large models have it drawn by a thread of its own."""
    drawn, draw = [], UserLevelDP.drawn

    def noted(self, *given):
        drawn.append(True)
        return draw(self, *given)

    monkeypatch.setattr(UserLevelDP, "drawn", noted)
    settings = {"sampling": Passes(4, order="fixed"), "noise_bands": bands, "noise_multiplier": 2.0}
    secret = Secret(bytes(range(32)), context=b"this run")

    def after():
        simulation = Simulation(private(**settings), CLIENTS, settings["sampling"], secret=secret)
        # The next round's independent noise depends on the parameters to the bit.
        *_, last = simulation.rounds(simulation.init(), 1 if bands == 1 else 3)
        assert last.state.privacy.drawn == ()
        return jax.device_get(last.state.global_params)

    in_the_step = after()
    once = len(drawn)  # it is traced in the step alone
    monkeypatch.setattr(_simulation, "_JOINED_BYTES", 0)
    aside = after()
    assert len(drawn) == 2 * once > 0, "the thread's program draws it, and the step does not draw it again"
    for a, b in zip(*map(jax.tree.leaves, (in_the_step, aside)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("unprotected_metrics", [False, True])
def test_summed_update_has_no_leaf_that_the_ledger_does_not_know(unprotected_metrics):
    """What the server steps with, in the simulation's own program: clipped deltas, and a public weight."""
    algorithm, shapes = private(unprotected_metrics=unprotected_metrics), []

    def watched(state, update):
        shapes.append(jax.tree.map(jnp.shape, update))
        return algorithm.server_update(state, update)

    simulation = Simulation(replace(algorithm, server_update=watched), CLIENTS, Everyone(), secret=SECRET)
    start = simulation.init()
    (round,) = simulation.rounds(start, 1)
    whole = jax.tree.map(jnp.shape, start.global_params)
    assert shapes and all(update == Update(Mean(whole, ()), {}, {}) for update in shapes)
    assert ("loss" in round.metrics()) is unprotected_metrics


def released(algorithm, clients=CLIENTS, sampling=None, secret=SECRET, rounds=1, **others):
    """The global parameters after some rounds, as one vector."""
    sampling = sampling or algorithm.privacy.sampling
    simulation = Simulation(algorithm, clients, sampling, secret=secret, **others)
    *_, last = simulation.rounds(simulation.init(), rounds)
    return np.concatenate([np.ravel(x) for x in jax.tree.leaves(last.state.global_params)])


def test_noise_has_the_deviation_that_is_claimed():
    """Of what is released, over the public divisor; on every entry, also of rows that nobody touched."""
    rounds = 40
    algorithm = private(noise_multiplier=1e4, rounds=rounds)  # beside which deltas are nothing
    simulation = Simulation(algorithm, CLIENTS, Everyone())
    start = simulation.init()
    states = [start, *(round.state for round in simulation.rounds(start, rounds))]
    values = np.stack(
        [np.concatenate([np.ravel(x) for x in jax.tree.leaves(s.global_params)]) for s in states]
    )
    squares = np.square(np.diff(values.astype(np.float64), axis=0) * N / (1e4 * 0.3))
    assert squares.shape == (rounds, ITEMS * 3 + 1)
    low, high = stats.chi2.ppf([1e-5, 1 - 1e-5], squares.size)
    assert low < squares.sum() < high
    low, high = stats.chi2.ppf([1e-7, 1 - 1e-7], rounds)
    assert (low < squares.sum(0)).all() and (squares.sum(0) < high).all()


def test_an_empty_cohort_is_noised_and_stepped_like_any_other():
    sampling = Poisson(probability=1e-9)
    algorithm = private(sampling=sampling, observer="server")  # whose accountant is always installed
    simulation = Simulation(algorithm, CLIENTS, sampling, secret=SECRET)
    start = simulation.init()
    (round,) = simulation.rounds(start, 1)
    assert (round.clients, round.state.round, round.state.privacy.releases) == (0, 1, 1)
    for old, new in zip(
        jax.tree.leaves(start.global_params), jax.tree.leaves(round.state.global_params), strict=True
    ):
        assert np.isfinite(new).all() and np.all(new != old)


def test_the_same_round_has_the_same_noise_and_another_plan_fresh_noise():
    algorithm = private()
    first = released(algorithm)
    np.testing.assert_array_equal(first, released(algorithm))
    # Blocks change the order of sums: the same noise would show how the sums differ.
    assert np.std(released(algorithm, clients_per_block=1) - first) > 0.3 * 0.3 / N


def test_any_other_input_has_another_noise_key():
    def key(secret=SECRET, round=3, cohort=(1, 2), plan="plan", settings=(("clip", 1.0),), params=0.0):
        params = {"a": jnp.zeros(3), "b": jnp.full(2, params)}
        return secret.noise_key(round, np.array(cohort, int), plan, dict(settings), params).tobytes()

    keys = [
        key(),
        key(secret=Secret(bytes(range(1, 33)))),
        key(secret=replace(SECRET, attempt=1)),
        key(secret=replace(SECRET, context=b"other examples")),
        key(round=4),
        key(cohort=(2, 1)),
        key(cohort=()),
        key(plan="another"),
        key(settings=(("clip", 1.0000001),)),
        key(params=1e-30),
    ]
    assert len(set(keys)) == len(keys)
    assert key() == keys[0]


def test_noise_does_not_come_from_the_experiments_seed():
    algorithm = private()
    assert not np.array_equal(released(algorithm, secret=None), released(algorithm, secret=None))


def test_cohorts_come_from_the_secret():
    sampling = Uniform(4)
    algorithm = private(sampling=sampling, observer="server")
    cohorts = [
        [
            Simulation(algorithm, CLIENTS, sampling, seed=seed, secret=secret)._cohort(r).tolist()
            for r in range(5)
        ]
        for seed, secret in ((0, SECRET), (1, SECRET), (0, Secret(bytes(range(1, 33)))))
    ]
    assert cohorts[0] == cohorts[1] != cohorts[2]


def test_without_a_key_nothing_can_be_released():
    """A state that no simulation armed gives no parameters, rather than parameters without noise."""
    algorithm = private()
    state = algorithm.init(jax.random.key(0))
    zeros = jax.tree.map(jnp.zeros_like, state.global_params)
    new = algorithm.server_update(state, Update(Mean(zeros, jnp.ones(())), {}, {}))
    assert all(np.isnan(x).all() for x in jax.tree.leaves(new.global_params))
    armed = algorithm.privacy.armed(state, np.arange(8, dtype=np.uint32))
    new = algorithm.server_update(armed, Update(Mean(zeros, jnp.ones(())), {}, {}))
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(new.global_params))


def test_statistics_that_nothing_protects_are_refused():
    def more(broadcast, client_state, given, key):
        update, client_state = base().client_update(broadcast, client_state, given, key)
        return update._replace(statistics=jnp.ones(3)), client_state

    algorithm = private(replace(base(), client_update=more))
    with pytest.raises(ValueError, match="statistics must be empty"):
        released(algorithm)


def test_whole_tables_are_counted_as_sent():
    """Rows would tell which a client has, so that a private client exchanges all of them."""
    algorithm = private()
    simulation = Simulation(algorithm, CLIENTS, Everyone())
    (round,) = simulation.rounds(simulation.init(), 1)
    assert round.bytes_up == round.bytes_down == round.dense_bytes_up == N * 4 * (ITEMS * 3 + 1)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"clip": 0.0}, "clip must be a finite number above 0, got 0.0"),
        ({"delta": None}, "delta must be given"),
        ({"delta": 1 / N}, "delta must be above 0 and below 1 / num_clients"),
        ({"delta": 0.0}, "delta must be above 0"),
        ({"epsilon": 1.0}, "either epsilon or noise_multiplier must be given, got both"),
        ({"noise_multiplier": None}, "either epsilon or noise_multiplier must be given, got neither"),
        ({"noise_multiplier": None, "epsilon": 1.0, "budget": 2.0}, "either epsilon or budget"),
        ({"noise_multiplier": 0.0}, "noise_multiplier must be a finite number above 0, got 0"),
        ({"budget": 0.01}, "budget must pay for a round"),
        ({"sampling": Poisson(3)}, "sampling must be given as Poisson"),
        ({"sampling": Uniform(N + 1)}, "clients_per_round must be at most"),
        ({"rounds": 0}, "rounds must be a whole number of at least 1, got 0"),
        ({"num_clients": 0}, "num_clients must be a whole number"),
        ({"observer": "nobody"}, "observer must be"),
        ({"clip": {"item": 1.0}}, "'scale' is in none"),
        (
            {"algorithm": fedrecon(rating_model(), STEP, STEP, sgd(1.0), client_weight=by_examples)},
            "client_weight must be uniform under differential privacy, got 'by_examples'",
        ),
        ({"algorithm": local_only(rating_model(), STEP)}, "exchanges nothing"),
    ],
)
def test_what_cannot_be_promised_is_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        private(**settings)


def test_a_private_algorithm_is_not_made_private_again():
    with pytest.raises(ValueError, match="must not be private before"):
        private(private())


@pytest.mark.parametrize(
    ("clients", "sampling", "rounds", "message"),
    [
        (
            CLIENTS.take(range(3)),
            Everyone(),
            1,
            f"num_clients must be what user_level_dp accounts for, {N}, got 3",
        ),
        (CLIENTS, Passes(3), 1, "sampling must be what user_level_dp accounts for, Everyone"),
        (CLIENTS, Everyone(), 6, "rounds must be at most the 5"),
    ],
)
def test_another_run_than_the_one_accounted_for_is_refused(clients, sampling, rounds, message):
    with pytest.raises(ValueError, match=message):
        released(private(), clients, sampling, rounds=rounds)


def test_budget_ends_the_rounds_before_it_is_exceeded():
    privacy = private(rounds=1000, noise_multiplier=10.0, budget=3.0).privacy
    assert privacy.epsilon(privacy.affordable) <= 3.0 < privacy.epsilon(privacy.affordable + 1)
    assert private(budget=1e6).privacy.affordable == 5


def test_ledger_says_what_was_released():
    privacy = private(public_inputs={"items": "movies.dat"}, noise_multiplier=4.0, sampling=Passes(3)).privacy
    ledger = privacy.ledger(5)
    assert (ledger.unit, ledger.relation, ledger.observer) == ("client", "zero_out", "model")
    assert (ledger.clip, ledger.sensitivity, ledger.releases) == (0.3, 0.3, 5)
    assert ledger.epsilon == privacy.epsilon(5)
    assert ledger.values()["public_inputs"] == {"items": "movies.dat"}
    assert privacy.ledger(0).epsilon == 0


def test_secret_is_not_shown():
    assert bytes(range(32)).hex() not in repr(SECRET)
    with pytest.raises(ValueError, match="at least 32 bytes, got 8"):
        Secret(b"too much")
