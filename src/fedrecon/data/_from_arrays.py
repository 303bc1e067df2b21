"""What clients are made of, checked: ids, offsets, fields and vocabularies, also of arrays by client."""

from collections.abc import Collection, Iterable, Mapping
from typing import Any

import numpy as np
from jaxtyping import Int64

from fedrecon.core._array_like import ArrayLike
from fedrecon.data._columns import (
    as_array,
    as_whole,
    check_rows,
    check_unsigned,
    in_order,
    offsets_of,
    stored,
)
from fedrecon.errors import DataError, plain


def checked(
    ids: ArrayLike, offsets: ArrayLike, columns: Mapping[str, Any], may_be_nan: Collection[str] = ()
) -> tuple[Any, np.ndarray, dict[str, np.ndarray]]:
    """Ids, offsets and columns, see `Clients.from_columns`, as they are stored.

    Raises:
        DataError: They do not fit together.
    """
    ids, offsets, narrow = _ids(ids), as_whole("offsets", offsets), stored(columns)
    for name, column in narrow.items():
        if not column.ndim:
            raise DataError(f"field {name!r} must have a row for each example, got the number {column}")
    if not narrow:
        raise DataError("clients must have at least one field, got none")
    rows = {name: len(column) for name, column in narrow.items()}
    if len(set(rows.values())) > 1:
        raise DataError(f"all fields must have as many rows, got {rows}")
    total = next(iter(rows.values()))
    steps = np.diff(offsets)
    if offsets.shape != (len(ids) + 1,) or offsets[0] != 0 or offsets[-1] != total or np.any(steps < 0):
        raise DataError(
            f"offsets must run from 0 to the number of rows ({total}) in {len(ids) + 1} steps that do "
            f"not decrease, got {len(offsets)} from {offsets[:1].tolist()} to {offsets[-1:].tolist()}"
        )
    check_nan(narrow, np.asarray(ids), offsets, may_be_nan)
    return ids, offsets, in_order(columns, narrow, offsets)


def check_nan(
    columns: Mapping[str, np.ndarray],
    ids: np.ndarray,
    offsets: Int64[np.ndarray, "client_and_one"],
    may_be_nan: Collection[str] = (),
) -> None:
    """Raises a DataError where a value is NaN, which is how most containers write a missing one.

    Args:
        columns: Name to array `[example, ...]`.
        ids: The clients' names, `[client]`.
        offsets: Where each client's examples begin, and at last how many there are.
        may_be_nan: Names of the fields that may hold NaN; none by default.
    """
    if isinstance(may_be_nan, str):
        raise DataError(f"may_be_nan must be a list of fields, such as [{may_be_nan!r}], got {may_be_nan!r}")
    for name in may_be_nan:
        if name not in columns:
            raise DataError(f"may_be_nan must name fields of {sorted(columns)}, got {plain(name)}")
    for name, column in columns.items():
        if name in may_be_nan or column.dtype.kind != "f":
            continue
        if not _has_nan(column):
            continue
        rows = np.flatnonzero(np.isnan(column).reshape(len(column), -1).any(axis=1))
        owner = int(np.searchsorted(offsets, rows[0], side="right")) - 1
        raise DataError(
            f"field {name!r} must have a value in every row, the one of client {plain(ids[owner])} at "
            f"position {rows[0] - offsets[owner]} is NaN, {len(rows):,} in all; where NaN is meant, "
            f"may_be_nan=[{name!r}] of Clients.from_columns and from_arrays lets it in"
        )


def check_replacements(
    columns: Mapping[str, Any],
    before: Mapping[str, np.ndarray],
    ids: np.ndarray,
    offsets: Int64[np.ndarray, "client_and_one"],
    vocabularies: Mapping[str, np.ndarray],
) -> None:
    """Raises a DataError where columns cannot be fields of clients in addition, or in place of others.

    A field that holds NaN, which somebody meant, may hold it again.

    Args:
        columns: Name to column `[example, ...]`.
        before: The fields that are replaced.
        ids: The clients' names, `[client]`.
        offsets: Where each client's examples begin, and at last how many there are.
        vocabularies: For fields that hold places, the original ids.
    """
    check_rows(columns, int(offsets[-1]))
    narrow = stored(columns)
    meant = [name for name, column in before.items() if column.dtype.kind == "f" and _has_nan(column)]
    check_nan(narrow, ids, offsets, meant)
    check_codes(narrow, {name: known for name, known in vocabularies.items() if name in columns})


def _has_nan(column: np.ndarray) -> bool:
    """Whether a column of floating-point numbers holds NaN: in one pass, without a mask as large as it."""
    with np.errstate(invalid="ignore"):
        return bool(column.size and np.isnan(column.min()))


