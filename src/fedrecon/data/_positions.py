"""Positions of clients, as callers and samplings give them: whole numbers, or a mask."""

import operator

import numpy as np
from jaxtyping import Int64

from fedrecon.errors import DataError, plain


def client_positions(
    name: str, given: object, count: int, *, least: int | None = None
) -> Int64[np.ndarray, "row"]:
    """Positions among so many clients, from a flat list or array of whole numbers or from a mask.

    NumPy would read a list of booleans as the positions 0 and 1, cut 1.7 to 1, and wrap unsigned numbers.

    Args:
        name: What messages call the positions.
        given: Whole numbers in any container that NumPy reads, or one boolean for each client.
        count: How many clients there are.
        least: The smallest position allowed; by default `-count`, where -1 is the last client.

    Returns:
        The positions in the order given, or where the mask is true, ascending.

    Raises:
        DataError: They are no flat list of whole numbers in range and no mask of the right length.
    """
    array = np.ma.asarray(given) if isinstance(given, np.ma.MaskedArray) else np.asarray(given)
    if np.ma.is_masked(array):
        raise DataError(
            f"{name} must have a value in every place, {int(np.ma.count_masked(array))} are masked"
        )
    array = np.asarray(array)
    if array.ndim != 1:
        shape = f"the shape {list(array.shape)}" if array.ndim else plain(given)
        raise DataError(f"{name} must be a flat list of positions or a mask of the clients, got {shape}")
    if not array.size:
        if array.dtype == bool and count:
            raise _wrong_length(name, 0, count)
        return np.zeros(0, np.int64)
    numbers = _numbers(array, given)
    if numbers is None:
        kinds = sorted({type(x).__name__ for x in array.tolist()[:8]})
        raise DataError(
            f"{name} must be whole numbers, or booleans for all clients, got {', '.join(kinds)} such as "
            f"{plain(array.tolist()[0])}"
        )
    if numbers.dtype == bool:
        if len(numbers) != count:
            raise _wrong_length(name, len(numbers), count)
        return np.flatnonzero(numbers)
    smallest = -count if least is None else least
    outside = (numbers < smallest) | (numbers >= count)
    if outside.any():
        raise DataError(
            f"{name} must be positions from {smallest} to {count - 1}, as there are {count:,} clients, got "
            f"{numbers[outside][0]}"
        )
    return numbers.astype(np.int64, copy=False)


def _numbers(array: np.ndarray, given: object) -> np.ndarray | None:
    """The whole numbers or booleans of an array; None where it holds anything else, or both."""
    if array.dtype.kind == "b":
        return array
    if array.dtype.kind in "iu":
        mixed = isinstance(given, list | tuple) and any(isinstance(x, bool | np.bool_) for x in given)
        return None if mixed else array
    if array.dtype.kind != "O":
        return None
    values = array.tolist()
    flags = [isinstance(x, bool | np.bool_) for x in values]
    if all(flags):
        return np.asarray(values, bool)
    try:
        return None if any(flags) else np.asarray([operator.index(x) for x in values])
    except TypeError:
        return None


def _wrong_length(name: str, length: int, count: int) -> DataError:
    return DataError(f"a mask of {name} must be of the length {count:,} of the clients, got {length:,}")
