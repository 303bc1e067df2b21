"""Numbers of fields as they are stored, of any container: 32 bits where these fit, and no value missing."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Float32, Int64

from fedrecon.core._array_like import ArrayLike
from fedrecon.errors import DataError

_PLAIN = (bool, int, float, str, np.float32, np.float64, np.int32, np.int64)  # which lack no value


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


def as_whole(name: str, values: Any) -> np.ndarray:
    """Whole numbers of 64 bits, floats without a fraction among them, such as sums that begin with none."""
    array = as_array(name, values)
    if array.dtype.kind not in "iuf" or np.any(array != np.floor(array)):
        some = array.reshape(-1)[:3].tolist()
        raise DataError(f"{name} must be whole numbers, got {array.dtype} such as {some}")
    return array.astype(np.int64)


def check_unsigned(name: str, array: np.ndarray) -> None:
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
