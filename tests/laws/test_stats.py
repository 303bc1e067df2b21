"""Means are a commutative monoid, exactly so where the sums are exact."""

import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from fedrecon.core._mean import Mean

# Whole numbers, so small that sums of products are exact in single precision.
WHOLE = st.integers(-100, 100)
WEIGHTS = st.integers(0, 20)


@st.composite
def means(draw):
    """What a mean is of, and its weight. The mean itself is made by the test: while arguments are checked,
    numbers are drawn by `random`, which strategies must not do."""
    value = {"a": draw(WHOLE), "b": np.array(draw(st.lists(WHOLE, min_size=2, max_size=2)))}
    return jax.tree.map(lambda x: np.asarray(x, np.float32), value), draw(WEIGHTS)


ZERO = Mean({"a": jnp.zeros(()), "b": jnp.zeros(2)}, jnp.zeros(()))


def same(a, b):
    return all(np.array_equal(x, y) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))


@settings(max_examples=50)
@given(means(), means(), means())
def test_commutative_monoid(a, b, c):
    a, b, c = (Mean.of(value, weight) for value, weight in (a, b, c))
    assert same(a.merge(b), b.merge(a))
    assert same(a.merge(b).merge(c), a.merge(b.merge(c)))
    assert same(a.merge(ZERO), a)


@settings(max_examples=50)
@given(means(), means(), means())
def test_sum_of_a_stack_is_what_merging_gives(a, b, c):
    a, b, c = (Mean.of(value, weight) for value, weight in (a, b, c))
    stacked = Mean(*jax.tree.map(lambda *xs: np.stack(xs), *map(tuple, (a, b, c))))
    assert same(stacked.sum(), a.merge(b).merge(c))


@settings(max_examples=50)
@given(
    st.lists(st.tuples(WHOLE, WEIGHTS), min_size=5, max_size=5),
    st.lists(st.booleans(), min_size=5, max_size=5),
)
def test_where_then_sum_is_the_mean_of_those(pairs, keep):
    values, weights = np.array(pairs, np.float32).T
    found = Mean.of(jnp.asarray(values), jnp.asarray(weights)).where(jnp.array(keep)).sum()
    kept = np.array(keep)
    assert found.weight == weights[kept].sum()
    if found.weight:
        np.testing.assert_allclose(found.value(), np.average(values[kept], weights=weights[kept]), rtol=1e-6)
    else:
        assert found.value() == 0
