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
