"""Hessians from the rows of examples: the numbers of `jax.hessian`, without its product with unit vectors."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedrecon._kernels.hessian import hessian

ROWS = np.random.default_rng(0).normal(size=(7, 4)).astype(np.float32)


def squares(x):
    return jnp.sum(jnp.square(jnp.asarray(ROWS) @ x[1:5] + x[0] - 2)) + 3 * jnp.sum(jnp.square(x[5:]))


def logistic(x):
    return jnp.sum(jax.nn.softplus(jnp.asarray(ROWS) @ x[:4])) + x[0] * x[5]


def without_matrix(x):
    return jnp.sum(jnp.cos(x) * x[::-1])


@pytest.mark.parametrize("fn", [squares, logistic, without_matrix])
def test_same_as_jax(fn):
    x = jnp.linspace(-1.0, 1.0, 6)
    np.testing.assert_allclose(jax.jit(lambda x: hessian(fn, x))(x), jax.hessian(fn)(x), rtol=1e-5, atol=1e-5)


def products(fn):
    jaxpr = jax.make_jaxpr(fn)(jnp.ones(6))
    shapes = [[v.aval.shape for v in e.invars] for e in jaxpr.eqns if e.primitive.name == "dot_general"]
    return sum(all(len(shape) == 2 for shape in pair) for pair in shapes)


def test_the_product_with_unit_vectors_is_left_out():
    assert products(jax.hessian(squares)) == 2
    assert products(lambda x: hessian(squares, x)) == 1
