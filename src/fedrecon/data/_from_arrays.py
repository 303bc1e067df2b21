"""The columns that clients are made of: checked, and gathered from arrays by client."""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from jaxtyping import Int64

from fedrecon.core._types import ArrayLike
from fedrecon.errors import DataError


def checked(
    ids: ArrayLike, offsets: ArrayLike, columns: Mapping[str, Any]
) -> tuple[Any, np.ndarray, dict[str, np.ndarray]]:
    """ArrayLike, offsets and columns, see `Clients.from_columns`, as they are stored.

    Raises:
        DataError: They do not fit together.
    """
    ids, offsets, narrow = _ids(ids), np.asarray(offsets, np.int64), stored(columns)
    if not narrow:
        raise DataError("clients must have at least one field, got none")
    rows = {name: len(column) for name, column in narrow.items()}
    if len(set(rows.values())) > 1:
        raise DataError(f"all fields must have as many rows, got {rows}")
    total = next(iter(rows.values()))
    steps = np.diff(offsets)
    if len(offsets) != len(ids) + 1 or offsets[0] != 0 or offsets[-1] != total or np.any(steps < 0):
        raise DataError(
            f"offsets must run from 0 to the number of rows ({total}) in {len(ids) + 1} steps that do "
            f"not decrease, got {len(offsets)} from {offsets[:1].tolist()} to {offsets[-1:].tolist()}"
        )
    return ids, offsets, narrow


def stored(columns: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Columns as `Clients` stores them: 32-bit numbers where these fit, each in one piece of memory.

    Raises:
        DataError: A column does not hold numbers.
    """
    # In one piece: of anything else NumPy would copy all whenever some examples are taken.
    return {name: np.require(_numbers(name, column), None, ("C", "A")) for name, column in columns.items()}


def offsets_of(counts: ArrayLike) -> Int64[np.ndarray, "part_and_one"]:
    """Where parts of these lengths begin when they lie one after the other, and where the last one ends.

    Args:
        counts: The length of each part, `[part]`, not negative.

    Returns:
        `[part + 1]`, from 0 to the sum: part i is `offsets[i]:offsets[i + 1]`.
    """
    offsets = np.zeros(len(counts) + 1, np.int64)
    if len(counts):
        np.cumsum(counts, dtype=np.int64, out=offsets[1:])
    return offsets


def gathered(arrays: Mapping[Any, Mapping[str, Any]]) -> tuple[list[Any], np.ndarray, dict[str, np.ndarray]]:
    """ArrayLike, offsets and columns of `{client: {field: array}}`.

    Raises:
        DataError: A client lacks a field, or its fields differ in length.
    """
    if not arrays:
        raise DataError("arrays must name at least one client, got none")
    names = tuple(next(iter(arrays.values())))
    parts: dict[str, list[np.ndarray]] = {name: [] for name in names}
    lengths = []
    for client, fields in arrays.items():
        if set(fields) != set(names):
            raise DataError(
                f"client {client!r} has the fields {sorted(fields)}, the first has {sorted(names)}"
            )
        sizes = {name: len(np.atleast_1d(np.asarray(fields[name]))) for name in names}
        if len(set(sizes.values())) > 1:
            raise DataError(f"the fields of client {client!r} must be of one length, got {sizes}")
        lengths.append(next(iter(sizes.values()), 0))
        for name in names:
            parts[name].append(np.atleast_1d(np.asarray(fields[name])))
    columns = {name: _joined(name, list(arrays), xs) for name, xs in parts.items()}
    return list(arrays), offsets_of(lengths), columns


def _ids(ids: ArrayLike) -> Any:
    array = np.asarray(ids)
    if array.dtype.kind == "U" and not isinstance(ids, np.ndarray):
        array = np.asarray(list(ids), object)  # else numbers among strings had become strings
    if array.dtype.kind in "iu" and array.ndim == 1:
        array = array.astype(np.int64)
    elif array.ndim == 1 and all(isinstance(x, str) for x in array.tolist()):
        array = array.astype(object)
    elif array.size == 0:
        array = np.zeros(0, np.int64)
    else:
        raise DataError("client ids must be all strings or all 64-bit integers")
    unique, counts = np.unique(array, return_counts=True)
    if len(unique) < len(array):
        raise DataError(f"client ids must be unique, {unique[counts > 1][0]!r} comes {counts.max()} times")
    return array


def vocabulary(name: str, values: ArrayLike) -> np.ndarray:
    """The original ids of a field as an array of 64-bit integers or of strings.

    Raises:
        DataError: They are neither.
    """
    array = np.asarray(values)
    if array.ndim == 1 and (array.dtype.kind in "iu" or not array.size):
        return array.astype(np.int64)
    array = np.asarray(list(values), object)  # else numbers among strings had become strings
    if array.ndim != 1:
        raise DataError(f"the vocabulary of {name!r} must be a flat list, got the shape {array.shape}")
    for x in array:
        if not isinstance(x, str):
            raise DataError(
                f"the vocabulary of {name!r} must be all strings or all 64-bit integers, it holds {x!r}"
            )
    return array


def _numbers(name: str, column: ArrayLike) -> np.ndarray:
    """A column as 32-bit numbers where they fit: JAX's own width."""
    column = np.asarray(column)
    column = column.astype(column.dtype.newbyteorder("="), copy=False)
    if column.dtype == np.float64:
        most = np.max(np.abs(column), initial=0)  # NaN compares false
        if 2**24 < most < 2**63 and np.all(column == np.floor(column)):
            return _numbers(name, column.astype(np.int64))  # times, say: 32-bit floats would make many equal
        return column.astype(np.float32)
    if column.dtype.kind in "iu" and column.dtype.itemsize > 4:
        info = np.iinfo(np.int32)
        if not column.size or (column.min() >= info.min and column.max() <= info.max):
            return column.astype(np.int32)
        return column
    if column.dtype.kind not in "iufb":
        raise DataError(f"field {name!r} must hold numbers, got {column.dtype}")
    return column


def _joined(name: str, clients: Iterable[Any], parts: list[np.ndarray]) -> np.ndarray:
    shapes = {x.shape[1:] for x in parts if x.size} or {parts[0].shape[1:]}
    if len(shapes) > 1:
        raise DataError(
            f"field {name!r} must have one shape per example at all clients, got {sorted(shapes)}"
        )
    (shape,) = shapes
    filled = [x for x in parts if x.size]
    return np.concatenate(filled) if filled else np.zeros((0, *shape), np.float32)
