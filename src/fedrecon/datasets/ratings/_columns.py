"""Ratings as columns, with the ids as written and renumbered."""

from typing import Any, NamedTuple, TypeAlias

import numpy as np
from jaxtyping import Float32, Float64, Int32, Int64, Integer, Shaped

# Whole numbers, or floats where some have a fraction.
Times: TypeAlias = Int64[np.ndarray, "rating"] | Float64[np.ndarray, "rating"]


class Table(NamedTuple):
    """The columns of a rating file in the file's order.

    Attributes:
        client: The client of each rating, a dictionary-encoded array `[rating]`.
        item: The item of each rating, a dictionary-encoded array `[rating]`.
        rating: The value of each rating, `[rating]`; None where there are items without ratings.
        time: The time of each rating, `[rating]`; None without times.
    """

    client: Any
    item: Any
    rating: Float64[np.ndarray, "rating"] | None
    time: Times | None


class Ratings(NamedTuple):
    """Ratings in the order of their file.

    Attributes:
        client: The client of each rating, as a position in `client_ids`, `[rating]`.
        item: The item of each rating, as a position in `item_ids`, `[rating]`.
        rating: The value of each rating, `[rating]`; None where the file has items without ratings.
        time: The time of each rating, `[rating]`: numbers in the file's unit (seconds since 1970 in
            MovieLens), dates in text as seconds since 1970; None where the file has none.
        client_ids: The clients' own ids, sorted; int64, or str in an array of objects where one is no 64-bit
            integer. Integers come before other texts.
        item_ids: The items' own ids, `[item]`.
    """

    client: Int32[np.ndarray, "rating"]
    item: Int32[np.ndarray, "rating"]
    rating: Float32[np.ndarray, "rating"] | None
    time: Times | None
    client_ids: Shaped[np.ndarray, "client"]
    item_ids: Shaped[np.ndarray, "item"]


def stable_order(codes: Integer[np.ndarray, "row"]) -> Int64[np.ndarray, "row"]:
    """The rows in the order of their codes, and of equal codes in their own: `numpy.argsort(kind="stable")`.

    Code and row are sorted together as one 64-bit number where they fit, which takes a third of the time.

    Args:
        codes: Numbers of 32 or 64 bits, not negative.
    """
    bits = len(codes).bit_length()
    if not len(codes) or int(codes.max()) >> (63 - bits):
        return np.argsort(codes, kind="stable")
    packed = codes.astype(np.int64) << bits
    packed |= np.arange(len(codes))
    packed.sort()
    packed &= (1 << bits) - 1
    return packed
