"""Clients: where they come from, how they are read, cut and shuffled, and what is refused."""

import errno
import json
import os

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fedrecon.data._clients import Clients
from fedrecon.errors import DataError

ROWS = {
    "user": ["bob", "ann", "bob", "cid", "ann", "bob"],
    "item": [7, 3, 5, 3, 9, 7],
    "rating": [1.0, 2.5, 3.0, 4.0, 5.0, 0.5],
    "genre": ["war", "art", "war", "sea", "sea", "art"],
}
FRAMES = {
    "pandas": pd.DataFrame(ROWS),
    "polars": pl.DataFrame(ROWS),
    "arrow": pa.table(ROWS),
    "chunks": pa.concat_tables([pa.table(ROWS)[:2], pa.table(ROWS)[2:]]),
    "categories": pd.DataFrame(ROWS).astype({"user": "category", "genre": "category"}),
    "polars categories": pl.DataFrame(ROWS).with_columns(pl.col("user", "genre").cast(pl.Categorical)),
}


def small():
    return Clients.from_arrays(
        {
            "ann": {"item": [3, 9], "rating": [2.5, 5.0]},
            "nobody": {"item": [], "rating": []},
            "bob": {"item": [7, 5, 7], "rating": [1.0, 3.0, 0.5]},
            "cid": {"item": [3], "rating": [4.0]},
        }
    )


def contents(clients):
    return {i: {f: x.tolist() for f, x in clients[i].items()} for i in clients.ids.tolist()}


# ---- where they come from --------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", FRAMES)
def test_from_a_table(kind):
    clients = Clients.from_table(FRAMES[kind], client="user")
    assert clients.ids.tolist() == ["ann", "bob", "cid"]
    assert clients.num_examples.tolist() == [2, 3, 1]
    assert clients["bob"]["item"].tolist() == [7, 5, 7]
    assert clients["bob"]["rating"].tolist() == [1.0, 3.0, 0.5]
    words = clients.vocabularies["genre"]
    assert words[clients["bob"]["genre"]].tolist() == ["war", "war", "art"]
    assert words[clients.column("genre")].tolist() == ["art", "sea", "war", "war", "art", "sea"]
    assert {f: clients.column(f).dtype for f in ("item", "rating")} == {
        "item": np.int32,
        "rating": np.float32,
    }


def test_order_of_a_tables_rows_decides_nothing_but_the_order_within_clients():
    table = pa.table({"client": [5, 2, 5, 9], "x": [1, 2, 3, 4]})
    other = table.take([3, 1, 0, 2])
    assert (
        contents(Clients.from_table(table))
        == contents(Clients.from_table(other))
        == {
            2: {"x": [2]},
            5: {"x": [1, 3]},
            9: {"x": [4]},
        }
    )


def test_from_a_table_with_lists_of_one_length():
    table = pa.table(
        {"client": ["a", "b", "a"], "x": pa.array([[1, 2], [3, 4], [5, 6]], pa.list_(pa.int32(), 2))}
    )
    assert Clients.from_table(table)["a"]["x"].tolist() == [[1, 2], [5, 6]]


@pytest.mark.parametrize("kind", ["categories", "polars categories"])
def test_a_category_without_a_row_is_no_client(kind):
    frame = FRAMES[kind][2:4]
    assert Clients.from_table(frame, client="user").ids.tolist() == ["bob", "cid"]


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (
            {"usr": [1], "x": [1]},
            r"column 'client', which names the client, is missing; there are \['usr', 'x'\]",
        ),
        ({"client": [1, None], "x": [1, 2]}, "column 'client' must have a value in every row, 1 are missing"),
        ({"client": [1, 2], "x": [1.0, None]}, "column 'x' must have a value in every row, 1 are missing"),
        ({"client": [1.5, 2.0], "x": [1, 2]}, "column 'client' must hold integers or strings.* got double"),
        ({"client": [1], "x": [[[1, 2]]]}, "column 'x' must hold numbers or strings, got list"),
        ({"client": [1], "x": [{"a": 1}]}, "column 'x' must hold numbers or strings, got struct"),
        ({"client": [1]}, "at least one field, got none"),
    ],
)
def test_tables_that_are_refused(table, message):
    with pytest.raises(DataError, match=message):
        Clients.from_table(pa.table(table))


