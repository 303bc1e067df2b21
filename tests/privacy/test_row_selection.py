"""Rows that are selected by noised counts of contributors, and by counts without noise."""

import functools
import math
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats
from tests.small import ITEMS, LENGTHS, examples, federation, rating_model, sgd, solver

import fedrecon as fr
from fedrecon.algorithms._base import Broadcast, Update
from fedrecon.algorithms._building_blocks import uniform
from fedrecon.core._mean import Mean
from fedrecon.core._model import leaves_of, without_tables
from fedrecon.core._splits import AlternateBatches
from fedrecon.data._hashing import Purpose, round_keys
from fedrecon.data._sampling import Everyone, Passes, Poisson, Uniform
from fedrecon.privacy._clipping import dense
from fedrecon.privacy._gaussian import gaussian_delta
from fedrecon.privacy._ledger import Ledger
from fedrecon.privacy._row_selection import RowSelection, with_min_contributors
from fedrecon.privacy._secret import Secret
from fedrecon.privacy._user_level import user_level_dp
from fedrecon.simulation._batches import key_of
from fedrecon.simulation._simulation import Simulation
from fedrecon.simulation._trained_state import plain_state

CLIENTS, N = federation(), len(LENGTHS)
SECRET = Secret(bytes(range(32)))
KEY = np.arange(1, 9, dtype=np.uint32)
RULE = RowSelection(0.2, 1.0)
COUNTED = "item/bias"  # the first of the two tables that share their rows


def base(model=None, **changed):
    settings = {"split": AlternateBatches(2), "client_weight": uniform, **changed}
    return fr.fedrecon(model or rating_model(scale=True), solver(), solver(), sgd(1.0), **settings)


def private(algorithm=None, **changed):
    settings = {
        "clip": 0.3,
        "noise_multiplier": 1.0,
        "rounds": 5,
        "sampling": Everyone(),
        "num_clients": N,
        "delta": 1e-3,
        "select_rows": RULE,
        **changed,
    }
    return user_level_dp(algorithm or base(), **settings)


@functools.cache
def step_of(algorithm):
    """A client's part of the first round, compiled once."""
    params = algorithm.init(jax.random.key(0)).global_params
    broadcast, key = Broadcast(params, jnp.int32(0)), jax.random.key(1)
    return jax.jit(lambda given: algorithm.client_update(broadcast, (), given, key)[0])


def sent(algorithm, client):
    return step_of(algorithm)(examples(CLIENTS, client, 13))


def test_a_client_sends_a_clipped_delta_and_contributions_of_norm_one():
    algorithm = private()
    for client in ("c0", "c4", "c8"):
        update = sent(algorithm, client)
        assert update.rows == {} and update.metrics == {} and update.delta.weight == 1
        assert {name: x.shape for name, x in update.statistics.items()} == {COUNTED: (ITEMS,)}
        counts = np.asarray(update.statistics[COUNTED], np.float64)
        changed = np.any(np.asarray(update.delta.total["item"]["factors"]) != 0, 1)
        changed |= np.asarray(update.delta.total["item"]["bias"]) != 0
        np.testing.assert_array_equal(counts > 0, changed)
        assert np.sum(counts**2) <= 1
        assert not changed.any() or np.sum(counts**2) > 0.999
        assert changed.any() == (client != "c0")


@pytest.mark.parametrize(
    "sampling", [Everyone(), Passes(4), Poisson(probability=0.2), Uniform(3)], ids=lambda s: type(s).__name__
)
@pytest.mark.parametrize("share", [0.01, 0.3, 0.9])
def test_counts_and_deltas_together_are_as_private_as_deltas_alone(sampling, share):
    """What one client moves, in units of the noise on it: both together are the one mechanism's."""
    observer = "server" if isinstance(sampling, Poisson | Uniform) else "model"
    settings = {"sampling": sampling, "observer": observer, "noise_multiplier": 1.7}
    privacy = private(**settings, select_rows=RowSelection(share)).privacy
    plain = private(**settings, select_rows=None).privacy
    assert privacy.epsilon(4) == plain.epsilon(4)
    of_counts = 1 / privacy.selection.count_deviation(1.7)
    of_deltas = 0.3 / privacy.noise_deviation(0)
    assert math.hypot(of_counts, of_deltas) == pytest.approx(1 / 1.7)
    assert privacy.noise_deviation(0) == pytest.approx(plain.noise_deviation(0) / math.sqrt(1 - share))


