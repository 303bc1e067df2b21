"""Columns of Arrow as NumPy arrays and back: the one place that knows Arrow's layouts.

A column may come in chunks, as a slice of a longer array, dictionary-encoded, as views, or lack values.
Numbers are passed by their buffers, where they lie, so that a column mapped from a file stays mapped. They do
not go through Arrow's own `to_numpy` and `pyarrow.array`, which import pandas first where it is installed:
half a second.
"""

from typing import TYPE_CHECKING, Any, TypeAlias, Union

import numpy as np
from jaxtyping import Bool, Int64, Integer, Shaped

from fedrecon.data._columns import offsets_of

if TYPE_CHECKING:
    import pyarrow


# As texts, since Arrow is imported where it is used and not before.
ArrowColumn: TypeAlias = Union["pyarrow.Array", "pyarrow.ChunkedArray"]
ArrowType: TypeAlias = "pyarrow.DataType"


def to_numpy(column: ArrowColumn) -> Shaped[np.ndarray, "row ..."]:
    """A column of numbers, truth values, texts, or lists of one fixed length, as an array.

    Numbers are shared with Arrow and read-only where they lie in one piece; several chunks are joined. Truth
    values, of which Arrow packs eight into a byte, and texts are copied.

    Args:
        column: An Arrow array or chunked array; dictionaries are decoded.

    Returns:
        `[row]`, or `[row, length, ...]` for lists of a fixed length; texts are `str` in an array of objects.

    Raises:
        ValueError: A value of the column is missing; `missing_rows` says where.
        TypeError: The column is of another type.
    """
    import pyarrow as pa

    array = one_chunk(decoded(column))
    rows, shape = len(array), []
    while pa.types.is_fixed_size_list(array.type):
        _refuse_nulls(array)
        shape.append(array.type.list_size)
        array = array.flatten()  # unlike `values`, only what belongs to a slice
    _refuse_nulls(array)
    if is_text(array.type):
        return np.asarray([None, *array.to_pylist()], object)[1:]
    if pa.types.is_boolean(array.type):
        return _bits(array).reshape(rows, *shape)
    if not is_number(array.type):
        raise TypeError(f"a column must hold numbers or strings, got {array.type}")
    return np.from_dlpack(array).reshape(rows, *shape)


def to_arrow(values: np.ndarray) -> Any:
    """An array `[row, ...]` of numbers or truth values, or `[row]` of texts, as an Arrow array.

    Further axes become lists of a fixed length. Numbers in one piece are shared with Arrow, not copied.
    """
    import pyarrow as pa

    values = np.asarray(values)
    if values.dtype.kind in "OU":
        return pa.array(values.tolist(), pa.string())
    flat = np.ascontiguousarray(values, values.dtype.newbyteorder("=")).reshape(-1)
    buffer = pa.py_buffer(np.packbits(flat, bitorder="little") if flat.dtype == bool else flat)
    array = pa.Array.from_buffers(pa.from_numpy_dtype(flat.dtype), len(flat), [None, buffer])
    for length in reversed(values.shape[1:]):
        array = pa.FixedSizeListArray.from_arrays(array, length)
    return array


def to_lists(values: np.ndarray, offsets: Integer[np.ndarray, "row_and_one"]) -> Any:
    """A column of lists, of which row i holds `values[offsets[i]:offsets[i + 1]]`.

    The lists are Arrow's large ones: offsets of 32 bits end at 2³¹ values, and some of Arrow's functions wrap
    them there without an error.
    """
    import pyarrow as pa

    return pa.LargeListArray.from_arrays(to_arrow(offsets.astype(np.int64, copy=False)), to_arrow(values))


def from_lists(column: ArrowColumn) -> tuple[Any, Int64[np.ndarray, "row_and_one"]]:
    """The values of a column of lists, one row after the other, as an Arrow array, and where each row begins.

    Args:
        column: Lists of any layout (`is_list`) without missing values. Large lists in one chunk are shared.

    Returns:
        The values, and offsets from 0, int64: row i holds `values[offsets[i]:offsets[i + 1]]`.
    """
    import pyarrow as pa

    if not pa.types.is_large_list(column.type):  # chunks of smaller lists may together exceed 2³¹
        chunks = [_large_lists(array) for array in chunks_of(column)]
        column = pa.chunked_array(chunks, pa.large_list(column.type.value_field))
    array = one_chunk(column)
    _refuse_nulls(array)
    if not len(array):  # of which Arrow may leave out the offsets
        return array.values.slice(0, 0), np.zeros(1, np.int64)
    offsets = to_numpy(array.offsets)
    values = array.values
    if offsets[0] or offsets[-1] != len(values):  # a slice has the offsets, and the values, of the whole
        values, offsets = values.slice(int(offsets[0]), int(offsets[-1] - offsets[0])), offsets - offsets[0]
    return values, offsets


