"""Correlated noise: what its matrices promise, and that a simulation's noise is theirs."""

import itertools
import math

import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from scipy.linalg import toeplitz
from tests.small import ITEMS, LENGTHS, federation, rating_model, sgd, solver

import fedrecon as fr
from fedrecon.algorithms._building_blocks import uniform
from fedrecon.core._splits import AlternateBatches
from fedrecon.data._sampling import Everyone, Passes
from fedrecon.errors import RunError
from fedrecon.privacy import _correlated as correlated
from fedrecon.privacy._accounting import accounting
from fedrecon.privacy._gaussian import gaussian_epsilon
from fedrecon.privacy._secret import Secret
from fedrecon.privacy._user_level import user_level_dp
from fedrecon.simulation._simulation import Simulation

CLIENTS, N = federation(), len(LENGTHS)
FIXED = Passes(4, order="fixed")  # three rounds a pass


def private(**changed):
    base = fr.fedrecon(
        rating_model(), solver(), solver(), sgd(1.0), AlternateBatches(2), client_weight=uniform
    )
    settings = {"noise_multiplier": 2.0, "rounds": 6, "sampling": FIXED, "num_clients": N, "noise_bands": 4}
    return user_level_dp(base, clip=0.3, delta=1e-3, **{**settings, **changed})


def matrices(bands, rounds):
    """The noising matrix and the strategy matrix as they are defined, by dense algebra."""
    column = np.zeros(rounds)
    column[:bands] = correlated.noising_coefficients(bands)[:rounds]
    noising = toeplitz(column, np.zeros(rounds))
    return noising, np.linalg.inv(noising)


@given(bands=st.integers(1, 16), rounds=st.integers(1, 60))
def test_strategy_is_the_inverse_and_falls_from_the_diagonal_on(bands, rounds):
    strategy = correlated.strategy_coefficients(bands, rounds)
    np.testing.assert_allclose(toeplitz(strategy, np.zeros(rounds)), matrices(bands, rounds)[1], atol=1e-9)
    assert (strategy >= 0).all() and (np.diff(strategy) <= 1e-12).all()


def test_bands_of_all_rounds_are_the_square_root_of_differences():
    """Their product with themselves takes each round's noise back whole in the next."""
    noising, _ = matrices(12, 12)
    differences = toeplitz([1, -1, *np.zeros(10)], np.zeros(12))
    np.testing.assert_allclose(noising @ noising, differences, atol=1e-12)


