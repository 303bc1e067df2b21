"""Types that annotations share: random keys, pytrees of arrays, metrics, rows of tables.

Shapes that differ from use to use stand at the use itself. To a static type checker a pytree is `Any`; where
annotations are checked at run time, as in this library's tests, every leaf of one is checked.
"""

from typing import Any, TypeAlias

import jax
import numpy as np
from jaxtyping import Array, Integer, Key, PyTree, Shaped, UInt32

from fedrecon.core._mean import Mean

PRNGKey: TypeAlias = Key[Array, "..."] | UInt32[Array, "..."]
"""A key of `jax.random`, typed or in the older form `uint32[2]`; under `vmap` a client's own."""

Leaf: TypeAlias = jax.Array | np.ndarray | np.generic | bool | int | float | jax.ShapeDtypeStruct
"""A leaf of a pytree: an array on the device or the host, a number, or the shape of an array to come."""

Params: TypeAlias = PyTree[Leaf]
"""Global or local parameters: any pytree of floating-point arrays, `()` for none."""

ClientState: TypeAlias = PyTree[Leaf]
"""What a client of a stateful algorithm holds between rounds; `()` for a stateless one."""

OptState: TypeAlias = PyTree[Leaf]
"""An Optax optimiser's state."""

AggregatorState: TypeAlias = PyTree[Leaf]
"""What an aggregator keeps between rounds; `()` for nothing."""

Batch: TypeAlias = dict[str, Any]
"""Fields of examples by name: arrays `[example, ...]`."""

Metrics: TypeAlias = dict[str, Mean]
"""Weighted means by name."""

Rows: TypeAlias = dict[str, Integer[Any, "..."]]
"""By the path of a table, which of its rows something holds or touches: row numbers, NumPy's or JAX's."""

RoundNumber: TypeAlias = int | Integer[Any, ""]
"""How many rounds are done: a whole number, or in a compiled program a scalar of one."""

Number: TypeAlias = int | float | Shaped[Any, ""]
"""A number, or in a compiled program a scalar."""

Numbers: TypeAlias = Shaped[Any, "..."]
"""An array of any shape and type, NumPy's or JAX's."""
