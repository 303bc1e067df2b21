"""The noise is the Gaussian noise that is claimed, made from a cipher's key stream."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from fedrecon.privacy._noise import _on_circle, normals, normals_like, stream

KEY = np.frombuffer(bytes(range(32)), "<u4")
ZERO = np.zeros(3, np.uint32)
MANY = 10**6


def test_stream_is_that_of_rfc_8439():
    """Section 2.3.2, and the first block of appendix A.1."""
    nonce = np.frombuffer(bytes.fromhex("000000090000004a00000000"), "<u4")
    block = np.asarray(stream(jnp.asarray(KEY), jnp.asarray(nonce), jnp.array([1], jnp.uint32)))
    assert block.astype("<u4").tobytes().hex() == (
        "10f1e7e4d13b5915500fdd1fa32071c4c7d1f4c733c068030422aa9ac3d46c4e"
        "d2826446079faa0914c2d705d98b02a2b5129cd1de164eb9cbd083e8a2503c4e"
    )
    zeros = np.asarray(stream(jnp.zeros(8, jnp.uint32), jnp.zeros(3, jnp.uint32), jnp.zeros(1, jnp.uint32)))
    assert zeros.astype("<u4").tobytes().hex().startswith("76b8e0ada0f13d90405d6ae55386bd28bdd219b8a08ded1a")


@pytest.fixture(scope="module")
def drawn():
    return np.asarray(jax.jit(lambda key: normals(key, jnp.asarray(ZERO), MANY))(KEY), np.float64)


def test_numbers_are_those_of_box_and_muller():
    """In double precision, from the stream's words; also at and beside the quarters of a turn."""
    words = np.asarray(
        stream(jnp.asarray(KEY), jnp.asarray(ZERO), jnp.arange(64, dtype=jnp.uint32)), np.float64
    )
    radii, angles = np.sqrt(-2 * np.log((words[:8] + 1) / 2**32)), words[8:] * (2 * np.pi / 2**32)
    expected = np.concatenate([(radii * np.cos(angles)).ravel(), (radii * np.sin(angles)).ravel()])
    np.testing.assert_allclose(normals(jnp.asarray(KEY), jnp.asarray(ZERO), 1024), expected, atol=2e-6)
    turns = (np.arange(9)[:, None] * 2**29 + np.arange(-2, 3)).astype(np.uint64).astype(np.uint32).ravel()
    angles = turns * (2 * np.pi / 2**32)
    np.testing.assert_allclose(_on_circle(jnp.asarray(turns)), [np.cos(angles), np.sin(angles)], atol=2e-7)


def test_variance_is_within_the_chi_squared_bounds(drawn):
    low, high = stats.chi2.ppf([1e-4, 1 - 1e-4], MANY)
    assert low < np.square(drawn).sum() < high
    assert abs(drawn.mean()) < 4 / np.sqrt(MANY)


def test_distribution_is_normal(drawn):
    assert stats.kstest(drawn, "norm").pvalue > 1e-4
    assert 4.5 < np.abs(drawn).max() < 6.66


def test_neighbours_are_not_correlated(drawn):
    half = MANY // 2
    for lag in (1, 8, 1024, half):
        assert abs(np.mean(drawn[:-lag] * drawn[lag:])) < 4 / np.sqrt(MANY - lag)


@pytest.mark.parametrize("count", [0, 1, 7, 16, 17, 16 * 1024, 16 * 1024 + 1])
def test_any_count(count):
    some = np.asarray(normals(jnp.asarray(KEY), jnp.asarray(ZERO), count))
    assert some.shape == (count,) and np.isfinite(some).all()
    assert len(np.unique(some)) >= 0.99 * count


def test_more_than_the_counter_holds_is_refused():
    with pytest.raises(ValueError, match="count must be"):
        normals(jnp.asarray(KEY), jnp.asarray(ZERO), 2**36)


def test_every_leaf_has_noise_of_its_own():
    tree = {"a": jnp.zeros((30, 4)), "b": (jnp.zeros(()), jnp.zeros((0, 3)), jnp.zeros(120, jnp.float16))}
    noise = normals_like(jnp.asarray(KEY), 0, tree)
    assert jax.tree.map(jnp.shape, noise) == jax.tree.map(jnp.shape, tree)
    assert not np.isclose(np.ravel(noise["a"]), noise["b"][2]).any()


def test_key_and_nonce_decide():
    tree = jnp.zeros(50)
    first, again = (normals_like(jnp.asarray(KEY), 0, tree) for _ in range(2))
    np.testing.assert_array_equal(first, again)
    assert not np.isclose(first, normals_like(jnp.asarray(KEY), 1, tree)).any()
    other = KEY.copy()
    other[7] ^= 1 << 31
    assert not np.isclose(first, normals_like(jnp.asarray(other), 0, tree)).any()
