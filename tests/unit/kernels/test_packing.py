"""Small arrays in few long ones."""

import jax
import jax.numpy as jnp
import numpy as np

from fedrecon._kernels.packing import Packed
from fedrecon.core._mean import Mean


def test_a_program_returns_few_arrays_and_the_tree_comes_back():
    tree = [
        {"a": Mean(jnp.arange(3.0), jnp.ones(())), "b": jnp.array([[2**30, 5]])},
        jnp.array([True, False]),
    ]
    packed = jax.jit(Packed.of)(tree)
    assert sorted(x.shape for x in jax.tree.leaves(packed)) == [(2,), (2,), (4,)]
    found = packed.unpacked()
    assert jax.tree.structure(found) == jax.tree.structure(tree)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(tree), strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a, b)


def test_nothing_is_packed_to_nothing():
    assert jax.jit(Packed.of)([{}, {}]).unpacked() == [{}, {}]


def test_scalars_of_clients_come_back_as_columns():
    clients = {"loss": Mean(jnp.arange(3.0), jnp.ones(3)), "hits": jnp.array([4, 5, 6])}
    packed = jax.jit(jax.vmap(Packed.of))(clients)
    assert sorted(x.shape for x in jax.tree.leaves(packed)) == [(3, 1), (3, 2)]
    columns = packed.columns()
    assert jax.tree.structure(columns) == jax.tree.structure(clients)
    for a, b in zip(jax.tree.leaves(columns), jax.tree.leaves(clients), strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a, b)
