"""One client's examples as rectangular arrays with a mask."""

import functools
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int, PyTree

EXAMPLE_MASK = "example_mask"
"""Name of the field of a batch, `[example]`, that is true on valid rows and false on padding. A model whose
loss or metrics use other rows than an example's own (statistics, negatives within the batch) must read it."""


@functools.partial(jax.tree_util.register_dataclass, data_fields=["data", "mask"], meta_fields=["positional"])
@dataclass(frozen=True, eq=False)
class Examples:
    """Padded examples of one client or of one batch.

    Attributes:
        data: A pytree of arrays `[example, ...]`; padding rows may hold any finite number.
        mask: Whether a row is valid, `[example]`; valid rows come before the padding.
        positional: The fields that hold each row's own position among the client's examples, which implies
            that no two examples of the client share a row of a table. Where such a field is a NumPy array its
            positions are known before tracing, and splits that move nothing keep them so. They change the
            speed only; none by default.
    """

    data: PyTree[Any]
    mask: Bool[Any, "*batch example"]
    positional: tuple[str, ...] = ()

    @property
    def batch(self) -> Any:
        """The argument of a model's functions: the fields, and the mask under `EXAMPLE_MASK`."""
        return {**self.data, EXAMPLE_MASK: self.mask} if isinstance(self.data, dict) else self.data

    @property
    def size(self) -> int:
        """The number of rows, padding included."""
        return self.mask.shape[-1]

    def count(self) -> Int[Array, ""]:
        """The number of valid rows, int32."""
        return jnp.sum(self.mask, dtype=jnp.int32)

    def take(self, rows: Int[Any, "*row"], mask: Bool[Any, "*row"]) -> "Examples":
        """The examples at some rows.

        Args:
            rows: The rows to take, clipped to the range; no row may be valid twice.
            mask: Whether each of the taken examples is valid.
        """
        rows = jnp.minimum(rows, self.size - 1)
        return Examples(jax.tree.map(lambda x: jnp.asarray(x)[rows], self.data), mask, self.positional)

    def padded(self, size: int) -> "Examples":
        """The same examples with at least `size` rows."""
        short = size - self.size
        if short <= 0:
            return self
        padded = jax.tree.map(lambda x: jnp.pad(x, [(0, short)] + [(0, 0)] * (jnp.ndim(x) - 1)), self)
        # Padding with zeros would give the padding row 0's position, and `jnp.pad` would make the positions
        # unknown to the trace.
        for name in self.positional:
            x = self.data[name]
            if isinstance(x, np.ndarray):
                padded.data[name] = np.concatenate([x, np.arange(self.size, size, dtype=x.dtype)])
        return padded
