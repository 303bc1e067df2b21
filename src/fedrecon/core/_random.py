"""Random numbers equal to those of `jax.random`, from a hash that is written out.

JAX writes its threefry hash as a loop of five steps, which a CPU runs operation by operation: for the few
thousand numbers that a client draws, most of the time is overhead. Written out, with the halves of the key as
scalars, it becomes a few fused operations, which take no longer to compile (docs/performance_notes.md).
"""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Integer, UInt32

from fedrecon.core._types import Number, PRNGKey

_IMPL = "threefry2x32"
_ROTATIONS = (13, 15, 26, 6), (17, 29, 16, 24)
_PARITY = 0x1BD11BDA


def fold_in(key: PRNGKey, data: int | Integer[Any, "..."]) -> Any:
    """`jax.random.fold_in`: a random key that follows from another key and a whole number."""
    if not _is_own(key) or jnp.ndim(data):
        return jax.random.fold_in(key, data)
    return _fold_in(key, jnp.asarray(data, jnp.uint32))


def uniform(
    key: PRNGKey, shape: tuple[int, ...], minval: float = 0.0, maxval: float = 1.0
) -> Float[Array, "*shape"]:
    """`jax.random.uniform` in the default precision: numbers from `minval` to below `maxval`."""
    # JAX itself draws what this hash cannot: more numbers than 32 bits count, and float64, of 64 random bits.
    if not _is_own(key) or not 0 <= math.prod(shape) < 2**32 or jnp.result_type(float) != jnp.float32:
        return jax.random.uniform(key, shape, minval=minval, maxval=maxval)
    return _uniform(key, shape, jnp.float32(minval), jnp.float32(maxval))


def normal(key: PRNGKey, shape: tuple[int, ...]) -> Float[Array, "*shape"]:
    """`jax.random.normal` in the default precision: independent standard normal numbers."""
    if jnp.result_type(float) != jnp.float32:
        return jax.random.normal(key, shape)
    above = float(jnp.finfo(jnp.float32).eps) / 2 - 1  # the float32 after -1, whose inverse error is finite
    return jnp.float32(math.sqrt(2)) * jax.lax.erf_inv(uniform(key, shape, above, 1.0))


# Under `jit`, as JAX's own functions are: the body is traced once, and it is compiled in one piece, without
# which its fusions, and with them the last bits, could differ from JAX's.
@jax.jit
def _fold_in(key: PRNGKey, data: UInt32[Array, ""]) -> Any:
    pair = hash_pair(*_halves(key), jnp.uint32(0), data)
    return jax.random.wrap_key_data(jnp.stack(pair), impl=_IMPL)


@functools.partial(jax.jit, static_argnums=1)
def _uniform(key: PRNGKey, shape: tuple[int, ...], low: Number, high: Number) -> Float[Array, "*shape"]:
    count = jnp.arange(math.prod(shape), dtype=jnp.uint32).reshape(shape)
    one, other = hash_pair(*_halves(key), jnp.uint32(0), count)
    # The upper 23 bits become the mantissa of a number from 1 to below 2.
    bits = ((one ^ other) >> jnp.uint32(9)) | jnp.uint32(0x3F800000)
    fraction = jax.lax.bitcast_convert_type(bits, jnp.float32) - 1
    return jnp.maximum(low, fraction * (high - low) + low)


def _is_own(key: PRNGKey) -> bool:
    """Whether this module computes the numbers that JAX would draw with a key.

    The key must be a single typed one of the kind threefry2x32, and JAX must hash the place of each number,
    as it does unless `jax_threefry_partitionable` is off.
    """
    typed = isinstance(key, jax.Array) and jnp.issubdtype(key.dtype, jax.dtypes.prng_key)
    own = typed and key.shape == () and jax.random.key_impl(key) == _IMPL
    return own and bool(jax.threefry_partitionable.value)


def _halves(key: PRNGKey) -> tuple[UInt32[Array, ""], UInt32[Array, ""]]:
    data = jax.random.key_data(key)
    return data[0], data[1]


def hash_pair(
    key: UInt32[Array, "..."], more: UInt32[Array, "..."], x: UInt32[Array, "..."], y: UInt32[Array, "..."]
) -> tuple[UInt32[Array, "*shape"], UInt32[Array, "*shape"]]:
    """Threefry-2x32 of the pair `(x, y)` under the pair `(key, more)`, in 20 rounds.

    Source: Salmon et al., Parallel Random Numbers: As Easy as 1, 2, 3, SC 2011.
    """
    keys = key, more, key ^ more ^ jnp.uint32(_PARITY)
    x, y = x + key, y + more
    for turn in range(5):
        for bits in _ROTATIONS[turn % 2]:
            x = x + y
            y = x ^ ((y << jnp.uint32(bits)) | (y >> jnp.uint32(32 - bits)))
        x, y = x + keys[(turn + 1) % 3], y + keys[(turn + 2) % 3] + jnp.uint32(turn + 1)
    return x, y
