"""The output layer and its loss in one, with a gradient of its own.

The scores of all ids are the largest array of a step by far. A softmax as one writes it waits for their
maximum before it can raise them; here a number near it is known beforehand, so that a part of the ids is
made, raised and multiplied back while a CPU has it in its cache. What the gradient needs beside that is a
factor for each token, which goes to the small arrays on the other side of the products.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.custom_derivatives import CustomVJPPrimal
from jaxtyping import Array, Bool, Float, Int, PyTree

_PIECE = 700_000  # scores of a client at a time, about: 3 MB
_FIRST = 32  # ids whose scores tell about how high the highest is
_ABOVE = 60.0  # how far a score may be above what is taken from it: powers and their sums stay finite,
_BELOW = 50.0  # and how far below: what then counts for nothing is below the sum's precision


def affine(
    kernel: Float[Array, "width id"], bias: Float[Array, " id"], x: Float[Array, "*token width"]
) -> Float[Array, "*token id"]:
    """A dense layer, x kernel + bias, in 32 bits; the product's factors have the dtype of `x`."""
    return _product(x, kernel.astype(x.dtype)) + bias


def pieces(tokens: int, ids: int) -> int:
    """Into how many parts to cut the ids whose scores are read."""
    return max(1, min(math.ceil(tokens * ids / _PIECE), ids))


@jax.custom_vjp
def scored(
    kernel: Float[Array, "width id"],
    bias: Float[Array, " id"],
    x: Float[Array, "token width"],
    target: Int[Array, " token"],
) -> tuple[Float[Array, " token"], Bool[Array, " token"]]:
    """Of each token -log p(target) under the softmax of its scores, and whether no id scores higher.

    Args:
        kernel: The matrix of the output layer, `[width, id]`.
        bias: The bias of the output layer, `[id]`.
        x: The layer's input; products are computed in its dtype and added up in 32 bits.
        target: Ids; where there is no such id the loss is NaN.
    """
    return _read(kernel, bias, x, target, back=False, keep=False)[0]


def _forward(
    kernel: CustomVJPPrimal, bias: CustomVJPPrimal, x: CustomVJPPrimal, target: CustomVJPPrimal
) -> Any:
    args = kernel.value, bias.value, x.value, target.value
    trained = kernel.perturbed or bias.perturbed
    out, saved = _read(*args, back=x.perturbed, keep=trained)
    return out, (args[2], *saved)


class _Part(NamedTuple):
    """A part of the ids, or with a leading axis `part` several of one size.

    Attributes:
        columns: The columns of the output layer's kernel for these ids, `[width, id]`.
        biases: The biases of these ids, `[id]`.
        first: The first id of the part.
    """

    columns: Array
    biases: Array
    first: Array


class _RunningSums(NamedTuple):
    """Of the ids read so far, for each token.

    Attributes:
        total: The sum of the powers so far.
        highest: The highest power so far.
        power: The power of the target's score.
        picked: The score of the target.
        back: Powers times columns, if a gradient by the input needs it.
    """

    total: Any
    highest: Any
    power: Any
    picked: Any
    back: Any


def _read(
    kernel: Float[Array, "width id"],
    bias: Float[Array, " id"],
    x: Float[Array, "token width"],
    target: Int[Array, " token"],
    back: bool,
    keep: bool,
) -> Any:
    """What `scored` returns, and what its gradient needs.

    That is the sum of powers, and times this sum: if `back`, the gradient by `x`, and if `keep`, the softmax
    less the target, `[token, id]`.
    """
    own = kernel.astype(x.dtype)
    # Kept for a product over all tokens, the powers are written to memory anyway.
    count = 1 if keep else pieces(len(target), bias.size)
    parts = _parts(own, bias, count)
    less = _near_maximum(parts, x)

    def part(sums: _RunningSums, now: _Part) -> tuple[_RunningSums, Any]:
        columns, bias, first = now
        bare = _product(x, columns)
        # What reads the scores adds the bias itself: the sum is never written down.
        powers = jnp.exp(bare + bias - less[:, None])
        place = target - first
        within = (place >= 0) & (place < bias.size)
        place = jnp.clip(place, 0, bias.size - 1)
        score = jnp.take_along_axis(bare, place[:, None], -1)[:, 0] + bias[place]
        power = jnp.take_along_axis(powers, place[:, None], -1)[:, 0]
        new = _RunningSums(
            total=sums.total + jnp.sum(powers, -1),
            highest=jnp.maximum(sums.highest, jnp.max(powers, -1)),
            power=jnp.where(within, power, sums.power),
            picked=jnp.where(within, score, sums.picked),
            back=sums.back + _product(powers.astype(x.dtype), columns.T) if back and not keep else None,
        )
        return new, powers if keep else None

    zeros = jnp.zeros(len(target))
    start = _RunningSums(zeros, zeros, zeros, zeros, jnp.zeros(x.shape) if back and not keep else None)
    sums, kept = _over(part, start, parts)
    by_x = excess = None
    if keep:
        # Less the target: the gradient by the scores but for a factor of the token.
        at = jnp.arange(len(target)), target
        excess = kept.at[at].add(-sums.total, unique_indices=True, indices_are_sorted=True).astype(x.dtype)
        by_x = _product(excess, own.T) if back else None
    elif back:
        # The target's own power, as it was rounded for the product, leaves with the rest.
        rounded = sums.power.astype(x.dtype).astype(jnp.float32)
        own_target = jnp.take(own, target, axis=1, mode="clip").T
        by_x = sums.back - (sums.total - sums.power + rounded)[:, None] * own_target
    known = (target >= 0) & (target < bias.size)
    losses = jnp.where(known, jnp.log(sums.total) + less - sums.picked, jnp.nan)
    return (losses, sums.power >= sums.highest), (by_x, excess, sums.total)


