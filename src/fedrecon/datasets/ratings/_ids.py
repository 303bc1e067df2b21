"""Dense ids: the distinct ids of a column in order, and each row's place among them."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute
from jaxtyping import Int32, Shaped

from fedrecon.data._arrow_bridge import to_numpy
from fedrecon.datasets.ratings._validation import WHOLE, id_fault


class FaultyRow(Exception):  # noqa: N818
    """What is wrong with one rating; it becomes a `DataError` once the line of its row is known.

    Attributes:
        row: Which rating, from 0.
        message: The rule and the value.
    """

    def __init__(self, row: int, message: str):
        super().__init__(row, message)
        self.row = row
        self.message = message


class Vocabulary(NamedTuple):
    """A column of ids, renumbered.

    Attributes:
        codes: The dense id of each row: the place of its id among the sorted ids.
        ids: The original ids, sorted; int64, or str in an array of objects.
    """

    codes: Int32[np.ndarray, "rating"]
    ids: Shaped[np.ndarray, "id"]


def vocabulary(role: str, column: pa.DictionaryArray, *, integer: bool, parse: bool) -> Vocabulary:
    """Renumbers a dictionary-encoded column of ids.

    Args:
        role: Whose ids, for messages.
        column: Dictionary-encoded whole numbers or text, without nulls.
        integer: Whether ids that are text must be whole numbers.
        parse: Whether ids that are text become numbers where all of them are whole numbers, written in the
            usual way ("07" is not: it may be another id than "7").

    Raises:
        FaultyRow: An id is empty or not UTF-8, is not a whole number though it must be, or does not fit in
            64 bits.
    """
    words, codes = column.dictionary, to_numpy(column.indices)
    if pa.types.is_integer(words.type) or integer or (parse and _all_whole(words)):
        ids = _whole_numbers(role, words, codes)
        order = np.argsort(ids)
    else:
        if pyarrow.compute.index(words, "").as_py() >= 0 or not _is_utf_8(words):
            raise _first_fault(words, codes, lambda word: id_fault(role, word, integer=False))
        ids = np.array(words.to_pylist(), dtype=object)
        order = to_numpy(pyarrow.compute.array_sort_indices(words))
    rank = np.empty(len(ids), np.int32)
    rank[order] = np.arange(len(ids), dtype=np.int32)
    return Vocabulary(rank[codes], ids[order])


def _whole_numbers(
    role: str, words: pa.Array, codes: Int32[np.ndarray, "rating"]
) -> Shaped[np.ndarray, "id"]:
    """The distinct ids as int64."""
    if pa.types.is_integer(words.type) or _all_whole(words):
        try:
            return to_numpy(words.cast(pa.int64()))
        except pa.ArrowInvalid:
            pass  # one does not fit in 64 bits
    raise _first_fault(words, codes, lambda word: id_fault(role, word, integer=True))


def _all_whole(words: pa.Array) -> bool:
    return bool(pyarrow.compute.all(pyarrow.compute.match_substring_regex(words, f"^(?:{WHOLE})$")).as_py())


def _is_utf_8(words: pa.Array) -> bool:
    try:
        words.validate(full=True)
    except pa.ArrowInvalid:
        return False
    return True


def _first_fault(
    words: pa.Array, codes: Int32[np.ndarray, "rating"], fault: Callable[[str], str | None]
) -> FaultyRow:
    if not pa.types.is_integer(words.type):
        words = words.cast(pa.large_binary())  # as it may not be UTF-8
    faults = [
        fault(word.decode(errors="surrogateescape") if isinstance(word, bytes) else str(word))
        for word in words.to_pylist()
    ]
    row = int(np.argmax(np.array([message is not None for message in faults])[codes]))
    return FaultyRow(row, str(faults[codes[row]]))
