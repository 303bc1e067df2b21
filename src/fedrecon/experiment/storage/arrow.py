"""Arrays as columns of Arrow."""

from typing import Any

import numpy as np


def column(values: Any) -> Any:
    """An array `[row, ...]` of numbers, or `[row]` of strings, as a column; further axes become lists."""
    import pyarrow as pa

    values = np.asarray(values)
    if values.dtype == object:
        return pa.array(values.tolist(), pa.string())
    flat = np.ascontiguousarray(values).reshape(-1)
    # Where pandas is installed, pyarrow.array loads it first: half a second.
    made = pa.Array.from_buffers(pa.from_numpy_dtype(flat.dtype), len(flat), [None, pa.py_buffer(flat)])
    for length in reversed(values.shape[1:]):
        made = pa.FixedSizeListArray.from_arrays(made, length)
    return made


def ragged(values: Any, counts: np.ndarray) -> Any:
    """A column of lists: `values` one after the other, so many of them in each row."""
    import pyarrow as pa

    return pa.LargeListArray.from_arrays(column(np.concatenate([[0], np.cumsum(counts)])), column(values))


def repeating(schema: Any) -> list[str]:
    """The columns, by their paths in Parquet, of which a dictionary of their values is worth its making.

    Not numbers with a point, which hardly come twice: to look for them takes four times as long as to write
    them, and the file becomes larger.
    """
    import pyarrow as pa

    found = []
    for field in schema:
        path, kind = field.name, field.type
        while isinstance(kind, pa.ListType | pa.LargeListType | pa.FixedSizeListType):
            path, kind = f"{path}.list.element", kind.value_type
        if not pa.types.is_floating(kind):
            found.append(path)
    return found
