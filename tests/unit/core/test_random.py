"""The numbers are those of `jax.random`: keys and uniform ones to the bit, normal ones to rounding."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedrecon.core import _random as draws

KEYS = [jax.random.key(seed) for seed in (0, 1, 2**31 - 1)]
SHAPES = [(), (1,), (7,), (50,), (3, 5, 7), (0,), (2000,)]


def same(found, wanted):
    assert found.dtype == wanted.dtype and found.shape == wanted.shape
    np.testing.assert_array_equal(found, wanted)


def close(found, wanted):
    """But for the last digits of what a compiler makes of a single number, as it fuses it with others."""
    assert found.dtype == wanted.dtype and found.shape == wanted.shape
    np.testing.assert_array_max_ulp(np.asarray(found), np.asarray(wanted), 2 if found.size < 2 else 0)


@pytest.mark.parametrize("data", [0, 1, 2**31 + 7, np.int32(5), np.uint32(2**32 - 1)])
@pytest.mark.parametrize("key", KEYS)
def test_keys_of_numbers(key, data):
    found = draws.fold_in(key, data)
    assert found.dtype == key.dtype
    same(jax.random.key_data(found), jax.random.key_data(jax.random.fold_in(key, data)))


@pytest.mark.parametrize("shape", SHAPES)
def test_numbers(shape):
    for key in KEYS:
        for low, high in ((0.0, 1.0), (-0.02, 0.02), (3.0, 9.0)):
            wanted = jax.random.uniform(key, shape, minval=low, maxval=high)
            same(draws.uniform(key, shape, low, high), wanted)
            close(jax.jit(draws.uniform, static_argnums=(1, 2, 3))(key, shape, low, high), wanted)
        wanted = jax.random.normal(key, shape)
        close(draws.normal(key, shape), wanted)
        close(jax.jit(draws.normal, static_argnums=1)(key, shape), wanted)


def test_side_by_side_with_numbers_known_later():
    keys, numbers = jax.random.split(KEYS[0], 9), jnp.arange(9)
    found = jax.jit(jax.vmap(lambda k, i: draws.normal(draws.fold_in(k, i), (5, 10))))(keys, numbers)
    same(found, jax.vmap(lambda k, i: jax.random.normal(jax.random.fold_in(k, i), (5, 10)))(keys, numbers))


@pytest.mark.parametrize("key", [jax.random.key(3, impl="rbg"), jax.random.PRNGKey(3)])
def test_other_kinds_of_keys_are_left_to_jax(key):
    same(draws.uniform(key, (4,)), jax.random.uniform(key, (4,)))
    same(draws.normal(key, (4,)), jax.random.normal(key, (4,)))
    found, wanted = draws.fold_in(key, 2), jax.random.fold_in(key, 2)
    assert found.dtype == wanted.dtype
    same(jax.random.uniform(found), jax.random.uniform(wanted))


def test_double_precision_is_left_to_jax():
    with jax.enable_x64(True):
        same(
            draws.uniform(KEYS[0], (4,), 1.0, 2.0), jax.random.uniform(KEYS[0], (4,), minval=1.0, maxval=2.0)
        )
        same(draws.normal(KEYS[0], (4,)), jax.random.normal(KEYS[0], (4,)))
        assert draws.normal(KEYS[0], (4,)).dtype == jnp.float64


def test_the_older_hash_and_several_numbers_at_once_are_left_to_jax():
    with jax.threefry_partitionable(False):
        same(draws.uniform(KEYS[0], (5,)), jax.random.uniform(KEYS[0], (5,)))
        same(draws.normal(KEYS[0], (5,)), jax.random.normal(KEYS[0], (5,)))
    with pytest.raises(TypeError):
        draws.fold_in(KEYS[0], np.array([1, 2]))


def test_several_keys_at_once_are_refused_as_by_jax():
    keys = jax.random.split(jax.random.key(3), 2)
    for draw in (
        lambda: draws.fold_in(keys, 1),
        lambda: draws.uniform(keys, (3,)),
        lambda: draws.normal(keys, (3,)),
    ):
        with pytest.raises((TypeError, ValueError), match="accepts a single key"):
            draw()
