"""Dense ids: the distinct ids of a column in order, and each row's place among them."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute
from jaxtyping import Int32, Shaped

from fedrecon.data._arrow_bridge import to_numpy
from fedrecon.data._table_ids import table_ids
from fedrecon.datasets.ratings._validation import id_fault


class FaultyRow(Exception):  # noqa: N818
    """What is wrong with one rating; it becomes a `DataError` once the line of its row is known.

    Attributes:
        row: The number of the faulty rating, from 0.
        message: The message, which names the rule and the value.
    """

    def __init__(self, row: int, message: str):
        super().__init__(row, message)
        self.row = row
        self.message = message


class Vocabulary(NamedTuple):
    """A column of ids, renumbered.

    Attributes:
        codes: The dense id of each row: the place of its id among the sorted ids.
        ids: The original ids, sorted, see `TableIds`; int64, or str in an array of objects.
    """

    codes: Int32[np.ndarray, "rating"]
    ids: Shaped[np.ndarray, "id"]


def vocabulary(role: str, column: pa.DictionaryArray, *, integer: bool) -> Vocabulary:
    """Renumbers a dictionary-encoded column of ids.

    Args:
        role: The role of the ids in messages, such as `"item"`.
        column: The ids, dictionary-encoded whole numbers or text without nulls.
        integer: Whether ids that are text must be whole numbers of 64 bits. Otherwise each is one if it is
            written as one in the usual way ("07" is not: it may be another id than "7").

    Raises:
        FaultyRow: An id is empty or not UTF-8, or it must be a whole number of 64 bits and is not.
    """
    words, codes = column.dictionary, to_numpy(column.indices)
    whole = integer or pa.types.is_integer(words.type)
    if not whole and (pyarrow.compute.index(words, "").as_py() >= 0 or not _is_utf_8(words)):
        raise _first_fault(words, codes, lambda word: id_fault(role, word, integer=False))
    try:
        ids, order = table_ids(words)
    except OverflowError:
        ids = np.zeros(0, object)
    if whole and ids.dtype != np.int64:
        raise _first_fault(words, codes, lambda word: id_fault(role, word, integer=True))
    rank = np.empty(len(ids), np.int32)
    rank[order] = np.arange(len(ids), dtype=np.int32)
    return Vocabulary(rank[codes], ids[order])


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