def test_the_accounted_delta_holds_for_what_an_attacker_sees_of_selection_and_sum():
    """A client alone in a row, worst on both parts: the best test of 400,000 draws against the closed form.

    The attacker sees the row's noised sum where the row is selected, and else that it is not.
    """
    share, threshold, multiplier, clip = 0.3, 1.0, 0.8, 1.0
    rule = RowSelection(share, threshold)
    generator = np.random.default_rng(0)
    deviation, noise = rule.count_deviation(multiplier), rule.delta_noise_multiplier(multiplier) * clip

    def draws(present):
        counts = present + deviation * generator.standard_normal(400_000)
        sums = present * clip + noise * generator.standard_normal(400_000)
        return counts >= threshold * deviation, sums

    def loss(selected, sums):
        """The logarithm of how much likelier the sight is with the client than without."""
        chosen = stats.norm.sf(threshold - np.array([1, 0]) / deviation)
        of_sum = (sums * clip - clip**2 / 2) / noise**2
        seen = math.log(chosen[0] / chosen[1]) + of_sum
        return np.where(selected, seen, math.log((1 - chosen[0]) / (1 - chosen[1])))

    for epsilon in (0.2, 1.0, 2.0):
        losses = loss(*draws(1)), loss(*draws(0))
        apart = np.mean(losses[0] > epsilon) - math.exp(epsilon) * np.mean(losses[1] > epsilon)
        accounted = gaussian_delta(multiplier, epsilon)
        assert apart <= accounted + 3 * (1 + math.exp(epsilon)) / 1000 / 2
        assert apart > accounted / 5  # what is accounted for is no idle bound


@functools.cache
def server_of(algorithm):
    return jax.jit(algorithm.server_update)


def stepped(algorithm, counts, totals=0.0, key=KEY):
    state = algorithm.init(jax.random.key(0))
    total = jax.tree.map(lambda x: jnp.full(x.shape, totals), state.global_params)
    if key is not None:
        state = algorithm.privacy.armed(state, key)
    update = Update(Mean(total, jnp.float32(N)), {}, {}, {COUNTED: jnp.asarray(counts, jnp.float32)})
    new = server_of(algorithm)(state, update)
    moved = jax.tree.map(lambda a, b: np.asarray(a - b), new.global_params, state.global_params)
    return leaves_of(moved), new


def test_noise_of_counts_and_deltas_has_the_deviation_that_is_claimed():
    """Rows in the middle of the threshold are selected half the time, others by the noise's tail."""
    algorithm, selected, values = private(noise_multiplier=2.0, select_rows=RowSelection(0.2, 1.5)), [], []
    deviation = 2.0 / math.sqrt(0.2)
    counts = np.where(np.arange(ITEMS) % 2, 1.5 * deviation, 0.0)
    for number in range(150):
        moved, _ = stepped(algorithm, counts, key=KEY + np.uint32(number * 1000))
        rows = moved["item/bias"] != 0
        np.testing.assert_array_equal(rows, np.any(moved["item/factors"] != 0, 1))  # tables share a selection
        assert np.all(moved["scale"] != 0)  # what is no table is noised in every round
        selected.append(rows)
        values.append(moved["item/factors"][rows].ravel() * N)
    share = np.mean(selected, 0)
    trials = 150 * ITEMS // 2
    for rows, expected in ((share[1::2], 0.5), (share[::2], stats.norm.sf(1.5))):
        low, high = stats.binom.ppf([1e-5, 1 - 1e-5], trials, expected)
        assert low <= rows.sum() * 150 <= high
    squares = np.square(np.concatenate(values) / (0.3 * 2.0 / math.sqrt(0.8)))
    low, high = stats.chi2.ppf([1e-5, 1 - 1e-5], squares.size)
    assert low < squares.sum() < high


def test_without_a_key_nothing_can_be_released():
    for counts in (0.0, 1e6):
        moved, _ = stepped(private(), np.full(ITEMS, counts), key=None)
        assert all(np.isnan(x).all() for x in moved.values())


def changed_rows(algorithm, **others):
    """How one round over all clients changes the parameters, and the round."""
    simulation = Simulation(algorithm, CLIENTS, Everyone(), **others)
    start = simulation.init()
    (round,) = simulation.rounds(start, 1)
    new, old = round.state.global_params, start.global_params
    return jax.tree.map(lambda a, b: np.asarray(a - b), new, old), round


def contributors(algorithm):
    """Which rows each client changes, `[client, row]`, by the deltas of the first round one by one."""
    simulation = Simulation(algorithm, CLIENTS, Everyone())
    params = simulation.init().global_params

    @jax.jit
    def changed(given, key):
        update = algorithm.client_update(Broadcast(params, jnp.int32(0)), (), given, key)[0]
        return dense(update.delta.total, update.rows, params)["item"]["bias"] != 0

    keys = round_keys(0, Purpose.TRAINING, 0, CLIENTS.keys)
    given = [examples(CLIENTS, client, 13) for client in CLIENTS.ids]
    return np.stack([np.asarray(changed(x, key_of(k))) for x, k in zip(given, keys, strict=True)])