def check_codes(columns: Mapping[str, np.ndarray], vocabularies: Mapping[str, np.ndarray]) -> None:
    """Raises a DataError where a field with original ids holds anything but places in these."""
    for name, ids in vocabularies.items():
        if name not in columns or not columns[name].size:
            continue
        column, rule = columns[name], f"field {name!r} must hold places in its vocabulary, whole numbers"
        if column.dtype.kind not in "iu":
            raise DataError(f"{rule} from 0 to {len(ids) - 1:,}, got {column.dtype}")
        least, most = column.min(), column.max()
        if least < 0 or most >= len(ids):
            raise DataError(f"{rule} from 0 to {len(ids) - 1:,}, got {least if least < 0 else most}")


def checked_vocabularies(
    vocabularies: Mapping[str, Any], columns: Mapping[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """Vocabularies as arrays, each id once, in which the fields of these names hold places.

    Raises:
        DataError: One is no list of ids, has one twice, or a field holds anything but places in it.
    """
    known = {name: vocabulary(name, values) for name, values in vocabularies.items()}
    for name, original in known.items():
        check_repeats(name, original)
    check_codes(columns, known)
    return known


def check_repeats(name: str, ids: np.ndarray) -> None:
    """Raises a DataError where a vocabulary has an id twice, which would stand for two items."""
    unique = np.unique(ids) if ids.dtype != object else set(ids.tolist())
    if len(unique) < len(ids):
        values, counts = np.unique(ids, return_counts=True)
        twice = values[counts > 1].tolist()[0]
        raise DataError(
            f"the vocabulary of {name!r} must have each id once, {twice!r} comes {counts.max()} times"
        )


def gathered(arrays: Mapping[Any, Mapping[str, Any]]) -> tuple[list[Any], np.ndarray, dict[str, np.ndarray]]:
    """Ids, offsets and columns of `{client: {field: array}}`.

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
                f"client {plain(client)} has the fields {sorted(fields)}, the first has {sorted(names)}"
            )
        own = {
            name: np.atleast_1d(as_array(f"field {name!r} of client {plain(client)}", fields[name]))
            for name in names
        }
        sizes = {name: len(x) for name, x in own.items()}
        if len(set(sizes.values())) > 1:
            raise DataError(f"the fields of client {plain(client)} must be of one length, got {sizes}")
        lengths.append(next(iter(sizes.values()), 0))
        for name in names:
            parts[name].append(own[name])
    columns = {name: _joined(name, list(arrays), xs) for name, xs in parts.items()}
    return list(arrays), offsets_of(lengths), columns


def _ids(ids: Any) -> Any:
    array = as_array("client ids", ids)
    check_unsigned("client ids", array)
    if array.dtype.kind == "U" and not isinstance(ids, np.ndarray):
        array = np.asarray(list(ids), object)  # else numbers among strings had become strings
    if array.dtype.kind in "iu" and array.ndim == 1:
        array = array.astype(np.int64)
    elif array.ndim == 1 and all(isinstance(x, str) for x in array.tolist()):
        array = array.astype(object)
        _check_unicode("client ids", array)
    elif array.size == 0:
        array = np.zeros(0, np.int64)
    else:
        raise DataError("client ids must be all strings or all 64-bit integers")
    # By a set, since NumPy would sort texts, which takes ten times as long.
    distinct = set(array.tolist()) if array.dtype == object else np.unique(array)
    if len(distinct) < len(array):
        unique, counts = np.unique(array, return_counts=True)
        raise DataError(
            f"client ids must be unique, {plain(unique[counts > 1][0])} comes {counts.max()} times"
        )
    return array


def _check_unicode(name: str, texts: np.ndarray) -> None:
    """Raises a DataError where a text has half of a surrogate pair, which no file can hold."""
    try:
        "".join(texts.tolist()).encode()
    except UnicodeEncodeError as error:
        raise DataError(f"{name} must be Unicode text, got {error.object[error.start]!r} in one") from None


def vocabulary(name: str, values: ArrayLike) -> np.ndarray:
    """The original ids of a field as an array of 64-bit integers or of strings.

    Raises:
        DataError: They are neither.
    """
    array = as_array(f"the vocabulary of {name!r}", values)
    check_unsigned(f"the vocabulary of {name!r}", array)
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
    _check_unicode(f"the vocabulary of {name!r}", array)
    return array


def _joined(name: str, clients: Iterable[Any], parts: list[np.ndarray]) -> np.ndarray:
    shapes = {x.shape[1:] for x in parts if x.size} or {parts[0].shape[1:]}
    if len(shapes) > 1:
        raise DataError(
            f"field {name!r} must have one shape per example at all clients, got {sorted(shapes)}"
        )
    (shape,) = shapes
    filled = [x for x in parts if x.size]
    return np.concatenate(filled) if filled else np.zeros((0, *shape), np.float32)
