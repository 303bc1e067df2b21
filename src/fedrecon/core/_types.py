"""Types that annotations share: random keys, pytrees of arrays, metrics, rows of tables.

Shapes that differ from use to use are annotated at the use. To a static type checker a pytree is `Any`; where
annotations are checked at run time, as in this library's tests, every leaf of a pytree is checked.
"""

from typing import TYPE_CHECKING, Any, TypeAlias, get_args

import jax
import numpy as np
from jaxtyping import Array, Integer, Key, PyTree, Shaped, UInt32

from fedrecon.core._mean import Mean

PRNGKey: TypeAlias = Key[Array, "..."] | UInt32[Array, "..."]
"""A key of `jax.random`, typed or in the older form `uint32[2]`; under `vmap` the key of one client."""

Leaf: TypeAlias = jax.Array | np.ndarray | np.generic | bool | int | float | jax.ShapeDtypeStruct
"""A leaf of a pytree: an array on the device or the host, a number, or the shape of an array to come."""

if TYPE_CHECKING:
    ArrayTree: TypeAlias = PyTree[Leaf]
else:
    _LEAF_TYPES = get_args(Leaf)

    class _ArrayTreeType(type):
        # The same check as that of `PyTree[Leaf]`, which takes a millisecond for a small model: in this
        # library's tests an eighth of the time.
        def __instancecheck__(cls, tree):
            return all(isinstance(leaf, _LEAF_TYPES) for leaf in jax.tree.leaves(tree))

    class ArrayTree(metaclass=_ArrayTreeType):
        """A pytree whose leaves are arrays, numbers, or shapes of arrays to come."""


Params: TypeAlias = ArrayTree
"""Global or local parameters: any pytree of floating-point arrays, `()` for none."""

ClientState: TypeAlias = ArrayTree
"""The state of a client between rounds; `()` for a stateless algorithm."""

OptState: TypeAlias = ArrayTree
"""The state of an Optax optimiser."""

AggregatorState: TypeAlias = ArrayTree
"""The state of an aggregator between rounds; `()` for an aggregator without one."""

Batch: TypeAlias = dict[str, Any]
"""Fields of examples by name: arrays `[example, ...]`."""

Metrics: TypeAlias = dict[str, Mean]
"""Weighted means by name."""

Rows: TypeAlias = dict[str, Integer[Any, "..."]]
"""Row numbers of tables by the table's path, NumPy's or JAX's."""

RoundNumber: TypeAlias = int | Integer[Any, ""]
"""The number of rounds done: a whole number, or in a compiled program a scalar array."""

Number: TypeAlias = int | float | Shaped[Any, ""]
"""A number, or in a compiled program a scalar array."""

Numbers: TypeAlias = Shaped[Any, "..."]
"""An array of any shape and type, NumPy's or JAX's."""
