"""Compressed deltas: unbiased rounding, the largest entries, bytes, and that they protect nobody."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tests.small import ITEMS, examples, federation, rating_model, sgd, solver

import fedrecon as fr
from fedrecon.algorithms._base import Broadcast
from fedrecon.algorithms._building_blocks import uniform
from fedrecon.core._model import leaves_of
from fedrecon.core._splits import AlternateBatches
from fedrecon.data._sampling import Everyone
from fedrecon.privacy import Compression, compressed, user_level_dp
from fedrecon.privacy._clipping import dense
from fedrecon.simulation._simulation import Simulation

CLIENTS = federation()


def base(**others):
    return fr.fedrecon(rating_model(), solver(), solver(), sgd(0.5), AlternateBatches(2), **others)


@pytest.mark.parametrize("bits", [4, 8])
def test_rounding_keeps_the_mean_and_has_few_values(bits):
    compression, levels = Compression(bits), 2 ** (bits - 1) - 1
    x = jnp.asarray(np.random.default_rng(0).normal(size=50), jnp.float32)
    draws = np.asarray(
        jax.vmap(lambda key: compression({"a": x}, key)["a"])(jax.random.split(jax.random.key(0), 4000))
    )
    step = float(jnp.max(jnp.abs(x))) / levels
    np.testing.assert_allclose(draws / step, np.rint(draws / step), atol=1e-3)
    assert np.abs(draws / step).max() <= levels + 1e-3
    assert np.abs(draws - np.asarray(x)).max() <= step * (1 + 1e-5)
    # Of 4,000 draws whose deviation is at most half a step.
    assert np.abs(draws.mean(0) - np.asarray(x)).max() < 5 * step / 2 / np.sqrt(4000)


def test_nothing_and_what_is_not_finite_stay_what_they_are():
    compression, key = Compression(8, 0.5), jax.random.key(0)
    assert not np.any(compression(jnp.zeros(5), key))
    assert compression(jnp.zeros((0, 3)), key).shape == (0, 3)
    assert not np.isfinite(compression(jnp.array([1.0, jnp.nan, 2.0]), key)).all()


def test_the_largest_entries_are_sent_whatever_the_padding():
    compression = Compression(32, 0.4)
    x = jnp.array([0.1, -5.0, 2.0, 0.0, 3.0, -0.2, 0.0])
    sent = compression(x, jax.random.key(0))
    np.testing.assert_array_equal(sent, [0, -5, 0, 0, 3, 0, 0])  # two of the five that are not 0
    padded = compression(jnp.concatenate([x, jnp.zeros(9)]), jax.random.key(0))
    np.testing.assert_array_equal(padded[:7], sent)


@pytest.mark.parametrize(("bits", "top"), [(4, 1.0), (8, 1.0), (32, 0.1), (8, 0.25)])
def test_a_simulation_counts_the_bytes_and_learns(bits, top):
    plain, small = base(), compressed(base(), bits, top)
    sent, losses = {}, {}
    for name, algorithm in (("plain", plain), ("small", small)):
        simulation = Simulation(algorithm, CLIENTS, Everyone())
        rounds = list(simulation.rounds(simulation.init(), 15))
        sent[name] = rounds[-1]
        means = rounds[-1].metrics()["mse"]
        losses[name] = means.total / means.weight
        first = rounds[0].metrics()["mse"]
    rows = int(np.sum(next(iter(sent["plain"].rows.values()))))
    assert sent["plain"].bytes_up == rows * (3 * 4 + 4)
    place, scale = (0 if top == 1 else 4), (0 if bits == 32 else 4)
    entries = [np.ceil(rows * width * top) for width in (2, 1)]
    expected = 4 * rows + sum(np.ceil(n * (bits / 8 + place)) for n in entries) + 2 * scale * len(CLIENTS)
    assert sent["small"].bytes_up == expected
    assert sent["small"].bytes_down == sent["plain"].bytes_down
    assert losses["small"] < first.total / first.weight


def test_rounding_hides_neither_rows_nor_directions():
    """The rows of a delta of 8 bits are those of the client, and point where they pointed."""
    deltas = []
    for algorithm in (base(), compressed(base(), 8)):
        params = algorithm.init(jax.random.key(0)).global_params
        run = jax.jit(
            lambda given, a=algorithm, p=params: a.client_update(
                Broadcast(p, jnp.int32(0)), (), given, jax.random.key(1)
            )[0]
        )
        deltas.append(leaves_of(run(examples(CLIENTS, "c8", 13)).delta.value())["item/factors"])
    exact, rounded = map(np.asarray, deltas)
    moved = np.linalg.norm(exact, axis=1) > 0.05 * np.linalg.norm(exact, axis=1).max()
    assert not np.any(rounded[~exact.any(1)])
    cosines = np.sum(exact * rounded, 1)[moved] / np.linalg.norm(exact[moved], axis=1)
    assert (cosines / np.linalg.norm(rounded[moved], axis=1) > 0.98).all()


def test_privacy_clips_what_was_rounded():
    algorithm = user_level_dp(
        compressed(base(client_weight=uniform), 4),
        clip=0.01,
        noise_multiplier=1.0,
        rounds=1,
        sampling=Everyone(),
        num_clients=len(CLIENTS),
        delta=1e-3,
    )
    params = algorithm.init(jax.random.key(0)).global_params
    broadcast = Broadcast(params, jnp.int32(0))
    given = examples(CLIENTS, "c8", 13)
    delta = jax.jit(lambda x: algorithm.client_update(broadcast, (), x, jax.random.key(1))[0])(
        given
    ).delta.total
    assert np.sqrt(sum(float(jnp.sum(jnp.square(x))) for x in jax.tree.leaves(delta))) <= 0.01
    simulation = Simulation(algorithm, CLIENTS, Everyone())
    (round,) = simulation.rounds(simulation.init(), 1)
    assert round.bytes_up == len(CLIENTS) * (ITEMS + ITEMS // 2 + 2 * 4)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"bits": 7}, "bits must be 4, 8 or 32, got 7"),
        ({"top": 0.0}, "top must be above 0 and at most 1, got 0"),
    ],
)
def test_other_numbers_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        compressed(base(), **settings)


def test_what_cannot_be_compressed_is_refused():
    with pytest.raises(ValueError, match="exchanges nothing"):
        compressed(fr.algorithms.local_only(rating_model(), solver()))
    with pytest.raises(ValueError, match="must not be compressed before"):
        compressed(compressed(base()))


@pytest.mark.parametrize(("bits", "top"), [(4, 1.0), (32, 0.05)])
def test_what_is_left_out_is_sent_the_next_time(bits, top):
    """With parameters that stay: what was sent and what is kept are together all deltas so far."""
    plain = base(client_weight=uniform)
    algorithm = compressed(plain, bits, top, error_feedback=True)
    params = algorithm.init(jax.random.key(0)).global_params
    given = examples(CLIENTS, "c8", 13)
    broadcast = Broadcast(params, jnp.int32(0))

    @jax.jit
    def step(state, key):
        update, state = algorithm.client_update(broadcast, state, given, key)
        wanted = plain.client_update(broadcast, (), given, key)[0]
        return update, state, dense(wanted.delta.value(), wanted.rows, params)

    state = algorithm.init_client_state(params, jax.random.key(1))
    sent = total = jax.tree.map(jnp.zeros_like, params)
    for number in range(6):
        update, state, wanted = step(state, jax.random.key(number))
        assert update.rows == {}
        sent = jax.tree.map(jnp.add, sent, update.delta.value())
        total = jax.tree.map(jnp.add, total, wanted)
        if top < 1:
            for x in jax.tree.leaves(update.delta.total):
                assert np.count_nonzero(x) <= np.ceil(x.size * top)
    for a, b, c in zip(*map(jax.tree.leaves, (sent, state[1], total)), strict=True):
        np.testing.assert_allclose(a + b, c, atol=1e-5)
        assert np.any(b != 0)


def test_clients_that_send_nothing_keep_what_was_left_out():
    algorithm = compressed(base(client_weight=uniform), 32, 0.05, error_feedback=True)
    params = algorithm.init(jax.random.key(0)).global_params
    left = jax.tree.map(lambda x: jnp.full(x.shape, 0.5), params)
    update, (_, after) = algorithm.client_update(
        Broadcast(params, jnp.int32(0)), ((), left), examples(CLIENTS, "c0", 13), jax.random.key(1)
    )
    assert update.delta.weight == 0
    assert not any(np.any(x) for x in jax.tree.leaves(update.delta.total))
    for a, b in zip(jax.tree.leaves(after), jax.tree.leaves(left), strict=True):
        np.testing.assert_array_equal(a, b)


def test_error_feedback_in_rounds_counts_whole_tables_and_is_clipped_with_the_rest():
    algorithm = compressed(base(client_weight=uniform), 32, 0.1, error_feedback=True)
    simulation = Simulation(algorithm, CLIENTS, Everyone())
    *_, last = simulation.rounds(simulation.init(), 3)
    assert last.bytes_up == len(CLIENTS) * sum(int(np.ceil(n * 0.1)) * 8 for n in (ITEMS * 2, ITEMS))
    private = user_level_dp(
        algorithm, clip=0.1, rounds=3, sampling=Everyone(), num_clients=len(CLIENTS), delta=1e-3, epsilon=1.0
    )
    params = private.init(jax.random.key(0)).global_params
    state = private.init_client_state(params, jax.random.key(1))
    state = (state[0], jax.tree.map(lambda x: jnp.full(x.shape, 100.0), params))
    update, _ = private.client_update(
        Broadcast(params, jnp.int32(0)), state, examples(CLIENTS, "c8", 13), jax.random.key(1)
    )
    assert np.sqrt(sum(float(np.sum(x**2)) for x in jax.tree.leaves(update.delta.total))) <= 0.1
    assert fr.evaluate(algorithm, last.state, CLIENTS, client_states=simulation.client_states).per_client