@pytest.mark.parametrize("frame", [5, "ratings.csv", [1, 2], None])
def test_no_table(frame):
    with pytest.raises(DataError, match="a table must be of pandas, Polars or Arrow, got"):
        Clients.from_table(frame)


def test_from_parquet_with_an_example_per_row(tmp_path):
    pq.write_table(FRAMES["arrow"], tmp_path / "long.parquet")
    clients = Clients.from_parquet(tmp_path / "long.parquet", client="user")
    assert contents(clients) == contents(Clients.from_table(FRAMES["arrow"], client="user"))


@pytest.mark.parametrize("kind", [pa.list_, pa.large_list])
def test_from_parquet_with_a_client_per_row(tmp_path, kind):
    lists = {"item": kind(pa.int64()), "rating": kind(pa.float64())}
    columns = {"item": [[7, 5, 7], [], [3]], "rating": [[1.0, 3.0, 0.5], [], [4.0]]}
    arrays = {f: pa.array(columns[f], lists[f]) for f in lists}
    pq.write_table(pa.table({"client": ["bob", "nobody", "cid"], **arrays}), tmp_path / "lists.parquet")
    clients = Clients.from_parquet(str(tmp_path / "lists.parquet"))
    assert contents(clients) == {
        "bob": {"item": [7, 5, 7], "rating": [1.0, 3.0, 0.5]},
        "nobody": {"item": [], "rating": []},
        "cid": {"item": [3], "rating": [4.0]},
    }


LISTS = {"item": [["p", "q", "p"], [], ["r"]], "rating": [[1.0, 3.0, 0.5], [], [4.0]]}


@pytest.mark.parametrize(
    "frame",
    [
        pd.DataFrame({"client": ["bob", "nobody", "cid"], **LISTS}),
        pl.DataFrame({"client": ["bob", "nobody", "cid"], **LISTS}),
        pl.DataFrame(
            {"client": ["bob", "nobody", "cid"], **LISTS},
            schema_overrides={
                "client": pl.Enum(["cid", "nobody", "bob"]),
                "item": pl.List(pl.Enum(["none", "r", "q", "p"])),
            },
        ),
        pa.table(
            {
                "client": pa.array(["bob", "nobody", "cid"], pa.string_view()),
                "item": pa.array(LISTS["item"], pa.list_(pa.string_view())),
                "rating": LISTS["rating"],
            }
        ),
    ],
    ids=["pandas", "Polars", "Enum", "views"],
)
def test_tables_with_a_client_per_row(tmp_path, frame):
    path = tmp_path / "lists.parquet"
    frame.write_parquet(path) if isinstance(frame, pl.DataFrame) else pq.write_table(pa.table(frame), path)
    for clients in (Clients.from_table(frame), Clients.from_parquet(path)):
        assert clients.ids.tolist() == ["bob", "nobody", "cid"] and clients.num_examples.tolist() == [3, 0, 1]
        assert clients.vocabularies["item"][clients.column("item")].tolist() == ["p", "q", "p", "r"]
        assert clients.column("rating").tolist() == [1.0, 3.0, 0.5, 4.0]
    with pytest.raises(DataError, match="client ids must be unique, 'bob' comes 2 times"):
        Clients.from_table(pd.DataFrame({"client": ["bob", "bob"], "item": [["p"], ["q"]]}))
    with pytest.raises(
        DataError, match=r"^where a row is a client, every column must be a list, 'age' is not"
    ):
        Clients.from_table(pd.DataFrame({"client": ["bob"], "item": [["p"]], "age": [3]}))


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"item": [[1], [2]], "age": [3, 4]}, "every column must be a list, 'age' is not"),
        ({"item": [[1], [2]], "rating": [[1.0], []]}, "of one length, 'rating' differs"),
        ({"item": [[1], None]}, "column 'item' must have a value in every list, some are missing"),
        ({"item": [[1], [None]]}, "column 'item' must have a value in every list, some are missing"),
    ],
    ids=["no list", "length", "missing list", "missing value"],
)
def test_lists_that_are_refused(tmp_path, columns, message):
    path = tmp_path / "lists.parquet"
    pq.write_table(pa.table({"client": [1, 2], **columns}), path)
    with pytest.raises(DataError, match=message):
        Clients.from_parquet(path)


