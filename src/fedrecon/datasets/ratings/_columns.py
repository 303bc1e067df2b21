"""Ratings as columns, with the ids as written and renumbered, and the way from Arrow to NumPy."""

from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from jaxtyping import Float32, Float64, Int32, Int64, Shaped


class Table(NamedTuple):
    """The columns of a rating file in the file's order.

    Attributes:
        client: Whose ratings, a dictionary-encoded array `[rating]`.
        item: Of what, likewise.
        rating: How much, `[rating]`.
        time: When, `[rating]`, or None.
    """

    client: Any
    item: Any
    rating: Float64[np.ndarray, "rating"]
    time: Int64[np.ndarray, "rating"] | None


class Ratings(NamedTuple):
    """Ratings in the order of their file.

    Attributes:
        client: Whose, as places in `client_ids`, `[rating]`.
        item: Of what, as places in `item_ids`, `[rating]`.
        rating: How much, `[rating]`.
        time: When, in the file's unit (seconds since 1970 in MovieLens), `[rating]`; None where the file has
            none.
        client_ids: The clients' own ids, sorted; int64, or str in an array of objects.
        item_ids: The items' own ids, likewise.
    """

    client: Int32[np.ndarray, "rating"]
    item: Int32[np.ndarray, "rating"]
    rating: Float32[np.ndarray, "rating"]
    time: Int64[np.ndarray, "rating"] | None
    client_ids: Shaped[np.ndarray, "client"]
    item_ids: Shaped[np.ndarray, "item"]


def flat(column: Any, dtype: Any) -> np.ndarray:
    """An Arrow column without nulls as NumPy, its values of `dtype` already.

    Arrow's own conversion imports pandas where that is installed: longer work than reading a million ratings.
    """
    array = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    if len(array) == 0:
        return np.empty(0, dtype)
    size = np.dtype(dtype).itemsize
    return np.frombuffer(array.buffers()[1], dtype, len(array), array.offset * size)
