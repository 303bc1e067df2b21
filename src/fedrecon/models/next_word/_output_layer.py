"""The output layer and its loss in one function, with a gradient of its own.

The scores of all ids are by far the largest array of a step. A usual softmax needs their maximum before it
can exponentiate any of them. Here a number near the maximum is computed beforehand, so that the scores of a
part of the ids are computed, exponentiated and multiplied back while they are in a CPU's cache. The gradient
needs one more factor for each token, by which the small arrays on the other side of the products are scaled.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.custom_derivatives import CustomVJPPrimal
from jaxtyping import Array, Bool, Float, Int, PyTree

_PIECE = 700_000  # about the number of scores of a client that are computed at a time, 3 MB
_FIRST = 32  # the number of ids whose scores bound the maximum from below
# A softmax subtracts a number from all scores. The highest score may be at most so far above that number, for
# exponentials and their sums to stay finite in float32, and at most so far below it, for those that then
# round to 0 to lie below the precision of the sum.
_ABOVE = 60.0
_BELOW = 50.0


def affine(
    kernel: Float[Array, "width id"], bias: Float[Array, " id"], x: Float[Array, "*token width"]
) -> Float[Array, "*token id"]:
    """A dense layer, x kernel + bias, in float32; the factors of the product have the dtype of `x`."""
    return _product(x, kernel.astype(x.dtype)) + bias


def pieces(tokens: int, ids: int) -> int:
    """The number of parts into which the ids are cut, such that the scores of one part fit a CPU's cache."""
    return max(1, min(math.ceil(tokens * ids / _PIECE), ids))


@jax.custom_vjp
def scored(
    kernel: Float[Array, "width id"],
    bias: Float[Array, " id"],
    x: Float[Array, "token width"],
    target: Int[Array, " token"],
) -> tuple[Float[Array, " token"], Bool[Array, " token"]]:
    """The loss -log p(target) of each token, and whether no id has a higher score than its target.

    Args:
        kernel: The matrix of the output layer, `[width, id]`.
        bias: The bias of the output layer, `[id]`.
        x: The input of the layer, `[token, width]`; factors of products have its dtype, sums are float32.
        target: The id of each token, `[token]`; the loss is NaN for an id that does not exist.
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
    """A part of the ids; with a leading axis `part`, several parts of one size.

    Attributes:
        columns: The columns of the output layer's kernel for these ids, `[width, id]`.
        biases: The biases of these ids, `[id]`.
        first: The first id of the part.
    """

    columns: Array
    biases: Array
    first: Array


class _RunningSums(NamedTuple):
    """Sums for each token over the ids so far.

    A power is the exponential of a score minus the number that the softmax subtracts.

    Attributes:
        total: The sum of the powers, `[token]`.
        highest: The highest power, `[token]`.
        power: The power of the target, `[token]`.
        picked: The score of the target, `[token]`.
        back: The sum of powers times columns, `[token, width]`, from which the gradient by the input follows;
            None if that is not needed.
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
    """Computes the results of `scored`, and the arrays that its gradient needs.

    Args:
        kernel: The matrix of the output layer, `[width, id]`.
        bias: The bias of the output layer, `[id]`.
        x: The input of the layer, `[token, width]`.
        target: The id of each token, `[token]`.
        back: Whether the gradient by `x` is needed.
        keep: Whether the gradient by `kernel` or `bias` is needed.

    Returns:
        The results of `scored`; and a triple of the gradient by `x`, times the sum of powers, or None; the
        softmax minus the target, times the sum of powers, `[token, id]`, or None; and the sum of powers.
    """
    own = kernel.astype(x.dtype)
    # A gradient by the kernel is a product over all tokens, for which the powers are written to memory
    # anyway: parts would save nothing.
    count = 1 if keep else pieces(len(target), bias.size)
    parts = _parts(own, bias, count)
    less = _near_maximum(parts, x)

    def part(sums: _RunningSums, now: _Part) -> tuple[_RunningSums, Any]:
        columns, bias, first = now
        bare = _product(x, columns)
        # Each reader adds the bias to the product itself, so that XLA fuses the addition and the array of
        # scores with bias is never written.
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
        # The softmax minus the target is the gradient by the scores, up to a factor for each token.
        at = jnp.arange(len(target)), target
        excess = kept.at[at].add(-sums.total, unique_indices=True, indices_are_sorted=True).astype(x.dtype)
        by_x = _product(excess, own.T) if back else None
    elif back:
        # The sum of powers times columns has the target's power rounded to the dtype of `x`, and is corrected
        # by that rounded number: with the exact one, the difference would not vanish where p(target) is 1.
        rounded = sums.power.astype(x.dtype).astype(jnp.float32)
        own_target = jnp.take(own, target, axis=1, mode="clip").T
        by_x = sums.back - (sums.total - sums.power + rounded)[:, None] * own_target
    known = (target >= 0) & (target < bias.size)
    losses = jnp.where(known, jnp.log(sums.total) + less - sums.picked, jnp.nan)
    return (losses, sums.power >= sums.highest), (by_x, excess, sums.total)


