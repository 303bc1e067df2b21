"""Sums of stars and other multiples of a half, which are exact in any order: known without a look at them."""

import numpy as np
from jaxtyping import Int64

from fedrecon.data._clients import Clients
from fedrecon.data._shards.rows import IndexedColumn

_MOST = 2**20  # of a number: sums of any clients stay exact in doubles


def known_sum(clients: Clients, field: str) -> float | None:
    """The sum of a field of clients in a folder of shards; None where its index does not tell.

    It tells where all numbers of the field, in the whole folder, are multiples of a half.
    """
    starts = clients._starts
    if not isinstance(starts, IndexedColumn) or field not in clients.fields:
        return None
    index, rows = starts.index, slice(None) if starts.rows is None else starts.rows
    halves = index.halves(field)
    if halves is None or not np.array_equal(index.column("count")[rows], clients.num_examples):
        return None
    return int(np.sum(halves[rows], dtype=np.int64)) / 2


def halves_of(
    column: np.ndarray, offsets: Int64[np.ndarray, " client_and_one"]
) -> Int64[np.ndarray, " client"] | None:
    """Twice the sum of each client's numbers; None where not all are multiples of a half.

    Args:
        column: The field of all examples, `[example, ...]`.
        offsets: Where each client's examples begin, and at last how many there are.
    """
    if column.ndim != 1 or column.dtype.kind != "f":
        return None
    twice = 2 * column.astype(np.float64)
    if not np.all((np.abs(twice) <= 2 * _MOST) & (twice == np.floor(twice))):
        return None
    sums = np.zeros(len(column) + 1, np.int64)
    np.cumsum(twice.astype(np.int64), out=sums[1:])
    return sums[offsets[1:]] - sums[offsets[:-1]]
