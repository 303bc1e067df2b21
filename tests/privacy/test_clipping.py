"""No delta, whatever it holds, moves the sum by more than the bound."""

import functools
import math

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedrecon.privacy._clipping import Clipping, dense

FLOAT32, FLOAT16, BFLOAT16 = (np.dtype(x) for x in (np.float32, np.float16, ml_dtypes.bfloat16))
# Few shapes, since each is compiled anew: among them scalars, empty arrays, and sums of several levels.
TREES = [
    {"a": ((), FLOAT32), "b": ((3,), FLOAT32)},
    {"a": ((2, 2), FLOAT16), "b": ((0, 3), FLOAT16)},
    {"a": ((), BFLOAT16), "b": ((40,), BFLOAT16)},
    {"a": ((3,), FLOAT16), "b": ((2, 1, 2), BFLOAT16), "c": ((), FLOAT32)},
    {"a": ((0,), FLOAT32)},
]


@st.composite
def deltas(draw, finite=True):
    """Pytrees of a few leaves, from zeros and the smallest numbers to the largest of their types."""
    tree = {}
    for name, (shape, dtype) in draw(st.sampled_from(TREES)).items():
        most = float(ml_dtypes.finfo(dtype).max)
        numbers = (
            st.floats(-most, most) | st.floats(-2, 2) | st.sampled_from([0.0, most, -most, 1e-30, 1e-38])
        )
        if not finite:
            numbers |= st.sampled_from([math.nan, math.inf, -math.inf])
        size = math.prod(shape)
        flat = draw(st.lists(numbers, min_size=size, max_size=size))
        with np.errstate(over="ignore", under="ignore"):
            tree[name] = np.array(flat, np.float64).astype(dtype).reshape(shape)
    return tree


@functools.partial(jax.jit, static_argnums=0)
def clipped_once(clipping, delta):
    return clipping(delta)


def clip(bound, delta):
    return jax.tree.map(np.asarray, clipped_once(Clipping.of(bound), delta))


def norm(tree):
    """In a precision in which nothing overflows."""
    return math.sqrt(
        sum(float(np.sum(np.square(np.asarray(x, np.longdouble)))) for x in jax.tree.leaves(tree))
    )


@given(delta=deltas(), bound=st.sampled_from([1e-3, 1.0, 700.0]))
@settings(max_examples=200)
def test_norm_is_at_most_the_bound(delta, bound):
    clipped = clip(bound, delta)
    assert norm(clipped) <= bound
    assert jax.tree.map(np.shape, clipped) == jax.tree.map(np.shape, delta)
    before = norm(delta)
    if before < bound * (1 - 1e-3):
        for a, b in zip(jax.tree.leaves(clipped), jax.tree.leaves(delta), strict=True):
            np.testing.assert_array_equal(a, np.asarray(b, np.float32))
    elif before > bound * (1 + 1e-3):
        assert norm(clipped) > bound * (1 - 1e-3)  # divided by no more than it takes


@given(delta=deltas(finite=False))
@settings(max_examples=100)
def test_what_is_not_finite_becomes_zero_as_a_whole(delta):
    clipped = clip(1.0, delta)
    finite = all(np.isfinite(np.asarray(x, np.float32)).all() for x in jax.tree.leaves(delta))
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(clipped))
    if not finite:
        assert not any(np.any(x) for x in jax.tree.leaves(clipped))


def test_many_small_numbers_beside_a_large_one_count():
    """A running sum in single precision would lose all of them."""
    delta = jnp.full(4_000_001, 1e-4).at[0].set(1.0)
    clipped = Clipping.of(1.0)(delta)
    assert 1 - 1e-3 < norm(clipped) <= 1


def test_a_client_is_clipped_the_same_whoever_is_beside_it():
    """Also beside one whose squares overflow, and one that is not finite."""
    generator = np.random.default_rng(0)
    usual = generator.normal(size=(3, 50)).astype(np.float32) * np.float32([[0.01], [1.0], [1e6]])
    others = np.stack([np.full(50, 1e30), np.full(50, np.nan)]).astype(np.float32)
    clip_all = jax.jit(jax.vmap(Clipping.of(1.0)))
    alone, beside = clip_all(usual), clip_all(np.concatenate([usual, others]))
    np.testing.assert_array_equal(alone, beside[:3])
    np.testing.assert_array_equal(alone, [Clipping.of(1.0)(jnp.asarray(x)) for x in usual])
    assert 1 - 1e-3 < norm(beside[3]) <= 1 and not np.any(beside[4])


def test_groups_have_bounds_of_their_own():
    clipping = Clipping.of({"item/bias": 0.5, "item/factors": 2.0})
    assert clipping.bound == math.hypot(0.5, 2.0)
    delta = {"item": {"bias": jnp.full(9, 10.0), "factors": jnp.full((2, 2), 0.1)}}
    clipped = clipping(delta)
    assert norm(clipped["item"]["bias"]) == pytest.approx(0.5, rel=1e-4)
    np.testing.assert_array_equal(clipped["item"]["factors"], delta["item"]["factors"])
    delta["item"]["factors"] = delta["item"]["factors"].at[0].set(jnp.nan)
    assert not np.any(clipping(delta)["item"]["bias"])  # a broken delta is 0 in all groups


def test_groups_must_fit_the_parameters():
    params = {"item": {"bias": jnp.zeros(9), "factors": jnp.zeros((9, 2))}, "scale": jnp.zeros(())}
    Clipping.of({"item": 1.0, "scale": 1}).check(params)
    with pytest.raises(ValueError, match="'scale' is in none"):
        Clipping.of({"item": 1.0}).check(params)
    with pytest.raises(ValueError, match=r"'item/bias' is in \['', 'item'\]"):
        Clipping.of({"item": 1.0, "": 2.0}).check(params)
    with pytest.raises(ValueError, match="clip names 'itme'"):
        Clipping.of({"item": 1.0, "scale": 1, "itme": 1.0}).check(params)


def test_integer_leaves_are_refused_by_name():
    with pytest.raises(TypeError, match="'rows' must hold floating-point numbers"):
        Clipping.of(1.0).check({"rows": jnp.zeros(3, jnp.int32), "x": jnp.zeros(3)})


@pytest.mark.parametrize("clip", [0, 0.0, -1.0, math.inf, math.nan, True, {"a": 0.0}, {}, "1"])
def test_bounds_must_be_positive_numbers(clip):
    with pytest.raises(ValueError, match="clip"):
        Clipping.of(clip)


def test_equal_rows_are_summed_before_the_norm():
    """Two rows of norm 1 and the same number are one row of norm 2."""
    like = {"table": jnp.zeros((5, 2)), "rest": jnp.zeros(1)}
    delta = {"table": jnp.array([[[1.0, 0.0]], [[1.0, 0.0]], [[0.0, 9.0]]]), "rest": jnp.zeros(1)}
    whole = dense(delta, {"table": jnp.array([[3], [3], [5]])}, like)  # the last one is padding's
    np.testing.assert_array_equal(whole["table"], np.eye(5, 2)[[2, 2, 2, 0, 2]] * 2)
    assert norm(Clipping.of(1.0)(whole)) <= 1
