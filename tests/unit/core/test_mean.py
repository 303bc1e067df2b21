"""Means as pairs of sums."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedrecon.core._mean import Mean, summed


def test_of_one_observation_each():
    mean = Mean.of(jnp.array([1.0, 4.0]))
    np.testing.assert_array_equal(mean.total, [1, 4])
    np.testing.assert_array_equal(mean.weight, [1, 1])


def test_of_a_tree_under_weights():
    value = {"a": jnp.array([[1.0, 2.0], [3.0, 4.0]]), "b": jnp.array([5.0, 6.0])}
    mean = Mean.of(value, [2, 0])
    np.testing.assert_array_equal(mean.total["a"], [[2, 4], [0, 0]])
    np.testing.assert_array_equal(mean.total["b"], [10, 0])
    assert mean.weight.dtype == jnp.float32


def test_sum_is_the_mean_over_the_axis():
    mean = Mean.of(jnp.array([[1.0, 4.0], [2.0, 6.0]]), jnp.array([[1.0, 3.0], [0.0, 1.0]]))
    np.testing.assert_allclose(mean.sum().value(), [1.0, 4.5])
    np.testing.assert_allclose(mean.sum((0, 1)).value(), (1 + 12 + 6) / 5)


def test_merge_is_the_mean_over_both():
    both = Mean.of(jnp.array(2.0), 3.0).merge(Mean.of(jnp.array(6.0), 1.0))
    assert float(both.value()) == 3.0


def test_where_forgets_whatever_was_there():
    mean = Mean.of({"x": jnp.array([[jnp.nan, 1.0], [2.0, 3.0]])}, jnp.array([jnp.inf, 1.0])).where(
        jnp.array([False, True])
    )
    np.testing.assert_array_equal(mean.total["x"], [[0, 0], [2, 3]])
    np.testing.assert_array_equal(mean.weight, [0, 1])


def test_value_of_nothing_is_zero():
    np.testing.assert_array_equal(Mean(jnp.zeros((2, 3)), jnp.zeros(2)).value(), np.zeros((2, 3)))


def test_it_is_a_pytree():
    mean = jax.vmap(lambda x: Mean.of(x, 2.0))(jnp.arange(3.0))
    assert isinstance(mean, Mean)
    np.testing.assert_array_equal(mean.weight, [2, 2, 2])


@pytest.mark.parametrize("shape", [(3,), (3, 5), (3, 130, 130), (1, 2**15), (0, 2**15), (7, 2, 2**14)])
def test_long_arrays_are_summed_as_short_ones(shape):
    x = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    found = jax.jit(summed)(x)
    assert found.dtype == jnp.float32
    np.testing.assert_allclose(found, x.sum(0, dtype=np.float64), rtol=1e-6, atol=1e-6)


def test_long_halves_are_summed_in_single_precision():
    x = jnp.full((4096, 2**14), 1, jnp.float16)  # their sum is beyond what a half counts to
    assert float(jax.jit(summed)(x)[0]) == 4096


def test_what_is_not_finite_stays_so():
    x = jnp.zeros((2, 2**14)).at[0, 5].set(jnp.inf).at[1, 7].set(jnp.nan)
    found = summed(x)
    assert jnp.isinf(found[5]) and jnp.isnan(found[7]) and float(jnp.abs(found[jnp.array([0, 6])]).max()) == 0