def test_a_client_without_an_id_is_refused(tmp_path):
    pq.write_table(pa.table({"client": [1, None], "item": [[1], [2]]}), tmp_path / "lists.parquet")
    with pytest.raises(DataError, match="column 'client' must have a value in every row, 1 are"):
        Clients.from_parquet(tmp_path / "lists.parquet")


def test_categories_of_whole_numbers(tmp_path):
    item = pa.array([7, 2**40, 7]).dictionary_encode()
    clients = Clients.from_table(pa.table({"client": ["a", "a", "b"], "item": item}))
    assert contents(clients) == {"a": {"item": [0, 1]}, "b": {"item": [0]}}
    assert clients.vocabularies["item"].tolist() == [7, 2**40]


def test_parquet_that_cannot_be_read(tmp_path):
    with pytest.raises(DataError, match=r"none\.parquet: there is no such file"):
        Clients.from_parquet(tmp_path / "none.parquet")
    pq.write_table(FRAMES["arrow"], tmp_path / "a.parquet")
    whole = (tmp_path / "a.parquet").read_bytes()
    for size in (0, 3, 50, len(whole) - 1):
        (tmp_path / "a.parquet").write_bytes(whole[:size])
        with pytest.raises(DataError, match=r"a.parquet cannot be read as Parquet"):
            Clients.from_parquet(tmp_path / "a.parquet")


def test_from_arrays_keeps_the_order_of_the_clients():
    clients = small()
    assert clients.ids.tolist() == ["ann", "nobody", "bob", "cid"]
    assert repr(clients) == "Clients(4 clients, 6 examples, fields item, rating)"
    assert clients["nobody"]["item"].shape == (0,)
    assert len(clients) == 4


def test_fields_may_have_axes():
    clients = Clients.from_arrays(
        {1: {"x": np.ones((2, 3))}, 2: {"x": np.zeros((0, 3))}, 3: {"x": np.zeros((0,))}}
    )
    assert clients[1]["x"].shape == (2, 3)
    assert clients[3]["x"].shape == (0, 3)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({}, "arrays must name at least one client, got none"),
        ({"a": {"x": [1]}, "b": {"y": [1]}}, r"client 'b' has the fields \['y'\], the first has \['x'\]"),
        ({"a": {"x": [1], "y": [1, 2]}}, r"fields of client 'a' must be of one length, got {'x': 1, 'y': 2}"),
        ({"a": {"x": [[1, 2]]}, "b": {"x": [[1]]}}, r"field 'x' must have one shape .* \[\(1,\), \(2,\)\]"),
        ({"a": {"x": ["red"]}}, "field 'x' must hold numbers, got <U3"),
        ({"a": {}}, "at least one field, got none"),
        ({"a": {"x": [1]}, 2: {"x": [1]}}, "client ids must be all strings or all 64-bit integers"),
        ({1.5: {"x": [1]}}, "client ids must be all strings or all 64-bit integers"),
        ({"a": {"x": [[1], [1, 2]]}}, "field 'x' of client 'a' must be an array, its lists differ in length"),
    ],
)
def test_arrays_that_are_refused(arrays, message):
    with pytest.raises(DataError, match=message):
        Clients.from_arrays(arrays)


