"""Columns of many clients that are read where they are asked for, and not kept in memory."""

from collections.abc import Sequence
from typing import Any, Protocol, TypeAlias, Union, runtime_checkable

import numpy as np
from jaxtyping import Int, UInt64

from fedrecon.data._arrow_bridge import to_arrow, to_numpy

# A column `[client]` in memory, or one of an index.
ClientColumn: TypeAlias = Union[np.ndarray, "IndexedColumn"]


@runtime_checkable
class ClientIndex(Protocol):
    """What is known of many clients by their rows; see `Index`."""

    row_type: np.dtype

    def __len__(self) -> int: ...

    def column(self, name: str) -> Any:
        """A column `[client]`, of which slices and positions give arrays."""

    def digests(self, field: str) -> UInt64[np.ndarray, " client"]:
        """The digests of each client's examples of a field."""

    def halves(self, field: str) -> Int[np.ndarray, " client"] | None:
        """Twice the sum of a field of each client, where that is known."""


class Texts:
    """Texts that stay in Arrow's layout, a few bytes each, until they are read.

    Args:
        texts: An Arrow array of texts, `[client]`.
    """

    def __init__(self, texts: Any):
        self._texts = texts

    def __getitem__(self, rows: Any) -> Any:
        """Some of the texts, by a slice, positions, or one position."""
        if isinstance(rows, slice):
            start, stop, step = rows.indices(len(self._texts))
            if step == 1:
                return to_numpy(self._texts.slice(start, max(stop - start, 0)))
            rows = np.arange(start, stop, step)
        rows = np.asarray(rows)
        texts = to_numpy(self._texts.take(to_arrow(rows.reshape(-1).astype(np.int64))))
        return texts.reshape(rows.shape) if rows.ndim else texts[0]


class IndexedColumn:
    """A column of an index at some of its clients.

    Several columns of the same clients share the list of their rows, which is all that is in memory.

    Args:
        index: The index.
        name: The name of the column in it: `"client"`, `"key"` or `"start"`.
        rows: The rows of the clients in the index, `[client]`; None for all, in order.
    """

    def __init__(self, index: ClientIndex, name: str, rows: Int[np.ndarray, " client"] | None = None):
        self.index, self.rows = index, rows
        self._name = name

    def __len__(self) -> int:
        return len(self.index) if self.rows is None else len(self.rows)

    def __getitem__(self, clients: Any) -> Any:
        """The values of some of the clients, by a slice, by positions, or by one position."""
        return self.index.column(self._name)[clients if self.rows is None else self.rows[clients]]

    def at(self, rows: Int[np.ndarray, " client"]) -> "IndexedColumn":
        """The column at some rows of the index."""
        return IndexedColumn(self.index, self._name, rows)


def whole(column: ClientColumn) -> np.ndarray:
    """All values of a column, `[client]`; those of an index are copied unless they are all of it."""
    return column if isinstance(column, np.ndarray) else np.asarray(column[:])


def columns_at(columns: Sequence[ClientColumn], clients: Any) -> list[ClientColumn]:
    """Several columns at some clients, by a slice or by positions; those of an index stay there."""
    selected: list[ClientColumn] = []
    rows: dict[int, np.ndarray] = {}  # by the rows before, so that the columns of an index share the list
    for column in columns:
        if isinstance(column, np.ndarray):
            selected.append(column[clients])
            continue
        known = id(column.rows)
        if known not in rows:
            rows[known] = _every(column.index, clients) if column.rows is None else column.rows[clients]
        selected.append(column.at(rows[known]))
    return selected


def _every(index: ClientIndex, clients: Any) -> Int[np.ndarray, " client"]:
    """Rows of an index, of which all are counted, as numbers of the index's own type, from 0."""
    if isinstance(clients, slice):
        return np.arange(*clients.indices(len(index)), dtype=index.row_type)
    rows = np.asarray(clients)
    return np.where(rows < 0, rows + len(index), rows).astype(index.row_type)