@given(bands=st.integers(1, 8), rounds=st.integers(1, 14), separation=st.integers(1, 6))
def test_sensitivity_is_that_of_the_worst_client_and_worst_signs(bands, rounds, separation):
    """Over every place in the fixed order, and deltas of the full norm that point anywhere along a line."""
    _, strategy = matrices(bands, rounds)
    worst = 0.0
    for first in range(min(separation, rounds)):
        places = range(first, rounds, separation)
        for signs in itertools.product((-1, 1), repeat=min(len(places), 8)):
            moved = sum(sign * strategy[:, t] for sign, t in zip(signs, places, strict=False))
            worst = max(worst, float(np.linalg.norm(moved)))
    exact = -(-rounds // separation) <= 8
    reached = correlated.sensitivity(bands, rounds, separation)
    assert reached == pytest.approx(worst) if exact else reached >= worst - 1e-9


def test_one_band_is_independent_noise():
    rule, plain = accounting(FIXED, N, rounds=6), accounting(Passes(4), N)
    assert rule.sensitivity == plain.sensitivity == 1
    assert rule.epsilon(2.0, 6, 1e-3) == plain.epsilon(2.0, 6, 1e-3)
    assert correlated.sensitivity(1, 6, 3) == math.sqrt(2)


def test_epsilon_is_that_of_one_gaussian_mechanism_and_grows_by_the_round():
    privacy = private().privacy
    for rounds in range(1, 7):
        sensitivity = correlated.sensitivity(4, rounds, 3)
        assert privacy.epsilon(rounds) == pytest.approx(gaussian_epsilon(2.0 / sensitivity, 1e-3))
    assert privacy.epsilon(0) == 0
    ledger = privacy.ledger(6)
    assert ledger.sensitivity == pytest.approx(0.3 * correlated.sensitivity(4, 6, 3))
    assert "matrix mechanism" in ledger.mechanism and "4 bands" in ledger.mechanism
    assert 7.99 < private(noise_multiplier=None, epsilon=8.0).privacy.epsilon(6) <= 8


@pytest.mark.parametrize(("rounds", "separation"), [(48, 12), (1000, 100)])
def test_best_bands_add_less_noise_to_sums_at_equal_privacy(rounds, separation):
    bands = correlated.best_bands(rounds, separation)
    assert bands > 1
    least = correlated.prefix_error(bands, rounds, separation)
    assert least < 0.5 * correlated.prefix_error(1, rounds, separation)
    noising, strategy = matrices(bands, rounds)
    summed = np.tril(np.ones((rounds, rounds))) @ noising
    worst = strategy[:, ::separation].sum(1)
    direct = np.linalg.norm(worst) * math.sqrt(np.square(summed).sum() / rounds)
    assert least == pytest.approx(direct)


def test_a_client_comes_again_after_exactly_one_pass():
    cohorts = [FIXED.indices(round, np.ones(N, int), 5).tolist() for round in range(9)]
    assert cohorts[:3] == cohorts[3:6] == cohorts[6:]
    assert sorted(itertools.chain(*cohorts[:3])) == list(range(N))
    others = [Passes(4).indices(round, np.ones(N, int), 5).tolist() for round in range(6)]
    assert others[:3] != others[3:]
    assert repr(Passes(4)) == "Passes(clients_per_round=4)"


def test_noise_of_a_simulation_is_independent_behind_the_strategy_matrix():
    rounds, scale = 60, 1e4 * 0.3
    algorithm = private(noise_multiplier=1e4, rounds=rounds)  # beside which deltas are nothing
    simulation = Simulation(algorithm, CLIENTS, FIXED)
    start = simulation.init()
    states = [start, *(round.state for round in simulation.rounds(start, rounds))]
    values = np.stack(
        [np.concatenate([np.ravel(x) for x in jax.tree.leaves(s.global_params)]) for s in states]
    )
    noise = np.diff(values.astype(np.float64), axis=0) * 4 / scale  # over the public divisor
    assert noise.shape == (rounds, 3 * ITEMS)
    independent = matrices(4, rounds)[1] @ noise
    low, high = stats.chi2.ppf([1e-6, 1 - 1e-6], independent.size)
    assert low < np.square(independent).sum() < high
    for lag in (1, 2, 3, 4):
        products = independent[lag:] * independent[:-lag]
        assert abs(products.mean()) < 5 / math.sqrt(products.size)
    assert np.mean(noise[1:] * noise[:-1]) < -0.3  # rounds take back noise of those before them
    assert not any(np.any(state.privacy.noise_key) for state in states)


class StopError(Exception):
    """What a callback raises to end a run in the middle."""


def train(out, **others):
    settings = {"evaluate_every": 2, "checkpoint_every": 2, **others}
    return fr.train(private(), CLIENTS, 6, sampling=FIXED, out=out, **settings)


def stop(evaluated):
    if evaluated.round == 4:
        raise StopError


def test_a_resumed_run_takes_back_the_noise_of_before(tmp_path, monkeypatch):
    """The same secret and the same inputs: equal bits, whether or not the run was interrupted."""
    secret = "fedrecon.experiment.storage.noise_keys.secrets.token_bytes"
    monkeypatch.setattr(secret, lambda count: bytes(range(count)))
    whole = train(tmp_path / "whole")
    with pytest.raises(StopError):
        train(tmp_path / "cut", callbacks=[stop])
    resumed = train(tmp_path / "cut")
    assert (resumed.resumed_from, resumed.privacy) == (4, whole.privacy)
    jax.tree.map(np.testing.assert_array_equal, resumed.global_params, whole.global_params)


def test_a_lost_key_ends_the_run(tmp_path):
    with pytest.raises(StopError):
        train(tmp_path / "run", callbacks=[stop])
    (key,) = tmp_path.glob("*.noise-key")
    key.unlink()
    for _ in range(2):
        with pytest.raises(RunError, match="the run's noise key is lost"):
            train(tmp_path / "run")


def test_other_noise_bands_and_orders_are_refused():
    for sampling in (Everyone(), Passes(4)):
        with pytest.raises(ValueError, match="noise_bands must be 1 unless sampling is Passes"):
            private(sampling=sampling)
    with pytest.raises(ValueError, match="noise_bands must be a whole number of at least 1, got 0"):
        private(noise_bands=0)
    with pytest.raises(ValueError, match="order must be 'random' or 'fixed', got 'same'"):
        Passes(4, order="same")
    with pytest.raises(ValueError, match="secret must have a context"):
        Simulation(private(), CLIENTS, FIXED, secret=Secret(bytes(32)))
    assert private(noise_bands=None, rounds=60).privacy.noise_bands > 1
    assert private(noise_bands=None, sampling=Passes(4)).privacy.noise_bands == 1