@pytest.mark.parametrize(
    ("ids", "offsets", "columns", "message"),
    [
        ([1, 1], [0, 1, 2], {"x": [1, 2]}, "client ids must be unique, .*1.* comes 2 times"),
        (["a", "b"], [0, 1], {"x": [1, 2]}, "offsets must run from 0 to the number of rows"),
        (
            ["a", "b"],
            [0, 1, 3],
            {"x": [1, 2]},
            r"offsets must run from 0 to the number of rows \(2\) in 3 steps",
        ),
        (["a", "b"], [0, 3, 2], {"x": [1, 2]}, "that do not decrease"),
        (["a", "b"], [1, 1, 2], {"x": [1, 2]}, "offsets must run from 0"),
        (["a"], [0, 2], {"x": [1, 2], "y": [1]}, "all fields must have as many rows, got {'x': 2, 'y': 1}"),
        (
            ["a"],
            [0, 1],
            {"x": np.array(3.0)},
            "field 'x' must have a row for each example, got the number 3.0",
        ),
        (["a"], [0, 2], {"x": [[1], [1, 2]]}, "field 'x' must be an array, its lists differ in length"),
        (["a", "\ud800"], [0, 1, 2], {"x": [1, 2]}, r"client ids must be Unicode text, got '\\ud800' in one"),
    ],
)
def test_columns_that_do_not_fit(ids, offsets, columns, message):
    with pytest.raises(DataError, match=message):
        Clients.from_columns(ids, offsets, columns)


def test_numbers_are_kept_in_32_bits_where_they_fit():
    columns = {
        "a": np.array([2**31 - 1]),
        "b": np.array([2**31]),
        "c": np.array([0.1]),
        "d": np.array([True]),
    }
    columns["e"] = np.array([5], np.uint64)
    kinds = {f: Clients.from_columns(["x"], [0, 1], columns).column(f).dtype.name for f in columns}
    assert kinds == {"a": "int32", "b": "int64", "c": "float32", "d": "bool", "e": "int32"}


# ---- files -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ids", [["ann", "Łuk\n", ""], [2**62, -5, 0]], ids=["strings", "integers"])
def test_write_and_open(tmp_path, ids):
    columns = {
        "item": np.array([3, 9, 7, 5], np.int32),
        "pair": np.arange(8, dtype=np.float32).reshape(4, 2),
        "time": np.array([2**40, 1, 2, 3]),
        "liked": np.array([True, False, True, True]),
        "grid": np.arange(16, dtype=np.int16).reshape(4, 2, 2),
    }
    vocabularies = {"item": np.arange(10) * 2**40, "word": np.array(["x", "yß"], object)}
    clients = Clients.from_columns(ids, [0, 1, 1, 4], columns, vocabularies)
    clients.write(tmp_path / "clients.arrow")
    found = Clients.open(tmp_path / "clients.arrow")
    assert found.ids.tolist() == clients.ids.tolist()
    assert found.ids.dtype == clients.ids.dtype
    np.testing.assert_array_equal(found.keys, clients.keys)
    assert contents(found) == contents(clients)
    for f in columns:
        assert found.column(f).dtype == clients.column(f).dtype
        np.testing.assert_array_equal(found.column(f), columns[f])
    for f, ids_of_field in vocabularies.items():
        assert found.vocabularies[f].tolist() == ids_of_field.tolist()
        assert found.vocabularies[f].dtype == ids_of_field.dtype
    assert [p.name for p in tmp_path.iterdir()] == ["clients.arrow"]


@pytest.mark.parametrize("ids", [["a", "bß"], np.array(["a", "bß"]), [7, 2**40], []], ids=str)
def test_vocabularies_of_any_kind_are_written_and_opened(tmp_path, ids):
    count = min(len(ids), 1)
    clients = Clients.from_columns(["ann"], [0, count], {"item": np.zeros(count, np.int32)}, {"item": ids})
    clients.write(tmp_path / "clients.arrow")
    assert Clients.open(tmp_path / "clients.arrow").vocabularies["item"].tolist() == list(ids)


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        ([1.5], "must be all strings or all 64-bit integers, it holds 1.5"),
        (["a", 1], "it holds 1"),
        (["a", "b\ud800"], "the vocabulary of 'item' must be Unicode text"),
        ([["a"]], r"must be a flat list, got the shape \(1, 1\)"),
    ],
    ids=str,
)
def test_vocabularies_that_are_refused(ids, message):
    with pytest.raises(DataError, match=message):
        Clients.from_columns(["ann"], [0, 1], {"item": np.zeros(1, np.int32)}, {"item": ids})


