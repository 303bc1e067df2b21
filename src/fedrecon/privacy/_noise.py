"""Gaussian noise from a secret 256-bit key.

The keys of `jax.random` have 64 bits, which somebody who knows the released parameters could try one by one.
The stream here is ChaCha20's, whose key has 256. It is computed in blocks that stay in a processor's cache.
"""

import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree, UInt32

_CONSTANTS = (0x61707865, 0x3320646E, 0x79622D32, 0x6B206574)  # "expand 32-byte k"
_QUARTERS = (
    *((0, 4, 8, 12), (1, 5, 9, 13), (2, 6, 10, 14), (3, 7, 11, 15)),  # the columns of the state
    *((0, 5, 10, 15), (1, 6, 11, 12), (2, 7, 8, 13), (3, 4, 9, 14)),  # its diagonals
)
_WORDS = 16  # of 32 bits, which a block of the stream has
_AT_ONCE = 1024  # blocks


def stream(
    key: UInt32[Array, "8"], nonce: UInt32[Array, "3"], counters: UInt32[Array, "block"]
) -> UInt32[Array, "16 block"]:
    """Blocks of ChaCha20's key stream, of 16 words each.

    Args:
        key: The secret key's words, the first bytes in the first word's lowest bits.
        nonce: Three words that tell streams of the same key apart.
        counters: The numbers of the blocks, from 0.

    Returns:
        The words of every block, a block in a column.

    References:
        Nir and Langley, ChaCha20 and Poly1305 for IETF Protocols, RFC 8439, section 2.3.
    """
    alike = [*(jnp.uint32(x) for x in _CONSTANTS), *key]
    start = [*(jnp.broadcast_to(x, counters.shape) for x in alike), counters]
    start += [jnp.broadcast_to(x, counters.shape) for x in nonce]
    # Two rounds are a program of their own, repeated ten times: written out, all of them take minutes to
    # compile on a CPU.
    end = jax.lax.fori_loop(0, 10, lambda _, state: _two_rounds(state), tuple(start))
    return jnp.stack([a + b for a, b in zip(end, start, strict=True)])


def _two_rounds(state: Sequence[Array]) -> tuple[Array, ...]:
    x = list(state)
    for a, b, c, d in _QUARTERS:
        for one, two, three, bits in ((a, b, d, 16), (c, d, b, 12), (a, b, d, 8), (c, d, b, 7)):
            x[one] = x[one] + x[two]
            turned = x[three] ^ x[one]
            x[three] = (turned << jnp.uint32(bits)) | (turned >> jnp.uint32(32 - bits))
    return tuple(x)


def normals(key: UInt32[Array, "8"], nonce: UInt32[Array, "3"], count: int) -> Float[Array, "count"]:
    """Independent standard normal numbers, in single precision.

    They are made by the transform of Box and Muller from 32 random bits each, so that their absolute values
    go up to 6.6; numbers of that size or more have a probability of 4e-11.

    Args:
        key: The eight words of the secret key, as `stream` takes them. Equal keys and nonces give equal
            numbers.
        nonce: Three words that tell streams of the same key apart.
        count: The number of normal numbers, below 2³⁶, beyond which the stream's counter would repeat.

    Raises:
        ValueError: `count` is too large.
    """
    if not 0 <= count < _WORDS * 2**32:
        raise ValueError(f"count must be from 0 to below {_WORDS * 2**32:,}, got {count:,}")
    blocks = -(-count // _WORDS)

    def some(first: Any, many: int) -> Float[Array, "2 half block"]:
        words = stream(key, nonce, first + jnp.arange(many, dtype=jnp.uint32))
        # Converted to (0, 1], since zero has no logarithm.
        radii = jnp.sqrt(-2 * jnp.log((words[:8].astype(jnp.float32) + 1) * jnp.float32(2**-32)))
        cosines, sines = _on_circle(words[8:])
        return jnp.stack([radii * cosines, radii * sines])

    if blocks <= _AT_ONCE:
        return some(jnp.uint32(0), blocks).reshape(-1)[:count]
    parts = jnp.arange(-(-blocks // _AT_ONCE), dtype=jnp.uint32)
    return jax.lax.map(lambda i: some(i * jnp.uint32(_AT_ONCE), _AT_ONCE), parts).reshape(-1)[:count]


def _on_circle(turns: UInt32[Array, "*shape"]) -> tuple[Array, Array]:
    """Cosines and sines of angles in units of 2⁻³² turns.

    The nearest quarter turn is taken off exactly, by the words' bits, so that short polynomials are enough
    (those of Cephes, for up to an eighth of a turn). XLA's own functions reduce angles of any size, and take
    longer than all the rest that `normals` does beside the stream.
    """
    offset = jax.lax.bitcast_convert_type(turns << jnp.uint32(2), jnp.int32)  # from the nearest quarter turn
    x = offset.astype(jnp.float32) * jnp.float32(math.pi / 2 / 2**32)
    z = x * x
    sine = x * (1 + z * (-1.6666654611e-1 + z * (8.3321608736e-3 + z * -1.9515295891e-4)))
    cosine = 1 + z * (-0.5 + z * (4.166664568e-2 + z * (-1.388731625e-3 + z * 2.443315712e-5)))
    # Of the nearest quarter turn's number, the lower bit exchanges the two and the higher one turns signs.
    quarters = turns + jnp.uint32(1 << 29)
    odd = (quarters & jnp.uint32(1 << 30)) != 0
    return (
        _signed(jnp.where(odd, sine, cosine), quarters + jnp.uint32(1 << 30)),
        _signed(jnp.where(odd, cosine, sine), quarters),
    )


def _signed(x: Float[Array, "*shape"], words: UInt32[Array, "*shape"]) -> Float[Array, "*shape"]:
    """Numbers with their signs turned where the highest bits of words are set."""
    flipped = jax.lax.bitcast_convert_type(x, jnp.uint32) ^ (words & jnp.uint32(1 << 31))
    return jax.lax.bitcast_convert_type(flipped, jnp.float32)


def normals_like(key: UInt32[Array, "8"], nonce: int, tree: PyTree[Any]) -> PyTree[Any]:
    """A standard normal number for every entry of every leaf of a pytree, in single precision.

    Args:
        key: The eight words of the secret key, as `stream` takes them.
        nonce: A number that tells noise for different purposes under the same key apart.
        tree: The pytree of arrays, or of their shapes.
    """
    leaves, structure = jax.tree.flatten(tree)
    sizes = [math.prod(x.shape) for x in leaves]
    numbers = normals(key, jnp.array([nonce, 0, 0], jnp.uint32), sum(sizes))
    starts = [sum(sizes[:i]) for i in range(len(sizes))]
    parts = [
        numbers[start : start + size].reshape(x.shape)
        for x, start, size in zip(leaves, starts, sizes, strict=True)
    ]
    return jax.tree.unflatten(structure, parts)
