"""Where the examples of some clients lie, to lay out several of their fields in rows of one length."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Int
from numpy.typing import DTypeLike

from fedrecon.data._client_file.checksums import Column


class PaddedGather(NamedTuple):
    """The examples of some clients, a row for each.

    Attributes:
        columns: The fields of all clients, arrays `[example, ...]`.
        rows: The row of each example in `columns`, `[client, place]`; any row for a place that is left free.
        free: Whether a place lies behind the client's last example, `[client, place]`.
    """

    columns: Mapping[str, Column]
    rows: Int[np.ndarray, "client place"]
    free: Bool[np.ndarray, "client place"]

    @staticmethod
    def of(
        columns: Mapping[str, Column],
        starts: Int[np.ndarray, "client"],
        counts: Int[np.ndarray, "client"],
        size: int,
    ) -> "PaddedGather":
        """Of clients with so many examples from `starts` on, at most `size` each."""
        place = np.arange(size, dtype=np.int32)
        return PaddedGather(columns, starts[:, None] + place, place >= counts.astype(np.int32)[:, None])

    def field(self, name: str, dtype: DTypeLike | None = None, fill: int = 0) -> np.ndarray:
        """A field of the clients, `[client, place, ...]`.

        Args:
            name: The name of the field.
            dtype: The type of the result; by default that of the field.
            fill: The value of free places.
        """
        column = self.columns[name]
        if len(column):
            values = column.take(self.rows, axis=0, mode="clip")
        else:
            values = np.empty((*self.rows.shape, *column.shape[1:]), column.dtype)
        values = values.astype(values.dtype if dtype is None else dtype, copy=False)
        free = self.free.reshape(*self.free.shape, *[1] * (values.ndim - 2))
        np.copyto(values, values.dtype.type(fill), where=free)
        return values