def test_numbers_of_the_other_byte_order(tmp_path):
    columns = {
        "x": np.array([1.5, 2.5], ">f4"),
        "n": np.array([1, 2], ">i4"),
        "d": np.array([1.5, 3.0], ">f8"),
    }
    clients = Clients.from_columns(["ann"], [0, 2], columns)
    clients.write(tmp_path / "clients.arrow")
    found = Clients.open(tmp_path / "clients.arrow")["ann"]
    assert {name: x.tolist() for name, x in found.items()} == {
        name: x.tolist() for name, x in columns.items()
    }


@pytest.mark.parametrize("unit", [1.0, 1000.0])
def test_whole_times_as_doubles_keep_their_order(unit):
    time = unit * (2.0**31 - 8 + np.array([2.0, 0.0, 1.0]))
    clients = Clients.from_arrays({"ann": {"time": time}})
    assert clients.column("time").tolist() == time.tolist()
    assert clients.sorted_by("time").column("time").tolist() == sorted(time.tolist())


def test_others_may_read_a_client_file(tmp_path):
    before = os.umask(0o027)
    try:
        Clients.from_arrays({1: {"x": [1]}}).write(tmp_path / "clients.arrow")
    finally:
        os.umask(before)
    assert (tmp_path / "clients.arrow").stat().st_mode & 0o777 == 0o640


@pytest.mark.parametrize("which", [[3, 1], [0, 2], []], ids=["some", "others", "none"])
def test_a_part_is_written_as_that_part(tmp_path, which):
    part = small().take(which)
    part.write(tmp_path / "part")
    found = Clients.open(tmp_path / "part")
    assert contents(found) == contents(part)
    assert found.fields == part.fields


def test_opened_clients_can_be_cut_and_shuffled(tmp_path):
    small().write(tmp_path / "c")
    found, own = Clients.open(tmp_path / "c"), small()
    for change in (
        lambda c: c.shuffled(3),
        lambda c: c.cap(1),
        lambda c: c.take([2, 0]),
        lambda c: c.select("item"),
    ):
        assert contents(change(found)) == contents(change(own))


def test_a_file_cut_short_at_any_place(tmp_path):
    small().write(tmp_path / "whole")
    whole = (tmp_path / "whole").read_bytes()
    for size in [*range(0, len(whole), 13), *range(len(whole) - 40, len(whole))]:
        (tmp_path / "cut").write_bytes(whole[:size])
        with pytest.raises(DataError, match="cut is no client file"):
            Clients.open(tmp_path / "cut")


def test_files_of_another_kind(tmp_path):
    with pytest.raises(DataError, match="there is no such client file"):
        Clients.open(tmp_path / "none")
    with pytest.raises(DataError, match=r"a folder of client files must have an index\.arrow"):
        Clients.open(tmp_path)
    (tmp_path / "text").write_text("user,item\n")
    with pytest.raises(DataError, match="text is no client file"):
        Clients.open(tmp_path / "text")
    with pa.ipc.new_file(tmp_path / "arrow", FRAMES["arrow"].schema) as writer:
        writer.write_table(FRAMES["arrow"])
    with pytest.raises(DataError, match="arrow is no client file of this version"):
        Clients.open(tmp_path / "arrow")


def test_a_write_that_fails_leaves_nothing(tmp_path, monkeypatch):
    (tmp_path / "clients").write_text("older")

    def fail(*args):
        raise OSError(errno.ENOSPC, "no space left")

    monkeypatch.setattr("os.fsync", fail)
    with pytest.raises(OSError, match="no space left"):
        small().write(tmp_path / "clients")
    assert [p.name for p in tmp_path.iterdir()] == ["clients"]
    assert (tmp_path / "clients").read_text() == "older"


