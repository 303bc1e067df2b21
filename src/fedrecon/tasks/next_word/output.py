"""The output layer and its loss in one, with a gradient of its own.

The scores of all ids are the largest array of a step by far. Here they are passed over three times between
the products: for their maximum, their exponentials, and the sum of those. What the gradient needs beside them
is a factor for each token, which goes to the small arrays on the other side of the products.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int


def affine(
    kernel: Float[Array, "width id"], bias: Float[Array, " id"], x: Float[Array, "*token width"]
) -> Float[Array, "*token id"]:
    """A dense layer, x kernel + bias, in 32 bits; the product's factors have the dtype of `x`."""
    return _product(x, kernel.astype(x.dtype)) + bias


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
    return _forward(kernel, bias, x, target)[0]


def _forward(kernel: Any, bias: Any, x: Any, target: Any) -> Any:
    bare = _product(x, kernel.astype(x.dtype))
    # What reads the sum adds the bias itself: it is never written down.
    most = jnp.max(bare + bias, -1)
    powers = jnp.exp(bare + bias - most[:, None])
    total = jnp.sum(powers, -1)
    picked = jnp.take_along_axis(bare, target[:, None], -1)[:, 0] + bias[target]
    # softmax - onehot, times the sum: the gradient by the scores but for a factor of the token.
    token = jnp.arange(len(target))
    excess = powers.at[token, target].add(-total, unique_indices=True, indices_are_sorted=True)
    saved = (kernel, x, excess.astype(x.dtype), total)
    return (jnp.log(total) + most - picked, picked >= most), saved


def _backward(saved: Any, gradients: Any) -> Any:
    kernel, x, excess, total = saved
    factor = gradients[0] / total
    back = _product(excess, kernel.astype(x.dtype).T) * factor[:, None]
    small = (x * factor[:, None]).astype(x.dtype)
    return _product(small.T, excess), _product(factor.astype(x.dtype), excess), back.astype(x.dtype), None


def _product(x: Any, matrix: Any) -> Any:
    return jnp.matmul(x, matrix, preferred_element_type=jnp.float32)


scored.defvjp(_forward, _backward)