def _parts(own: Float[Array, "width id"], bias: Float[Array, " id"], count: int) -> _Part:
    """Cuts the ids into `count` parts of one size; the last is padded with ids of bias -inf, of power 0."""
    size = math.ceil(bias.size / count)
    spare = [(0, count * size - bias.size)]
    columns = jnp.pad(own, [(0, 0), *spare]).reshape(len(own), count, size)
    biases = jnp.pad(bias, spare, constant_values=-jnp.inf).reshape(count, size)
    return _Part(jnp.moveaxis(columns, 1, 0), biases, jnp.arange(count) * size)


def _over(fn: Callable[[Any, Any], tuple[Any, Any]], start: PyTree, parts: _Part) -> tuple[Any, Any]:
    """Applies `fn` to one part after the other by a scan, and to a single part without one."""
    if len(parts.biases) > 1:
        return jax.lax.scan(fn, start, parts)
    return fn(start, jax.tree.map(lambda x: x[0], parts))


def _near_maximum(parts: _Part, x: Float[Array, "token width"]) -> Any:
    """A number for each token that is so near its highest score that a softmax may subtract it.

    The product of the lengths of input and column plus the highest bias bounds the maximum from above, the
    scores of a few ids bound it from below. Only where the two bounds are far apart is the maximum searched.
    """
    # A softmax does not depend on the subtracted number, so that its gradient is 0; and JAX could not compute
    # one, since a `while_loop` has no reverse derivative.
    (columns, biases, _), x = jax.lax.stop_gradient((parts, x))

    def lengths(x: Float[Array, "..."], axis: int) -> Any:
        return jnp.sqrt(jnp.sum(jnp.square(x.astype(jnp.float32)), axis))

    below = jnp.max(_product(x, columns[0, :, :_FIRST]) + biases[0, :_FIRST], -1)
    above = lengths(x, -1) * jnp.max(lengths(columns, 1)) + jnp.max(biases)

    def search(state: tuple[Bool[Array, " token"], Float[Array, " token"]]) -> Any:
        # The barrier ties the input to the loop's state: XLA would otherwise move the search, which depends
        # on nothing that changes, out of the loop, where it always runs.
        now, (far, near) = jax.lax.optimization_barrier((x, state))

        def part(highest: Float[Array, " token"], part: _Part) -> Any:
            columns, bias, _ = part
            return jnp.maximum(highest, jnp.max(_product(now, columns) + bias, -1)), None

        highest, _ = _over(part, below, _Part(columns, biases, biases))
        return jnp.zeros_like(far), jnp.where(far, highest, near)

    near = jnp.maximum(below, above - _ABOVE)
    # A loop that runs at most once, and not `cond`: under `vmap` a `cond` becomes a selection, for which both
    # branches are computed. The comparison is negated so that it also holds for NaN, where lengths overflow.
    far = ~(near - below <= _BELOW)
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