def test_metadata_is_json(tmp_path):
    Clients.from_table(FRAMES["arrow"], client="user").write(tmp_path / "c")
    kept = pa.ipc.open_file(tmp_path / "c").schema.metadata
    assert json.loads(kept[b"vocabularies"]) == {"genre": {"values": ["war", "art", "sea"], "strings": True}}


# ---- read ------------------------------------------------------------------------------------------------


def test_unknown_names():
    with pytest.raises(KeyError, match="no client has the id 'eve'"):
        small()["eve"]
    with pytest.raises(DataError, match=r"have the fields \['item', 'rating'\], not 'itm'"):
        small().select("rating", "itm")


def test_column_follows_the_order_of_the_clients():
    clients = small()
    assert clients.column("item").tolist() == [3, 9, 7, 5, 7, 3]
    assert clients.take([3, 2]).column("item").tolist() == [3, 7, 5, 7]
    assert clients.take([1, 2]).column("item").tolist() == [7, 5, 7]
    assert clients.take([]).column("item").tolist() == []


def test_padded():
    clients = small()
    assert clients.padded("item", np.array([2, 1, 0]), 4).tolist() == [[7, 5, 7, 0], [0] * 4, [3, 9, 0, 0]]
    assert clients.take([1]).padded("rating", np.array([0]), 2).tolist() == [[0, 0]]
    nobody = Clients.from_arrays({"a": {"x": np.zeros((0, 2))}})
    assert nobody.padded("x", np.array([0, 0]), 3).shape == (2, 3, 2)


@pytest.mark.parametrize(
    "column", [np.arange(8, dtype=np.int32)[::2], np.arange(8, dtype=np.float32).reshape(2, 4).T]
)
def test_columns_lie_in_one_piece(column):
    """Taking some examples of another array copies all of it first, every round."""
    clients = Clients.from_columns(["a", "b"], [0, 1, 4], {"x": column})
    assert clients.column("x").flags.c_contiguous
    np.testing.assert_array_equal(clients.padded("x", np.array([1, 0]), 3)[0], column[1:])


def test_places_free_are_filled():
    places = small().places(np.array([0, 1, 3]), 3)
    assert places.field("item")[:2].tolist() == [[3, 9, 0], [0] * 3]
    filled = places.field("item", np.int64, fill=2**40)
    assert filled.dtype == np.int64 and filled[0].tolist() == [3, 9, 2**40]


def test_distinct():
    assert not small().distinct("item")
    assert small().take([0, 1, 3]).distinct("item")
    assert not small().distinct("rating")
    far = Clients.from_arrays({1: {"x": [-(2**31), 2**31 - 1]}, 2: {"x": [2**31 - 1, -(2**31)]}})
    assert far.distinct("x")
    huge = Clients.from_arrays({i: {"x": np.array([-(2**62), 2**62, -(2**62)])} for i in range(3)})
    assert not huge.distinct("x")
    assert not Clients.from_arrays({1: {"x": np.ones((2, 2), int)}}).distinct("x")


# ---- other clients ---------------------------------------------------------------------------------------


def many(n=200):
    return Clients.from_arrays({f"u{i}": {"x": 100 * i + np.arange(i % 7)} for i in range(n)})


def test_shuffled_keeps_examples_and_depends_on_the_client_alone():
    clients = many()
    once, other = clients.shuffled(1), clients.shuffled(2)
    assert all(sorted(once[i]["x"]) == clients[i]["x"].tolist() for i in clients.ids)
    assert contents(once) != contents(clients)
    assert contents(once) != contents(other)
    assert contents(clients.shuffled(1)) == contents(once)
    alone = clients.take([6]).shuffled(1)
    assert contents(alone) == {"u6": {"x": once["u6"]["x"].tolist()}}
    backwards = clients.take(np.arange(len(clients))[::-1]).shuffled(1)
    assert contents(backwards) == contents(once)