def test_a_round_sums_the_contributions_of_its_clients():
    """With next to no noise: a row is selected where its sum of contributions is at least .8."""
    rule = RowSelection(0.5, 0.8 * math.sqrt(0.5) * 1e6)
    moved, round = changed_rows(private(noise_multiplier=1e-6, select_rows=rule), secret=SECRET)
    changed = contributors(base())
    sums = np.sum(changed / np.sqrt(np.maximum(changed.sum(1, keepdims=True), 1)), 0)
    assert 0 < np.sum(sums >= 0.8) < np.sum(sums > 0)
    np.testing.assert_array_equal(moved["item"]["bias"] != 0, sums >= 0.8)
    assert round.metrics() == {}
    assert round.bytes_up == round.dense_bytes_up + N * 4 * ITEMS


@pytest.mark.parametrize("clients_per_block", [1, 4])
def test_rows_of_too_few_contributors_stay(clients_per_block):
    least, plain = 2, base()
    moved, _ = changed_rows(with_min_contributors(plain, least), clients_per_block=clients_per_block)
    whole, _ = changed_rows(plain)
    enough = contributors(plain).sum(0) >= least
    assert 0 < enough.sum() < ITEMS
    for name in ("bias", "factors"):
        np.testing.assert_allclose(moved["item"][name][enough], whole["item"][name][enough], atol=1e-6)
        assert not moved["item"][name][~enough].any()
    np.testing.assert_allclose(moved["scale"], whole["scale"], atol=1e-6)


def test_the_default_of_bands_fits_the_counts():
    """Under a fixed order noise would be correlated, which is not drawn for counts."""
    fixed = Passes(4, order="fixed")
    assert private(sampling=fixed, select_rows=None, rounds=6).privacy.noise_bands > 1
    assert private(sampling=fixed, rounds=6).privacy.noise_bands == 1
    assert private(sampling=fixed, rounds=6, select_rows=None, clip_quantile=0.5).privacy.noise_bands == 1


def test_ledger_tells_the_noise_on_deltas():
    both, alone = private().privacy.ledger(2), private(select_rows=None).privacy.ledger(2)
    on_deltas = RULE.delta_noise_multiplier(both.noise_multiplier)
    assert both.delta_noise_multiplier == on_deltas > both.noise_multiplier
    assert f"noise of {on_deltas:.4g} times the bound" in str(both)
    assert f"as deltas alone with {both.noise_multiplier:.4g} times" in str(both)
    assert str(alone).endswith(f"with noise of {alone.noise_multiplier:.4g} times the bound {alone.clip:g}")
    earlier = {k: v for k, v in both.values().items() if k != "delta_noise_multiplier"}
    assert str(Ledger.from_values(earlier)) == str(replace(both, delta_noise_multiplier=None))
    # Fingerprints of runs that start from a private one hold its ledger's repr.
    assert repr(replace(both, delta_noise_multiplier=None)) == repr(both)


def test_ledger_names_the_selection_and_the_noise_belongs_to_it():
    privacy = private().privacy
    assert "cut to rows whose count of contributors, with noise of 2.236, is at least 1 times" in (
        privacy.ledger(2).mechanism
    )

    def key(algorithm):
        simulation = Simulation(algorithm, CLIENTS, Everyone(), secret=SECRET)
        state = plain_state(simulation.init())
        armed = simulation._protection.armed(state, 0, np.arange(N), simulation.plan)
        return np.asarray(armed.privacy.noise_key).tolist()

    first = key(private())
    assert first == key(private()) != key(private(select_rows=None))
    assert first != key(private(select_rows=RowSelection(0.2, 1.1)))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: RowSelection(0.0), "share must be above 0 and below 1, got 0"),
        (lambda: RowSelection(0.1, math.nan), "threshold must be a finite number, got nan"),
        (
            lambda: private(sampling=Passes(4, order="fixed"), noise_bands=2),
            "select_rows must be None under correlated noise",
        ),
        (lambda: private(clip_quantile=0.5), "select_rows must be None beside clip_quantile"),
        (
            lambda: private(base(without_tables(rating_model()))),
            "select_rows must be given for a model with tables",
        ),
        (lambda: private(with_min_contributors(base(), 3)), "must not be one with min_contributors"),
        (lambda: with_min_contributors(private(), 3), "min_contributors must not be given for a private"),
        (lambda: with_min_contributors(base(), 0), "min_contributors must be a whole number"),
        (
            lambda: with_min_contributors(with_min_contributors(base(), 2), 3),
            "min_contributors must be given once",
        ),
    ],
)
def test_what_does_not_fit_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
