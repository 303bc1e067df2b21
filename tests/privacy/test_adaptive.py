"""Clipping bounds that follow a quantile of the clients' norms."""

import math
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tests.small import LENGTHS, examples, federation, rating_model, sgd, solver

import fedrecon as fr
from fedrecon.algorithms._base import Broadcast, Update
from fedrecon.algorithms._building_blocks import uniform
from fedrecon.core._mean import Mean
from fedrecon.core._splits import AlternateBatches
from fedrecon.data._sampling import Everyone, Passes
from fedrecon.privacy._accounting import accounting
from fedrecon.privacy._adaptive import AdaptiveClipping
from fedrecon.privacy._secret import Secret
from fedrecon.privacy._user_level import user_level_dp
from fedrecon.simulation._simulation import Simulation

CLIENTS, N = federation(), len(LENGTHS)
SECRET = Secret(bytes(range(32)))


def private(**changed):
    base = fr.fedrecon(
        rating_model(), solver(), solver(), sgd(1e-9), AlternateBatches(2), client_weight=uniform
    )
    settings = {"clip": 0.3, "noise_multiplier": 2.0, "rounds": 40, "clip_quantile": 0.5, **changed}
    return user_level_dp(base, sampling=Everyone(), num_clients=N, delta=1e-3, **settings)


def norm(tree):
    return math.sqrt(sum(float(np.sum(np.square(x, dtype=np.float64))) for x in jax.tree.leaves(tree)))


@pytest.mark.parametrize(("sampling", "step"), [(Everyone(), 0.5), (Passes(4), 1.0)])
def test_deltas_and_counts_together_are_as_private_as_deltas_alone(sampling, step):
    """Both sensitivities, each in units of its own noise, are together that of the one mechanism."""
    for multiplier in (0.5, 3.0, 40.0):
        adaptive = AdaptiveClipping.of(0.5, multiplier, accounting(sampling, 2000))
        both = math.hypot(1 / adaptive.delta_noise_multiplier, step / adaptive.count_deviation)
        assert both == pytest.approx(1 / multiplier)
        assert adaptive.delta_noise_multiplier < 1.2 * multiplier


def test_epsilon_is_that_of_a_fixed_bound_and_the_ledger_names_the_counts():
    adaptive, fixed = private().privacy, private(clip_quantile=None).privacy
    assert adaptive.epsilon(7) == fixed.epsilon(7)
    assert "counts of deltas within the bound" in adaptive.ledger(7).mechanism
    assert "counts" not in fixed.ledger(7).mechanism


@pytest.fixture(scope="module")
def sent():
    """`sent(client, factor)`: the update of a client that was told bounds of `factor` times 0.3."""
    algorithm = private()
    params = algorithm.init(jax.random.key(0)).global_params

    @jax.jit
    def update(given, factor):
        broadcast = Broadcast(params, jnp.int32(0), factor)
        return algorithm.client_update(broadcast, (), given, jax.random.key(1))[0]

    return lambda client, factor: update(examples(CLIENTS, client, 13), jnp.float32(factor))


@pytest.mark.parametrize("factor", [0.1, 1.0, 1e6])
def test_a_client_clips_to_the_bound_that_it_was_told(factor, sent):
    update = sent("c8", factor)
    assert norm(update.delta.total) <= 0.3 * factor * (1 + 1e-6)
    assert update.delta.weight == (0.5 if factor == 1e6 else -0.5)
    assert update.rows == {} and update.metrics == {} and update.statistics == ()
    nobody = sent("c0", factor)
    assert nobody.delta.weight == 0.5 and norm(nobody.delta.total) == 0


def factors_of(simulation, rounds, start):
    """The bounds after every round over 0.3, from rounds that begin at `start`."""
    state = simulation.init()
    state = state._replace(privacy=state.privacy._replace(clip_factor=jnp.float32(start)))
    return [float(round.state.privacy.clip_factor) for round in simulation.rounds(state, rounds)]


def test_bound_goes_to_the_quantile_whatever_it_starts_from(sent):
    """With next to no noise, and parameters that stay: the median of the norms, from both sides."""
    algorithm = private(rounds=120, noise_multiplier=1e-6)
    simulation = Simulation(algorithm, CLIENTS, Everyone(), secret=SECRET)
    norms = np.array([norm(sent(client, 1e9).delta.total) for client in CLIENTS.ids])
    # Some clients are idle, so that the median lies among small norms; a step of the bound is at most 10%.
    for start in (0.15, 100.0):
        bound = 0.3 * np.exp(np.mean(np.log(factors_of(simulation, 120, start)[-40:])))
        assert np.mean(norms <= 1.5 * bound) >= 0.4
        assert np.mean(norms < bound / 1.5) <= 0.6


def test_blocks_do_not_count_what_fills_them_up():
    """One client side by side and several in a block have the same count: padding has none."""
    algorithm = private(rounds=1)

    def watched(state, update):
        new = algorithm.server_update(state, update)
        return new._replace(privacy=new.privacy._replace(clip_factor=update.delta.weight))

    counts = []
    for clients_per_block in (1, 4):
        counting = replace(algorithm, server_update=watched)
        simulation = Simulation(
            counting, CLIENTS, Everyone(), secret=SECRET, clients_per_block=clients_per_block
        )
        counts.append([factors_of(simulation, 1, start)[0] for start in (1e9, 0.15)])
    assert N % 4  # so that the last block of four is filled up
    assert counts[0] == counts[1]
    assert counts[0][0] == N / 2 and -N / 2 <= counts[0][1] < N / 2


def test_without_a_noise_key_the_bound_is_no_number():
    """A bound that followed a count without noise would tell the count."""
    algorithm = private()
    state = algorithm.init(jax.random.key(0))
    zeros = jax.tree.map(jnp.zeros_like, state.global_params)
    update = Update(Mean(zeros, jnp.float32(1.5)), {}, {})
    key = np.arange(1, 9, dtype=np.uint32)
    armed = algorithm.privacy.armed(state, key)
    assert np.isnan(algorithm.server_update(state, update).privacy.clip_factor)
    assert np.isfinite(algorithm.server_update(armed, update).privacy.clip_factor)


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="clip_quantile must be above 0 and below 1, got 1"):
        private(clip_quantile=1.0)
    base = fr.fedrecon(rating_model(), solver(), solver(), sgd(1.0), client_weight=uniform)
    with pytest.raises(ValueError, match="clip_quantile must be None under correlated noise"):
        user_level_dp(
            base,
            clip=0.3,
            noise_multiplier=2.0,
            rounds=6,
            sampling=Passes(4, order="fixed"),
            num_clients=N,
            delta=1e-3,
            noise_bands=2,
            clip_quantile=0.5,
        )


def test_a_resumed_run_goes_on_with_its_bound(tmp_path):
    algorithm = private(rounds=4)

    def train(**others):
        settings = {"evaluate_every": 2, "checkpoint_every": 2, **others}
        return fr.train(algorithm, CLIENTS, 4, sampling=Everyone(), out=tmp_path / "run", **settings)

    def stop(evaluated):
        if evaluated.round == 2:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        train(callbacks=[stop])
    result = train()
    assert result.resumed_from == 2
    assert result.state.privacy.clip_factor != 1
    assert "follows their quantile 0.5 from 0.3 on" in result.privacy.mechanism
