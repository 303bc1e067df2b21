"""Hessians of losses that multiply their parameters with the rows of examples."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from fedrecon._kernels.fold_lookups import fold_lookups


def hessian(
    fn: Callable[[Float[Array, "parameter"]], Float[Array, ""]], x: Float[Array, "parameter"]
) -> Float[Array, "parameter parameter"]:
    """The Hessian of a function of a vector, as `jax.hessian` computes it, with half of its products.

    A column is the derivative of the gradient in the direction of a unit vector. Where `fn` multiplies its
    argument with a matrix, the product with all unit vectors is the matrix itself, which is as dear as the
    rest of the Hessian if it is computed; `fold_lookups` sees that it need not be.
    """

    def columns(directions: Float[Any, "parameter parameter"]) -> Float[Array, "parameter parameter"]:
        return jax.vmap(lambda direction: jax.jvp(jax.grad(fn), (x,), (direction,))[1])(directions)

    matrix: Any = fold_lookups(columns)(np.eye(x.size, dtype=x.dtype))
    return jnp.asarray(matrix)
