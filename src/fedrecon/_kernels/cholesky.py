"""Systems of linear equations, one for each client."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


def solve(
    matrix: Float[Array, "parameter parameter"], right: Float[Array, "parameter"]
) -> Float[Array, "parameter"]:
    """Solves a symmetric, positive semidefinite system by Cholesky's method.

    Directions without curvature stay as they are: a part of the diagonal is added to it that is lost in
    rounding unless the matrix is singular.

    Under `vmap` a CPU solves one system after the other: jaxlib's batched factorisations wait, on a thread
    of XLA's pool, for tasks in that same pool, and two of them at once stop the process for good (jaxlib
    0.10). Single ones do not, and there they are as fast; factorisations written in JAX, vectorised over
    the clients, are not. Elsewhere the systems are solved side by side.
    """
    diagonal = jnp.diagonal(matrix)
    ridge = 1e-7 * jnp.max(diagonal) + jnp.where(jnp.max(diagonal) > 0, 0, 1)
    sequential = jax.custom_batching.sequential_vmap(_solve)
    regular = matrix + ridge * jnp.eye(diagonal.size)
    return jax.lax.platform_dependent(regular, right, cpu=sequential, default=_solve)


def _solve(matrix: Float[Array, "parameter parameter"], right: Float[Array, "parameter"]) -> Any:
    factor = jax.lax.linalg.cholesky(matrix, symmetrize_input=False)
    # As a row: columns would be copied on their way to LAPACK, which takes a third of the whole.
    half = jax.lax.linalg.triangular_solve(factor, right[None], lower=True, transpose_a=True)
    return jax.lax.linalg.triangular_solve(factor, half, lower=True)[0]