def test_shuffled_is_even():
    """Of clients with 3 examples, every order comes as often."""
    clients = Clients.from_arrays({i: {"x": [0, 1, 2]} for i in range(3000)})
    orders = clients.shuffled(0).column("x").reshape(-1, 3) @ np.array([9, 3, 1])
    _, counts = np.unique(orders, return_counts=True)
    assert len(counts) == 6
    np.testing.assert_allclose(counts, 500, atol=100)


def test_sorted_by_keeps_equal_values_in_order():
    clients = Clients.from_arrays(
        {"a": {"t": [2, 1, 2, 0], "n": [0, 1, 2, 3]}, "b": {"t": [1, 0], "n": [4, 5]}}
    )
    assert clients.sorted_by("t").column("n").tolist() == [3, 1, 0, 2, 5, 4]
    assert clients.take([1, 0]).sorted_by("t").column("n").tolist() == [5, 4, 3, 1, 0, 2]


def test_cap():
    capped = small().cap(2)
    assert capped.num_examples.tolist() == [2, 0, 2, 1]
    assert capped.column("item").tolist() == [3, 9, 7, 5, 3]
    assert capped.shuffled(0).num_examples.tolist() == [2, 0, 2, 1]
    with pytest.raises(DataError, match="cap must be a whole number of at least 1, got 0"):
        small().cap(0)


def test_split_is_disjoint_and_depends_on_ids_alone():
    clients = many()
    parts = clients.split({"train": 0.8, "validation": 0.1, "test": 0.1}, seed=0)
    assert [len(p) for p in parts.values()] == [160, 20, 20]
    names = {n: set(p.ids) for n, p in parts.items()}
    assert set.union(*names.values()) == set(clients.ids)
    again = clients.take(np.random.default_rng(0).permutation(len(clients))).split(
        {"train": 0.8, "rest": 0.2}, 0
    )
    assert set(again["train"].ids) == names["train"]
    assert set(clients.split({"train": 0.8}, seed=1)["train"].ids) != names["train"]
    assert len(clients.split({"a": 0.25}, seed=0)["a"]) == 50


@pytest.mark.parametrize(
    ("fractions", "message"),
    [
        ({"train": 0.8, "test": 0.3}, r"fractions must sum to at most 1, got .*'test': 0.3.*, 1.1"),
        ({"train": 0.0}, r"fraction 'train' must lie in \(0, 1\], got 0.0"),
        ({"train": 0.8, "test": -0.1}, r"fraction 'test' must lie in \(0, 1\], got -0.1"),
        ({"train": float("nan")}, r"fraction 'train' must lie in \(0, 1\], got nan"),
        ({"train": 80.0}, r"fraction 'train' must lie in \(0, 1\], got 80.0"),
    ],
)
def test_fractions_that_are_refused(fractions, message):
    with pytest.raises(DataError, match=message):
        small().split(fractions, seed=0)


def some_clients(which):
    """Five clients, of which some have no example: as made, taken in another order, capped, or none."""
    counts = np.array([3, 0, 4, 1, 0])
    columns = {"item": np.arange(8, dtype=np.int32) % 5, "x": np.arange(16.0, dtype=np.float32).reshape(8, 2)}
    clients = Clients.from_columns(list("abcde"), [0, *np.cumsum(counts)], columns, {"item": list("vwxyz")})
    return {
        "all": clients,
        "order": clients.take([2, 1, 0]),
        "part": clients.take([1, 2, 3]),
        "capped": clients.cap(2),
        "none": clients.take([]),
    }[which]


WHICH = ["all", "order", "part", "capped", "none"]


