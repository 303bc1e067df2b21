"""Systems of linear equations by Cholesky factorisation, one system for each client."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


def solve(
    matrix: Float[Array, "parameter parameter"], right: Float[Array, "parameter"]
) -> Float[Array, "parameter"]:
    """Solves a symmetric, positive semidefinite system by Cholesky factorisation.

    Under `vmap` a CPU solves one system after the other, an accelerator all at once.

    Args:
        matrix: The matrix; a singular one is made regular by a small multiple of the identity.
        right: The right-hand side.
    """
    diagonal = jnp.diagonal(matrix)
    # The ridge is lost in the rounding of float32 unless the matrix is singular; then the solution is 0 in
    # the directions without curvature, in which the right-hand side is 0 as well.
    ridge = 1e-7 * jnp.max(diagonal) + jnp.where(jnp.max(diagonal) > 0, 0, 1)
    # Not vectorised on a CPU: jaxlib's batched factorisation (0.10) waits, on a thread of XLA's pool, for
    # tasks in that same pool, and two of them at once take all threads of two cores and wait for ever. A
    # single factorisation does not, and is as fast there; one written in JAX and vectorised is slower.
    sequential = jax.custom_batching.sequential_vmap(_solve)
    regular = matrix + ridge * jnp.eye(diagonal.size)
    return jax.lax.platform_dependent(regular, right, cpu=sequential, default=_solve)


def _solve(matrix: Float[Array, "parameter parameter"], right: Float[Array, "parameter"]) -> Any:
    factor = jax.lax.linalg.cholesky(matrix, symmetrize_input=False)
    # The right-hand side is a row: a column would be copied for LAPACK, which takes a third of the time.
    half = jax.lax.linalg.triangular_solve(factor, right[None], lower=True, transpose_a=True)
    return jax.lax.linalg.triangular_solve(factor, half, lower=True)[0]