def encoded(column: ArrowColumn) -> tuple[Integer[np.ndarray, "row"], Any]:
    """Each row's place among the distinct values of a column, and these values.

    Args:
        column: Numbers or texts without missing values. Of a dictionary the values stay as they are, also
            those that no row has; `decoded` leaves these out.

    Returns:
        The places `[row]`, and an Arrow array of the values: in the order of the dictionary, without its
        nulls, else in that of their first rows.
    """
    import pyarrow as pa

    if not pa.types.is_dictionary(column.type):
        # Before chunks are joined: then only the places are, and texts of 2 GiB do not break their offsets.
        column = column.dictionary_encode()
    array = one_chunk(column)
    places, words = to_numpy(array.indices), array.dictionary
    if words.null_count:  # which no row has, as the column lacks no value
        is_word = ~_bits(words.is_null())
        return (np.cumsum(is_word) - 1)[places], words.filter(to_arrow(is_word))
    return places, words


def decoded(column: ArrowColumn) -> Any:
    """The column in a plain layout: a dictionary as its values, views of texts or bytes as large ones."""
    # One after the other: Arrow 26 decodes no dictionary of views.
    for kind in (without_views(column.type), without_views(value_type(column.type))):
        column = column if column.type == kind else column.cast(kind)
    return column


def one_chunk(column: ArrowColumn) -> Any:
    """A column as one array. A single chunk stays where it lies; `combine_chunks` would copy it."""
    import pyarrow as pa

    if not isinstance(column, pa.ChunkedArray):
        return column
    return column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()


def chunks_of(column: ArrowColumn) -> list["pyarrow.Array"]:
    """The arrays that a column consists of, in their order."""
    import pyarrow as pa

    return column.chunks if isinstance(column, pa.ChunkedArray) else [column]


def missing_rows(column: ArrowColumn) -> Int64[np.ndarray, "missing"]:
    """The rows of a column that lack a value, ascending, int64.

    A row lacks a value where it is null, where its place in a dictionary holds a null, which Arrow's
    `null_count` does not count, and where one of the entries of its list is null.
    """
    first, rows = 0, [np.zeros(0, np.int64)]
    for array in chunks_of(column):
        if _has_nulls(array):
            rows.append(first + np.flatnonzero(_null_mask(array)))
        first += len(array)
    return np.concatenate(rows)


def is_number(kind: ArrowType) -> bool:
    """Whether a type is of whole numbers or floats; truth values are neither."""
    import pyarrow as pa

    return pa.types.is_integer(kind) or pa.types.is_floating(kind)


def is_text(kind: ArrowType) -> bool:
    """Whether a type is of strings, in any layout but a dictionary."""
    import pyarrow as pa

    return pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)


def is_list(kind: ArrowType) -> bool:
    """Whether a type is of lists that may differ in length, in any layout."""
    import pyarrow as pa

    kinds = pa.types.is_list, pa.types.is_large_list, pa.types.is_list_view, pa.types.is_large_list_view
    return any(is_kind(kind) for is_kind in kinds)


def value_type(kind: ArrowType) -> Any:
    """The type of a column's values: that of a dictionary's values, else the type itself."""
    import pyarrow as pa

    return kind.value_type if pa.types.is_dictionary(kind) else kind


def without_views(kind: ArrowType) -> Any:
    """The type in which views of texts or bytes are large ones, as older parts of Arrow know them."""
    import pyarrow as pa

    if pa.types.is_dictionary(kind):
        return pa.dictionary(kind.index_type, without_views(kind.value_type), kind.ordered)
    return {pa.string_view(): pa.large_string(), pa.binary_view(): pa.large_binary()}.get(kind, kind)


def _large_lists(array: ArrowColumn) -> Any:
    """Lists of any layout as large lists."""
    import pyarrow as pa

    _refuse_nulls(array)
    # Not by `cast`, which makes invalid arrays of list views in Arrow 26.
    offsets = offsets_of(to_numpy(array.value_lengths()))
    return pa.LargeListArray.from_arrays(to_arrow(offsets), array.flatten())


def _bits(array: ArrowColumn) -> Bool[np.ndarray, "row"]:
    if not len(array):
        return np.zeros(0, bool)
    data = np.frombuffer(array.buffers()[1], np.uint8)
    bits = np.unpackbits(data, count=array.offset + len(array), bitorder="little")
    return bits[array.offset :].view(bool)


def _refuse_nulls(array: ArrowColumn) -> None:
    if array.null_count:
        raise ValueError(f"a column must have a value in every row, {array.null_count} are missing")


def _has_nulls(array: ArrowColumn) -> bool:
    import pyarrow as pa

    if array.null_count:
        return True
    if pa.types.is_dictionary(array.type):
        return _has_nulls(array.dictionary)
    nested = is_list(array.type) or pa.types.is_fixed_size_list(array.type)
    return nested and _has_nulls(array.flatten())


def _null_mask(array: ArrowColumn) -> Bool[np.ndarray, "row"]:
    import pyarrow as pa

    mask = _bits(array.is_null())
    if pa.types.is_dictionary(array.type) and array.dictionary.null_count:
        indices = array.indices
        full = pa.Array.from_buffers(
            indices.type, len(indices), [None, indices.buffers()[1]], 0, indices.offset
        )
        return mask | _null_mask(array.dictionary)[np.where(mask, 0, to_numpy(full))]
    if mask.any() or not (is_list(array.type) or pa.types.is_fixed_size_list(array.type)):
        return mask
    lengths = to_numpy(array.value_lengths()) if is_list(array.type) else array.type.list_size
    owner = np.repeat(np.arange(len(array)), lengths)
    return np.bincount(owner[_null_mask(array.flatten())], minlength=len(array)) > 0
