"""The best of many scores, in groups."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedrecon._kernels.top_k import best


def wanted(scores, count):
    order = np.argsort(-scores, axis=1, kind="stable")[:, :count]
    return np.take_along_axis(scores, order, 1), order


@pytest.mark.parametrize("items", [200, 800, 1003])
def test_the_highest_and_of_equal_ones_the_first(items):
    """Most scores are equal; of one client's there are fewer than are wanted, of another's none."""
    count = 3
    scores = np.random.default_rng(0).integers(0, 20, (6, items)).astype(np.float32)
    scores[1, np.random.default_rng(1).permutation(items)[1:]] = -np.inf
    scores[2] = -np.inf
    scores[3] = np.arange(items)
    scores[4] = -np.arange(items)
    found = jax.jit(jax.vmap(lambda x: best(x, count)))(scores)
    for one, expected in zip(found, wanted(scores, count), strict=True):
        np.testing.assert_array_equal(one, expected)


def test_many_are_searched_by_groups():
    """The largest search is over the maxima of the groups, not over all."""
    shown = str(jax.make_jaxpr(lambda x: best(x, 3))(jnp.zeros(1003)))
    assert "f32[63,16]" in shown
    assert "f32[16" not in str(jax.make_jaxpr(lambda x: best(x, 3))(jnp.zeros(700)))