@pytest.mark.parametrize("which", WHICH)
def test_offsets_owners_and_positions_say_whose_an_example_is(which):
    clients = some_clients(which)
    offsets, owners, positions = clients.offsets, clients.owners(), clients.positions()
    assert offsets.dtype == np.int64 and offsets.shape == (len(clients) + 1,) and not offsets.flags.writeable
    assert clients.offsets is offsets
    items = clients.column("item")
    for i, client in enumerate(clients.ids.tolist()):
        own = clients[client]["item"]
        np.testing.assert_array_equal(items[offsets[i] : offsets[i + 1]], own)
        np.testing.assert_array_equal(items[owners == i], own)
        np.testing.assert_array_equal(positions[owners == i], np.arange(len(own)))
    assert len(owners) == len(positions) == offsets[-1] == len(items)


@pytest.mark.parametrize("which", WHICH)
def test_with_columns_adds_and_replaces(which):
    clients = some_clients(which)
    items = clients.column("item")
    other = clients.with_columns(item=4 - items, twice=np.stack([items, items], 1).astype(np.int64))
    assert other.fields == ("item", "x", "twice")
    assert other.ids.tolist() == clients.ids.tolist() and other.keys.tolist() == clients.keys.tolist()
    assert other.vocabularies["item"].tolist() == list("vwxyz")
    assert other.blank("twice", 0).dtype == np.int32
    for client in clients.ids.tolist():
        before, after = clients[client], other[client]
        np.testing.assert_array_equal(after["item"], 4 - before["item"])
        np.testing.assert_array_equal(after["x"], before["x"])
        np.testing.assert_array_equal(after["twice"], np.stack([before["item"]] * 2, 1))
    assert len(items) == 0 or other.field_stats("item").most == 4 - items.min()


def test_with_columns_shares_what_it_does_not_replace(tmp_path):
    some_clients("all").write(tmp_path / "clients.arrow")
    mapped = Clients.open(tmp_path / "clients.arrow")
    other = mapped.with_columns(y=np.zeros(8))
    assert np.shares_memory(other.column("x"), mapped.column("x"))
    assert np.shares_memory(other.column("item"), mapped.column("item"))


@pytest.mark.parametrize("which", WHICH)
@pytest.mark.parametrize("keep", ["some", "all", "nothing"])
def test_filter_examples_keeps_clients_and_order(which, keep):
    def chosen(items):
        return {"some": items % 2 == 0, "all": items >= 0, "nothing": items < 0}[keep]

    clients = some_clients(which)
    mask = chosen(clients.column("item"))
    other = clients.filter_examples(mask)
    assert other.ids.tolist() == clients.ids.tolist() and other.vocabularies.keys() == {"item"}
    for client in clients.ids.tolist():
        before, after = clients[client], other[client]
        for field in clients.fields:
            np.testing.assert_array_equal(after[field], before[field][chosen(before["item"])])
    assert other.offsets[-1] == mask.sum()


def test_field_stats_are_those_of_the_examples_that_stay():
    clients = Clients.from_arrays({"a": {"item": [1, 2, 2, 9]}})
    assert not clients.distinct("item")
    assert clients.filter_examples(np.array([True, True, False, False])).field_stats("item") == (1, 2, True)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"y": np.zeros(7)}, r"'y' must have one row for each of the 8 examples, got the shape \(7,\)"),
        ({"y": np.zeros((2, 4))}, r"each of the 8 examples, got the shape \(2, 4\)"),
        ({"y": 1.0}, r"each of the 8 examples, got the shape \(\)"),
        ({"y": list("abcdefgh")}, "field 'y' must hold numbers"),
    ],
)
def test_further_columns_that_are_refused(columns, message):
    with pytest.raises(DataError, match=message):
        some_clients("all").with_columns(**columns)


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (np.ones(7, bool), r"mask must hold one truth value for each of the 8 examples, got bool .* \(7,\)"),
        (np.ones((8, 1), bool), r"got bool of the shape \(8, 1\)"),
        (np.arange(8), r"got int64 of the shape \(8,\)"),
    ],
)
def test_masks_that_are_refused(mask, message):
    with pytest.raises(DataError, match=message):
        some_clients("all").filter_examples(mask)
