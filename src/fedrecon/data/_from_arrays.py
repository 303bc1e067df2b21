"""The columns that clients are made of: checked, and gathered from arrays by client."""

from collections.abc import Collection, Iterable, Mapping
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Float32, Int64

from fedrecon.core._array_like import ArrayLike
from fedrecon.errors import DataError, plain

_PLAIN = (bool, int, float, str, np.float32, np.float64, np.int32, np.int64)  # which lack no value


def checked(
    ids: ArrayLike, offsets: ArrayLike, columns: Mapping[str, Any], may_be_nan: Collection[str] = ()
) -> tuple[Any, np.ndarray, dict[str, np.ndarray]]:
    """Ids, offsets and columns, see `Clients.from_columns`, as they are stored.

    Raises:
        DataError: They do not fit together.
    """
    ids, offsets, narrow = _ids(ids), _whole("offsets", offsets), stored(columns)
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


def in_order(
    columns: Mapping[str, Any], narrow: Mapping[str, np.ndarray], offsets: Int64[np.ndarray, "client_and_one"]
) -> dict[str, np.ndarray]:
    """Stored columns, of which those stay 64 bits wide whose order within a client 32 bits would lose.

    Such are times with fractions of a second. Programs get them in 32 bits, as all numbers; whatever sorts
    by them sorts by all 64.

    Args:
        columns: As they were given.
        narrow: The same as `stored` makes them.
        offsets: Where each client's examples begin, and at last how many there are.
    """
    kept = dict(narrow)
    for name, column in narrow.items():
        given = np.asarray(columns[name])
        if given.dtype.kind != "f" or given.dtype.itemsize <= 4 or column.dtype != np.float32:
            continue
        wide = np.require(given.astype(np.float64, copy=False), None, ("C", "A"))
        if wide.ndim == 1 and _merges(wide, column, offsets):
            kept[name] = wide
    return kept


def _merges(
    wide: Float[np.ndarray, "example"],
    narrow: Float32[np.ndarray, "example"],
    offsets: Int64[np.ndarray, "client_and_one"],
) -> bool:
    """Whether different numbers of one client become equal in 32 bits."""
    if np.all((wide == narrow) | np.isnan(wide)):
        return False
    owner = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))
    order = np.lexsort((wide, owner))
    wide, narrow, owner = wide[order], narrow[order], owner[order]
    return bool(np.any((owner[1:] == owner[:-1]) & (wide[1:] > wide[:-1]) & (narrow[1:] == narrow[:-1])))


def stored(columns: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Columns as `Clients` stores them: 32-bit numbers where these fit, each in one piece of memory.

    Raises:
        DataError: A column does not hold numbers.
    """
    # In one piece: of anything else NumPy would copy all whenever some examples are taken.
    return {name: np.require(_numbers(name, column), None, ("C", "A")) for name, column in columns.items()}


def as_array(name: str, values: object) -> np.ndarray:
    """Values as a NumPy array, if none is missing.

    NumPy would drop the mask of a masked array, and turn the nulls of Arrow and Polars into NaN. NaN in
    arrays of NumPy's own stays; `check_nan` refuses it where it is not meant.

    Args:
        name: What messages call the values.
        values: In any container that NumPy reads, or a list of such.

    Raises:
        DataError: A value is missing, or lists differ in length.
    """
    if missing := _missing(values):
        raise DataError(f"{name} must have a value in every place, {missing:,} are missing")
    try:
        return np.asarray(values)
    except ValueError:  # lists that differ in length, of which NumPy names nothing
        raise DataError(f"{name} must be an array, its lists differ in length") from None


def check_rows(columns: Mapping[str, Any], total: int) -> None:
    """Raises a DataError where a column has not one row for each of so many examples."""
    for name, column in columns.items():
        shape = as_array(f"field {name!r}", column).shape
        if shape[:1] != (total,):
            raise DataError(
                f"field {name!r} must have one row for each of the {total:,} examples, got the shape {shape}"
            )


def checked_mask(mask: ArrayLike, total: int) -> Bool[np.ndarray, "example"]:
    """A mask as an array.

    Raises:
        DataError: It does not hold one truth value for each of so many examples.
    """
    values = as_array("mask", mask)
    if values.dtype != bool or values.shape != (total,):
        raise DataError(
            f"mask must hold one truth value for each of the {total:,} examples, "
            f"got {values.dtype} of the shape {values.shape}"
        )
    return values


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
    _check_unsigned("client ids", array)
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
    _check_unsigned(f"the vocabulary of {name!r}", array)
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


def _numbers(name: str, column: ArrayLike) -> np.ndarray:
    """A column as 32-bit numbers where they fit: JAX's own width."""
    column = as_array(f"field {name!r}", column)
    column = column.astype(column.dtype.newbyteorder("="), copy=False)
    if column.dtype.kind == "f" and column.dtype.itemsize > 4:
        most = np.max(np.abs(column), initial=0)  # NaN compares false
        if 2**24 < most < 2**63 and np.all(column == np.floor(column)):
            return _numbers(name, column.astype(np.int64))  # times, say: 32-bit floats would make many equal
        with np.errstate(over="ignore"):
            return column.astype(np.float32)
    if column.dtype.kind in "iu" and column.dtype.itemsize > 4:
        info = np.iinfo(np.int32)
        if not column.size or (column.min() >= info.min and column.max() <= info.max):
            return column.astype(np.int32)
        return column
    if column.dtype.kind not in "iufb":
        raise DataError(f"field {name!r} must hold numbers, got {column.dtype}")
    return column


def _whole(name: str, values: Any) -> np.ndarray:
    """Whole numbers of 64 bits, floats without a fraction among them, such as sums that begin with none."""
    array = as_array(name, values)
    if array.dtype.kind not in "iuf" or np.any(array != np.floor(array)):
        some = array.reshape(-1)[:3].tolist()
        raise DataError(f"{name} must be whole numbers, got {array.dtype} such as {some}")
    return array.astype(np.int64)


def _check_unsigned(name: str, array: np.ndarray) -> None:
    """Raises a DataError where unsigned integers would become negative ones of 64 bits."""
    if array.dtype == np.uint64 and array.size and int(array.max()) >= 2**63:
        raise DataError(f"{name} must fit in 64 bits (-2**63 to 2**63 - 1), got {array.max()}")


def _missing(values: Any) -> int:
    """How many values are missing, as far as a container tells."""
    if isinstance(values, np.ndarray):  # by far the most frequent
        return int(np.ma.count_masked(values)) if isinstance(values, np.ma.MaskedArray) else 0
    if isinstance(values, list | tuple):
        return sum(_missing(x) for x in values if type(x) not in _PLAIN)
    if values is None or type(values).__name__ in ("NAType", "NaTType"):  # these two of pandas
        return 1
    nulls = getattr(values, "null_count", None)  # a number in Arrow, a method in Polars
    if nulls is not None:
        return int(nulls() if callable(nulls) else nulls)
    isna = getattr(values, "isna", None)  # of pandas
    return int(np.count_nonzero(isna())) if callable(isna) else 0


def _joined(name: str, clients: Iterable[Any], parts: list[np.ndarray]) -> np.ndarray:
    shapes = {x.shape[1:] for x in parts if x.size} or {parts[0].shape[1:]}
    if len(shapes) > 1:
        raise DataError(
            f"field {name!r} must have one shape per example at all clients, got {sorted(shapes)}"
        )
    (shape,) = shapes
    filled = [x for x in parts if x.size]
    return np.concatenate(filled) if filled else np.zeros((0, *shape), np.float32)