def _parts(own: Float[Array, "width id"], bias: Float[Array, " id"], count: int) -> _Part:
    """Columns, biases and first id of so many parts of the ids, each as large, the last filled up."""
    size = math.ceil(bias.size / count)
    spare = [(0, count * size - bias.size)]
    columns = jnp.pad(own, [(0, 0), *spare]).reshape(len(own), count, size)
    biases = jnp.pad(bias, spare, constant_values=-jnp.inf).reshape(count, size)
    return _Part(jnp.moveaxis(columns, 1, 0), biases, jnp.arange(count) * size)


def _over(fn: Callable[[Any, Any], tuple[Any, Any]], start: PyTree, parts: _Part) -> tuple[Any, Any]:
    """`fn` of one part after the other, and of a single one as it is."""
    if len(parts.biases) > 1:
        return jax.lax.scan(fn, start, parts)
    return fn(start, jax.tree.map(lambda x: x[0], parts))


def _near_maximum(parts: _Part, x: Float[Array, "token width"]) -> Any:
    """A number for each token, so near its highest score that powers of scores less it keep their precision.

    No score is above the product of lengths and the highest bias, and the highest is not below those of some
    ids. Where the two are far apart it is searched for.
    """
    # Nothing depends on this number but by rounding, so that no gradient is lost; the loop would have none.
    (columns, biases, _), x = jax.lax.stop_gradient((parts, x))

    def lengths(x: Float[Array, "..."], axis: int) -> Any:
        return jnp.sqrt(jnp.sum(jnp.square(x.astype(jnp.float32)), axis))

    below = jnp.max(_product(x, columns[0, :, :_FIRST]) + biases[0, :_FIRST], -1)
    above = lengths(x, -1) * jnp.max(lengths(columns, 1)) + jnp.max(biases)

    def search(state: tuple[Bool[Array, " token"], Float[Array, " token"]]) -> Any:
        # Bound to what changes, else XLA moves the search out of the loop.
        now, (far, near) = jax.lax.optimization_barrier((x, state))

        def part(highest: Float[Array, " token"], part: _Part) -> Any:
            columns, bias, _ = part
            return jnp.maximum(highest, jnp.max(_product(now, columns) + bias, -1)), None

        highest, _ = _over(part, below, _Part(columns, biases, biases))
        return jnp.zeros_like(far), jnp.where(far, highest, near)

    near = jnp.maximum(below, above - _ABOVE)
    # At most once, and not as a condition: `vmap` would have it search always.
    far = ~(near - below <= _BELOW)  # so, too, where lengths have overflown
    return jax.lax.while_loop(lambda state: jnp.any(state[0]), search, (far, near))[1]


def _backward(saved: tuple[Any, ...], gradients: tuple[Any, ...]) -> Any:
    x, back, excess, total = saved
    factor = gradients[0] / total
    by_kernel = by_bias = by_x = None
    if excess is not None:
        small = (x * factor[:, None]).astype(x.dtype)
        by_kernel, by_bias = _product(small.T, excess), _product(factor.astype(x.dtype), excess)
    if back is not None:
        by_x = (back * factor[:, None]).astype(x.dtype)
    return by_kernel, by_bias, by_x, None


def _product(x: Float[Array, "..."], matrix: Float[Array, "..."]) -> Any:
    return jnp.matmul(x, matrix, preferred_element_type=jnp.float32)


scored.defvjp(_forward, _backward, symbolic_zeros=True)
