"""Columns of Arrow as arrays and back, in every layout that Arrow has for them."""

import itertools

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest

from fedrecon import Clients
from fedrecon.data import _arrow_bridge as bridge
from fedrecon.errors import DataError

NUMBERS = [
    "int8",
    "uint8",
    "int16",
    "uint16",
    "int32",
    "uint32",
    "int64",
    "uint64",
    "float16",
    "float32",
    "float64",
]


@pytest.mark.parametrize("kind", NUMBERS)
@pytest.mark.parametrize("chunks", [1, 3])
def test_numbers_there_and_back(kind, chunks):
    values = np.arange(12).astype(kind)
    array = bridge.to_arrow(values)
    assert array.to_pylist() == values.tolist()
    column = pa.chunked_array([array[i * 12 // chunks : (i + 1) * 12 // chunks] for i in range(chunks)])
    result = bridge.to_numpy(column)
    assert result.dtype == values.dtype and np.array_equal(result, values)
    assert np.array_equal(bridge.to_numpy(array[5:9]), values[5:9])
    assert bridge.to_numpy(array[:0]).shape == (0,)
    assert bridge.to_numpy(pa.chunked_array([], array.type)).dtype == values.dtype


def test_numbers_are_shared_and_not_copied():
    values = np.arange(1000)
    array = bridge.to_arrow(values)
    assert array.buffers()[1].address == values.ctypes.data
    result = bridge.to_numpy(pa.chunked_array([array])[200:])
    assert result.ctypes.data == values.ctypes.data + 200 * 8 and not result.flags.writeable


def test_the_other_byte_order_is_turned():
    assert bridge.to_arrow(np.arange(3).astype(">i4")).to_pylist() == [0, 1, 2]


@pytest.mark.parametrize("length", [0, 1, 7, 8, 9, 100])
def test_truth_values(length):
    values = np.random.default_rng(length).random(length) < 0.5
    array = bridge.to_arrow(values)
    assert array.equals(pa.array(values.tolist(), pa.bool_()))
    assert np.array_equal(bridge.to_numpy(array), values)
    for start in range(0, length, 3):
        assert np.array_equal(bridge.to_numpy(array[start : start + 5]), values[start : start + 5])


@pytest.mark.parametrize("shape", [(4, 2, 3), (0, 2), (4, 1)])
@pytest.mark.parametrize("kind", [np.float32, bool])
def test_axes_are_lists_of_a_fixed_length(shape, kind):
    values = np.random.default_rng(0).integers(0, 2, shape).astype(kind)
    array = bridge.to_arrow(values)
    assert array.to_pylist() == values.tolist()
    result = bridge.to_numpy(array)
    assert result.shape == shape and np.array_equal(result, values)
    assert np.array_equal(bridge.to_numpy(array[1:3]), values[1:3])


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string(), pa.string_view()])
def test_texts(kind):
    array = pa.array(["b", "", "ä", "b"], kind)
    result = bridge.to_numpy(array[1:])
    assert result.dtype == object and result.tolist() == ["", "ä", "b"]
    assert bridge.to_numpy(array.dictionary_encode()[1:]).tolist() == ["", "ä", "b"]
    assert bridge.to_arrow(bridge.to_numpy(array)).to_pylist() == array.to_pylist()


@pytest.mark.parametrize("index", [pa.int8(), pa.uint8(), pa.uint32(), pa.int64()])
def test_dictionaries(index):
    first = pa.DictionaryArray.from_arrays(pa.array([1, 0, 1], index), ["unused", "a"][::-1])
    second = pa.DictionaryArray.from_arrays(pa.array([0, 1], index), ["c", "a"])
    column = pa.chunked_array([first, second])
    assert bridge.to_numpy(column).tolist() == column.to_pylist() == ["unused", "a", "unused", "c", "a"]
    places, words = bridge.encoded(column[1:])
    assert [words[i].as_py() for i in places.tolist()] == column.to_pylist()[1:]
    plain = bridge.decoded(column)
    assert plain.type == pa.string() and plain.to_pylist() == column.to_pylist()
    views = pa.DictionaryArray.from_arrays(first.indices, first.dictionary.cast(pa.string_view()))
    assert bridge.decoded(views).type == pa.large_string()
    assert bridge.to_numpy(views).tolist() == bridge.decoded(views).to_pylist() == first.to_pylist()


def test_places_are_by_first_appearance_over_all_chunks():
    places, words = bridge.encoded(pa.chunked_array([["b", "a"], ["c", "a"], ["b"]]))
    assert words.to_pylist() == ["b", "a", "c"] and places.tolist() == [0, 1, 2, 1, 0]


LISTS = [pa.list_, pa.large_list, pa.list_view, pa.large_list_view]


@pytest.mark.parametrize("layout", LISTS, ids=lambda layout: layout.__name__)
@pytest.mark.parametrize("value", [pa.int32(), pa.list_(pa.int32(), 2)], ids=str)
def test_lists(layout, value):
    rows = [[1, 2, 3], [], [4], [5, 6], []]
    rows = rows if pa.types.is_integer(value) else [[[x, -x] for x in row] for row in rows]
    array = pa.array(rows, layout(value))
    for column in (
        array,
        array[1:4],
        array[:0],
        pa.chunked_array([array[2:], array[:3]]),
        pa.chunked_array([], array.type),
    ):
        values, offsets = bridge.from_lists(column)
        numbers = bridge.to_numpy(values)
        assert offsets.dtype == np.int64 and offsets[0] == 0 and len(offsets) == len(column) + 1
        rows = [numbers[start:stop].tolist() for start, stop in itertools.pairwise(offsets)]
        assert rows == column.to_pylist()
        assert bridge.to_lists(numbers, offsets).to_pylist() == column.to_pylist()


def test_list_views_may_lie_in_any_order():
    array = pa.ListViewArray.from_arrays(
        pa.array([3, 0, 1], pa.int32()), pa.array([1, 2, 2], pa.int32()), pa.array([7, 8, 9, 6])
    )
    values, offsets = bridge.from_lists(array)
    assert values.to_pylist() == [6, 7, 8, 8, 9] and offsets.tolist() == [0, 1, 3, 5]


def test_large_lists_are_shared():
    values = np.arange(100)
    column = pa.chunked_array([bridge.to_lists(values, np.array([0, 10, 100]))])
    shared, offsets = bridge.from_lists(column)
    assert bridge.to_numpy(shared).ctypes.data == values.ctypes.data and offsets.tolist() == [0, 10, 100]


MISSING = [
    (pa.array([1, None, 2, None]), [1, 3]),
    (pa.array([None, "a"], pa.string_view()), [0]),
    (pa.DictionaryArray.from_arrays(pa.array([0, 1, None, 1], pa.uint8()), ["a", None]), [1, 2, 3]),
    (pa.DictionaryArray.from_arrays(pa.array([0, 0]), ["a", "b"]), []),
    (pa.array([[1, 2], [3, None], None], pa.list_(pa.int32(), 2)), [2]),
    (pa.array([[1, 2], [3, None], [4, 5]], pa.list_(pa.int32(), 2)), [1]),
    (pa.array([[1], [], [2, None]], pa.list_(pa.int32())), [2]),
    (pa.array([[[1.0, 2.0]], [[3.0, None]]], pa.large_list(pa.list_(pa.float32(), 2))), [1]),
    (pa.array([[1], [], [None]], pa.list_view(pa.int32())), [2]),
    (pa.array([], pa.int32()), []),
]


@pytest.mark.parametrize(
    ("array", "rows"), MISSING, ids=[str(array.type) + str(rows) for array, rows in MISSING]
)
def test_rows_without_a_value(array, rows):
    assert bridge.missing_rows(array).tolist() == rows
    assert bridge.missing_rows(array[1:]).tolist() == [row - 1 for row in rows if row]
    twice = pa.chunked_array([array, array])
    assert bridge.missing_rows(twice).tolist() == rows + [row + len(array) for row in rows]


@pytest.mark.parametrize(
    "array",
    [array for array, rows in MISSING if rows and not bridge.is_list(array.type)],
    ids=lambda array: str(array.type),
)
def test_missing_values_never_become_numbers(array):
    with pytest.raises(ValueError, match="must have a value in every row"):
        bridge.to_numpy(array)


@pytest.mark.parametrize(
    "array", [pa.array([b"x"]), pa.array([{"a": 1}]), pa.array([[1]])], ids=lambda array: str(array.type)
)
def test_other_types_are_refused(array):
    with pytest.raises(TypeError, match="must hold numbers or strings, got"):
        bridge.to_numpy(array)


def test_pandas_is_not_imported(run_python):
    code = """
import sys, numpy as np, pyarrow as pa
from fedrecon.data import _arrow_bridge as bridge
for values in (np.arange(3), np.array([True]), np.ones((2, 3))):
    bridge.to_numpy(bridge.to_arrow(values))
bridge.from_lists(bridge.to_lists(np.arange(3), np.array([0, 3])))
print("pandas" in sys.modules)
"""
    assert run_python(code).strip() == "False"


# ---- what readers make of it ------------------------------------------------------------------


def test_a_table_whose_dictionary_holds_a_null_is_refused():
    item = pa.DictionaryArray.from_arrays(pa.array([0, 1, 1]), ["a", None])
    with pytest.raises(DataError, match="column 'item' must have a value in every row, 2 are missing"):
        Clients.from_table(pa.table({"client": [1, 1, 2], "item": item}))


def test_a_null_within_a_list_of_a_fixed_length_is_refused():
    pairs = pa.array([[1.0, 2.0], [3.0, None]], pa.list_(pa.float32(), 2))
    with pytest.raises(DataError, match="column 'x' must have a value in every row, 1 are missing"):
        Clients.from_table(pa.table({"client": [1, 2], "x": pairs}))


def test_parquet_with_list_views(tmp_path):
    table = pa.table({"client": ["a", "b"], "x": pa.array([[1, 2], [3]], pa.list_view(pa.int32()))})
    pyarrow.parquet.write_table(table, tmp_path / "views.parquet")
    clients = Clients.from_parquet(tmp_path / "views.parquet")
    assert clients["a"]["x"].tolist() == [1, 2] and clients["b"]["x"].tolist() == [3]


def test_a_null_in_a_dictionary_that_no_row_has_is_no_word():
    words, places = pa.array(["b", None, "a"]), pa.array([2, 0, 2], pa.int32())
    column = pa.DictionaryArray.from_arrays(places, words)
    places, words = bridge.encoded(column)
    assert places.tolist() == [1, 0, 1] and words.to_pylist() == ["b", "a"]
