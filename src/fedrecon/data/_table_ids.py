"""Ids as tables hold them: which texts are numbers, in what order ids come, and by which keys they are known.

Whether a file writes 17 as a number or as the text "17" says nothing about whose id it is, and neither does
the id of another row. So each id is told by itself: one that is the canonical decimal of a 64-bit integer is
that integer, and any other text, such as "017", "+17" or "17.0", is a string. A column of integers alone is
an array of integers. Where a column holds both, all are written as strings, but an integer keeps its place in
the order, before all strings, and its key: so a client's draws and stored state do not depend on the others.
"""

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Int64, Shaped, UInt64

from fedrecon.data._arrow_bridge import is_text, to_arrow, to_numpy
from fedrecon.data._hashing import client_keys
from fedrecon.errors import plain

_DECIMAL = "0|-?[1-9][0-9]{0,18}"  # up to 19 digits, of which the longest may still exceed 64 bits
_INT64 = range(-(2**63), 2**63)


class TableIds(NamedTuple):
    """Distinct ids of a column.

    Attributes:
        ids: In the order of the column's words; int64, or `str` in an array of objects where a word is no
            integer.
        order: The places of the ids in their order: integers ascending, then strings by code point.
    """

    ids: Shaped[np.ndarray, "id"]
    order: Int64[np.ndarray, "id"]


def table_ids(words: Any) -> TableIds:
    """The ids that an Arrow array of distinct integers or texts stands for.

    Raises:
        OverflowError: An unsigned integer exceeds 2⁶³ - 1.
    """
    import pyarrow.compute as pc

    if not is_text(words.type):
        ids = to_numpy(words)
        if ids.dtype == np.uint64 and ids.size and int(ids.max()) not in _INT64:
            raise OverflowError(f"must fit in 64 bits (-2**63 to 2**63 - 1), got {ids.max()}")
        ids = ids.astype(np.int64, copy=False)
        return TableIds(ids, np.argsort(ids, kind="stable"))
    integer, values = _integers(words)
    if integer.all():
        return TableIds(values, np.argsort(values, kind="stable"))
    by_value = np.flatnonzero(integer)[np.argsort(values, kind="stable")]
    by_text = to_numpy(pc.array_sort_indices(words)).astype(np.int64)
    return TableIds(to_numpy(words), np.concatenate([by_value, by_text[~integer[by_text]]]))


def table_keys(ids: Shaped[np.ndarray, "id"]) -> UInt64[np.ndarray, "id"]:
    """The keys of clients whose ids came from `table_ids`: an integer's is the same in every column."""
    if ids.dtype.kind in "iu":
        return client_keys(ids)
    integer, values = _integers(to_arrow(ids))  # by Arrow, since Python takes a microsecond for each
    keys = np.empty(len(ids), np.uint64)
    keys[integer] = client_keys(values)
    keys[~integer] = client_keys(ids[~integer])
    return keys


def number_of(text: str) -> int | None:
    """The 64-bit integer of which a text is the canonical decimal; None where it is of none."""
    if not re.fullmatch(_DECIMAL, text):
        return None
    number = int(text)
    return number if number in _INT64 else None


def place_of(client: object, places: Mapping[Any, int]) -> int:
    """The place of a client by its id, where 7 and "7" name the same client.

    Raises:
        KeyError: There is no such client.
    """
    place = places.get(client)
    if place is None:  # one more row of a table may have turned its integers into strings
        is_whole = isinstance(client, int | np.integer)
        other = str(client) if is_whole else number_of(client) if isinstance(client, str) else None
        place = places.get(other)
    if place is None:
        raise KeyError(f"no client has the id {plain(client)}")
    return place


def alike(one: Any, other: Any) -> tuple[list[Any], list[Any]]:
    """Two lists of ids in which equal ids are equal: as strings where only one of them holds strings."""
    lists = np.asarray(one).tolist(), np.asarray(other).tolist()
    strings = [bool(ids) and isinstance(ids[0], str) for ids in lists]
    if strings[0] == strings[1]:
        return lists
    return [str(x) for x in lists[0]], [str(x) for x in lists[1]]


def _integers(words: Any) -> tuple[Bool[np.ndarray, "id"], Int64[np.ndarray, "integer"]]:
    """Which texts are canonical decimals of 64-bit integers, and these integers."""
    import pyarrow as pa
    import pyarrow.compute as pc

    decimal = to_numpy(pc.match_substring_regex(words, f"^(?:{_DECIMAL})$"))
    chosen = words if decimal.all() else words.filter(to_arrow(decimal))
    try:
        return decimal, to_numpy(chosen.cast(pa.int64()))
    except pa.ArrowInvalid:  # some of 19 digits do not fit
        numbers = [number_of(text) for text in chosen.to_pylist()]
    decimal[np.flatnonzero(decimal)[[number is None for number in numbers]]] = False
    return decimal, np.array([number for number in numbers if number is not None], np.int64)
