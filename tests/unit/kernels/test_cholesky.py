"""Solving a system for each client."""

import jax
import jax.numpy as jnp
import numpy as np

from fedrecon._kernels.cholesky import solve


def systems(count: int, size: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(count, 2 * size, size))
    return np.einsum("bij,bik->bjk", x, x).astype(np.float32), rng.normal(size=(count, size)).astype(
        np.float32
    )


def test_one_and_many_are_those_of_numpy():
    matrices, rights = systems(7, 6)
    wanted = np.linalg.solve(matrices.astype(float), rights[..., None].astype(float))[..., 0]
    np.testing.assert_allclose(jax.jit(jax.vmap(solve))(matrices, rights), wanted, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(solve(jnp.asarray(matrices[3]), jnp.asarray(rights[3])), wanted[3], rtol=1e-4)


def test_only_the_lower_triangle_counts():
    (matrix,), (right,) = systems(1, 4)
    lower = jnp.asarray(np.tril(matrix))
    np.testing.assert_allclose(solve(lower, jnp.asarray(right)), np.linalg.solve(matrix, right), rtol=1e-4)


def test_directions_without_curvature_stay():
    matrix = jnp.diag(jnp.array([2.0, 0.0, 4.0]))
    np.testing.assert_allclose(solve(matrix, jnp.array([2.0, 0.0, 2.0])), [1.0, 0.0, 0.5], rtol=1e-6)
    np.testing.assert_array_equal(solve(jnp.zeros((2, 2)), jnp.zeros(2)), [0.0, 0.0])
