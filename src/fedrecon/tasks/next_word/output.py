"""The output layer and its loss in one, with a gradient of its own.

The scores of all ids are the largest array of a step by far. They are made, read and multiplied for a few
tokens at a time, so that a CPU keeps them in its cache, and passed over three times in between: for their
maximum, their exponentials, and the sum of those. What the gradient needs beside them is a factor for each
token, which goes to the small arrays on the other side of the products.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

_PIECE = 800_000  # scores at a time, about: 3 MB


def affine(
    kernel: Float[Array, "width id"], bias: Float[Array, " id"], x: Float[Array, "*token width"]
) -> Float[Array, "*token id"]:
    """A dense layer, x kernel + bias, in 32 bits; the product's factors have the dtype of `x`."""
    return _product(x, kernel.astype(x.dtype)) + bias


def pieces(tokens: int, ids: int) -> int:
    """Into how many equal parts to cut the tokens whose scores are read."""
    most = min(max(tokens * ids // _PIECE, 1), max(tokens, 1))
    return next(n for n in range(most, 0, -1) if tokens % n == 0)


@jax.custom_vjp
def scored(
    kernel: Float[Array, "width id"],
    bias: Float[Array, " id"],
    x: Float[Array, "token width"],
    target: Int[Array, " token"],
) -> tuple[Float[Array, " token"], Bool[Array, " token"]]:
    """Of each token -log p(target) under the softmax of its scores, and whether no id scores higher.

    Args:
        kernel: Of the output layer.
        bias: Likewise.
        x: The layer's input; products are computed in its dtype and added up in 32 bits.
        target: Ids.
    """
    return _in_pieces(kernel, bias, x, target, back=False, keep=False)[0]


def _forward(kernel: Any, bias: Any, x: Any, target: Any) -> Any:
    args = kernel.value, bias.value, x.value, target.value
    trained = kernel.perturbed or bias.perturbed
    out, (back, excess, total) = _in_pieces(*args, back=x.perturbed, keep=trained)
    return out, (args[2], back, excess, total)


def _in_pieces(kernel: Any, bias: Any, x: Any, target: Any, back: bool, keep: bool) -> Any:
    """What `scored` returns, and for its gradient `back`, by `x`, the softmax less the target if it is to be
    kept, and the sum of powers: the first two times this sum.
    """
    own = kernel.astype(x.dtype)

    def piece(_: None, part: Any) -> Any:
        x, target = part
        bare = _product(x, own)
        # What reads the sum adds the bias itself: it is never written down.
        most = jnp.max(bare + bias, -1)
        powers = jnp.exp(bare + bias - most[:, None])
        total = jnp.sum(powers, -1)
        picked = jnp.take_along_axis(bare, target[:, None], -1)[:, 0] + bias[target]
        token = jnp.arange(len(target))
        # softmax - onehot, times the sum: the gradient by the scores but for a factor of the token.
        excess = powers.at[token, target].add(-total, unique_indices=True, indices_are_sorted=True)
        excess = excess.astype(x.dtype)
        saved = (_product(excess, own.T) if back else None, excess if keep else None, total)
        return None, ((jnp.log(total) + most - picked, picked >= most), saved)

    # Kept for a product over all tokens, they are written to memory anyway.
    count = 1 if keep else pieces(len(target), bias.size)
    if count == 1:
        return piece(None, (x, target))[1]
    parts = jax.tree.map(lambda a: a.reshape(count, -1, *a.shape[1:]), (x, target))
    _, found = jax.lax.scan(piece, None, parts)
    return jax.tree.map(lambda a: a.reshape(-1, *a.shape[2:]), found)


def _backward(saved: Any, gradients: Any) -> Any:
    x, back, excess, total = saved
    factor = gradients[0] / total
    by_kernel = by_bias = by_x = None
    if excess is not None:
        small = (x * factor[:, None]).astype(x.dtype)
        by_kernel, by_bias = _product(small.T, excess), _product(factor.astype(x.dtype), excess)
    if back is not None:
        by_x = (back * factor[:, None]).astype(x.dtype)
    return by_kernel, by_bias, by_x, None


def _product(x: Any, matrix: Any) -> Any:
    return jnp.matmul(x, matrix, preferred_element_type=jnp.float32)


scored.defvjp(_forward, _backward, symbolic_zeros=True)
