"""Missing values and ids beyond 64 bits: refused in every container, never taken for numbers."""

import sqlite3
import uuid
from decimal import Decimal

import jax.numpy as jnp
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fedrecon.data._client_file.writer import ClientWriter
from fedrecon.data._clients import Clients
from fedrecon.data._pooling import in_batches, numbered
from fedrecon.data._vocabulary_mapper import VocabularyMapper
from fedrecon.datasets.text._sqlite import read_sqlite
from fedrecon.errors import DataError

NAN = float("nan")
PLACES = [[False, False], [False, True], [False, False]]
MASKED = np.ma.array([1.0, 99.0, 3.0], mask=[False, True, False])
LACKING = {
    "masked array": MASKED,
    "masked integers": np.ma.array([1, 99, 3], mask=[False, True, False]),
    "rows of a masked array": list(np.ma.array([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]], mask=PLACES)),
    "two axes": np.ma.array([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]], mask=PLACES),
    "list with None": [1.0, None, 3.0],
    "list with the NA of pandas": [1.0, pd.NA, 3.0],
    "list with NaT": [1.0, pd.NaT, 3.0],
    "list with the masked constant": [1.0, np.ma.masked, 3.0],
    "polars": pl.Series([1, None, 3]),
    "polars floats": pl.Series([1.0, None, 3.0]),
    "arrow": pa.array([1, None, 3]),
    "arrow chunks": pa.chunked_array([[1, None], [3]]),
    "pandas": pd.Series([1.0, None, 3.0]),
    "pandas nullable": pd.Series([1, None, 3], dtype="Int64"),
    "pandas array": pd.array([1, None, 3], dtype="Int64"),
    "categories": pd.Series([1, None, 3], dtype="category"),
    "pandas index": pd.Index([1.0, None, 3.0]),
}
WHOLE = {
    "numpy": np.array([1, 2, 3]),
    "list": [1, 2, 3],
    "masked array without a mask": np.ma.array([1, 2, 3]),
    "jax": jnp.array([1, 2, 3]),
    "polars": pl.Series([1, 2, 3]),
    "arrow": pa.array([1, 2, 3]),
    "pandas nullable": pd.Series([1, 2, 3], dtype="Int64"),
    "numpy scalars": [np.int64(1), np.int64(2), np.int64(3)],
}


@pytest.mark.parametrize("kind", LACKING)
def test_a_container_that_lacks_a_value_is_refused(kind):
    with pytest.raises(
        DataError, match="field 'x' of client 'ann' must have a value in every place, 1 are missing"
    ):
        Clients.from_arrays({"ann": {"x": LACKING[kind]}})
    with pytest.raises(DataError, match="field 'x' must have a value in every place, 1 are missing"):
        Clients.from_columns(["ann"], [0, 3], {"x": LACKING[kind]})
    clients = Clients.from_columns(["ann"], [0, 3], {"y": np.zeros(3)})
    with pytest.raises(DataError, match="field 'x' must have a value in every place, 1 are missing"):
        clients.with_columns(x=LACKING[kind])


@pytest.mark.parametrize("kind", WHOLE)
def test_a_container_with_all_values_is_taken(kind):
    assert Clients.from_arrays({"ann": {"x": WHOLE[kind]}})["ann"]["x"].tolist() == [1, 2, 3]
    ids = Clients.from_columns(WHOLE[kind], [0, 1, 1, 1], {"x": [0]}, {"x": WHOLE[kind]}).ids
    assert ids.tolist() == [1, 2, 3] and ids.dtype == np.int64


@pytest.mark.parametrize("part", ["ids", "offsets", "vocabulary", "mask"])
def test_no_other_part_may_lack_values(part):
    ids, offsets, words = [7, 8], [0, 1, 2], [5, 6]
    hidden = {"ids": ids, "offsets": offsets, "vocabulary": words, "mask": [True, False]}[part]
    given = np.ma.array(hidden, mask=[False, True] + [False] * (len(hidden) - 2))
    with pytest.raises(DataError, match=f"{part}.* must have a value in every place, 1 are missing"):
        Clients.from_columns(
            given if part == "ids" else ids,
            given if part == "offsets" else offsets,
            {"item": np.array([0, 1])},
            {"item": given if part == "vocabulary" else words},
        ).filter_examples(given)


def columns_with_a_hole(value):
    return {"client": ["ann", "bob", "bob"], "item": [1, 2, 3], "rating": [1.0, value, 3.0]}


FRAMES = {
    "polars nan": pl.DataFrame(columns_with_a_hole(NAN)),
    "polars null": pl.DataFrame(columns_with_a_hole(None)),
    "polars lazy nan": pl.LazyFrame(columns_with_a_hole(NAN)).collect(),
    "pandas": pd.DataFrame(columns_with_a_hole(NAN)),
    "pandas arrow floats": pd.DataFrame(columns_with_a_hole(NAN)).astype({"rating": "float64[pyarrow]"}),
    "arrow nan": pa.table(columns_with_a_hole(NAN)),
    "arrow float32": pa.table(columns_with_a_hole(NAN)).cast(
        pa.schema([("client", pa.string()), ("item", pa.int64()), ("rating", pa.float32())])
    ),
    "record batch": pa.RecordBatch.from_pydict(columns_with_a_hole(NAN)),
    "dictionary of arrays": {**columns_with_a_hole(1.0), "rating": MASKED},
}


@pytest.mark.parametrize("kind", FRAMES)
def test_a_table_that_lacks_a_value_is_refused(kind):
    with pytest.raises(DataError, match="column 'rating' must have a value in every row, 1 are missing"):
        Clients.from_table(FRAMES[kind])


VECTORS = {
    "null": pa.array([[1, 2], [3, None]], pa.list_(pa.int32(), 2)),
    "no vector": pa.array([[1, 2], None], pa.list_(pa.int32(), 2)),
    "nan": pa.array([[1, 2], [3, NAN]], pa.list_(pa.float32(), 2)),
    "nested": pa.array([[[1], [2]], [[3], [None]]], pa.list_(pa.list_(pa.int32(), 1), 2)),
}


@pytest.mark.parametrize("kind", VECTORS)
def test_a_vector_that_lacks_a_value_is_refused(kind):
    with pytest.raises(DataError, match="column 'v' must have a value in every row, 1 are missing"):
        Clients.from_table(pa.table({"client": ["ann", "bob"], "v": VECTORS[kind]}))


@pytest.mark.parametrize("values", [[[1.0, NAN], [2.0]], [[1.0, None], [2.0]], [[1.0], None]])
def test_lists_of_clients_that_lack_a_value_are_refused(tmp_path, values):
    pq.write_table(pa.table({"client": ["ann", "bob"], "x": values}), tmp_path / "lists.parquet")
    with pytest.raises(DataError, match="column 'x' must have a value in every"):
        Clients.from_parquet(tmp_path / "lists.parquet")


HOLES = {
    "list": [1.0, NAN, NAN],
    "double": np.array([1.0, NAN, NAN]),
    "single": np.array([1.0, NAN, NAN], np.float32),
    "half": np.array([1.0, NAN, NAN], np.float16),
    "other bytes": np.array([1.0, NAN, NAN], ">f8"),
    "times": np.array([2.0**40, NAN, NAN]),
    "jax": jnp.array([1.0, NAN, NAN]),
    "two axes": np.array([[1.0, 2.0], [NAN, 2.0], [1.0, NAN]]),
    "polars": pl.Series([1.0, NAN, NAN]),
    "arrow": pa.array([1.0, NAN, NAN]),
}


@pytest.mark.parametrize("kind", HOLES)
def test_nan_is_a_missing_value_unless_it_is_meant(kind):
    rule = (
        "field 'x' must have a value in every row, the one of client 'bob' at position 0 is NaN, 2 in all; "
        r"where NaN is meant, may_be_nan=\['x'\]"
    )
    column, offsets = HOLES[kind], [0, 1, 1, 3]
    with pytest.raises(DataError, match=rule):
        Clients.from_columns(["ann", "nobody", "bob"], offsets, {"x": column})
    parts = {"ann": {"x": np.asarray(column)[:1]}, "bob": {"x": np.asarray(column)[1:]}}
    with pytest.raises(DataError, match=rule):
        Clients.from_arrays(parts)
    clients = Clients.from_columns(["ann", "nobody", "bob"], offsets, {"y": [1, 2, 3]})
    with pytest.raises(DataError, match=rule):
        clients.with_columns(x=column)
    meant = Clients.from_arrays(parts, may_be_nan=["x"])
    assert np.isnan(meant["bob"]["x"]).any(axis=-1).all() and not np.isnan(meant["ann"]["x"]).any()


def test_where_nan_is_meant_it_stays_so(tmp_path):
    columns = {"item": [0, 1], "x": [1.0, NAN]}
    clients = Clients.from_columns([1], [0, 2], columns, {"item": ["a", "b"]}, may_be_nan=("x",))
    clients.write(tmp_path / "clients.arrow")
    opened = Clients.open(tmp_path / "clients.arrow")
    for other in (opened, opened.with_columns(y=[1, 2]), opened.shuffled(0), opened.sorted_by("item")):
        assert np.isnan(other[1]["x"]).sum() == 1
    mapped, left_out = VocabularyMapper(opened.vocabularies, {"item": ["b", "a", "c"]})(opened)
    assert left_out == 0 and np.isnan(mapped[1]["x"][1])
    assert np.isnan(in_batches(numbered(opened), 2, 0).column("x")).sum() == 1


@pytest.mark.parametrize(
    ("fields", "rule"), [("x", "must be a list of fields"), (["y"], "must name fields of")]
)
def test_nan_is_meant_in_fields_that_there_are(fields, rule):
    with pytest.raises(DataError, match=f"may_be_nan {rule}"):
        Clients.from_arrays({"ann": {"x": [1.0, NAN]}}, may_be_nan=fields)


@pytest.mark.parametrize("value", [NAN, None])
def test_a_table_names_the_row_that_lacks_a_value(value):
    with pytest.raises(DataError, match=r"1 are missing( \(NaN\))?, the first at position 1$"):
        Clients.from_table(pa.table(columns_with_a_hole(value)))


# ---- row numbers of pandas -------------------------------------------------------------------------------

FRAME = pd.DataFrame(
    {"client": ["a", "a", "b", "b", "b"], "item": list("xyxzy"), "rating": [1.0, 2, 3, 4, 5]}
)
NUMBERED = {
    "as it is": FRAME,
    "filtered": FRAME[FRAME.rating != 2],
    "sorted": FRAME.sort_values("item"),
    "joined": pd.concat([FRAME, FRAME]),
    "two levels": pd.concat({1: FRAME, 2: FRAME}),
    "client as index too": FRAME.set_index("client", drop=False),
    "by client": FRAME.groupby("client", group_keys=True)[["item", "rating"]].apply(lambda x: x),
    "polars": pl.from_arrow(pa.Table.from_pandas(FRAME.sort_values("item"))),
}


@pytest.mark.parametrize("kind", NUMBERED)
def test_row_numbers_are_no_field(kind, tmp_path):
    frame = NUMBERED[kind]
    assert Clients.from_table(frame).fields == ("item", "rating")
    if isinstance(frame, pd.DataFrame):
        frame.to_parquet(tmp_path / "rows.parquet")
        assert Clients.from_parquet(tmp_path / "rows.parquet").fields == ("item", "rating")


def test_row_numbers_of_lists_are_no_field(tmp_path):
    lists = pd.DataFrame({"client": ["a", "b"], "x": [[1], [2, 3]]}, index=[7, 3])
    lists.to_parquet(tmp_path / "lists.parquet")
    assert Clients.from_parquet(tmp_path / "lists.parquet").fields == ("x",)


def test_an_index_with_a_name_is_a_column_where_it_is_asked_for(tmp_path):
    assert Clients.from_table(FRAME.set_index("client")).fields == ("item", "rating")
    steps = FRAME.assign(step=[4, 2, 3, 1, 0]).set_index("step")
    assert Clients.from_table(steps, vocabularies=["step"]).fields == ("item", "rating", "step")
    assert Clients.from_table(steps.reset_index()).fields == ("step", "item", "rating")
    assert Clients.from_table(steps.reset_index(drop=True)).fields == ("item", "rating")
    pairs = steps.reset_index().set_index(["client", "step"])
    ranged = FRAME.rename_axis(index="step")
    for frame in (steps, pairs, ranged, ranged[ranged.rating != 2], FRAME.set_index("item")):
        with pytest.raises(
            DataError, match=r"index must have no name, got '(step|item)': reset_index\(\) makes"
        ):
            Clients.from_table(frame)
    by_number = FRAME.drop(columns="client").rename_axis(index="client")  # a range, which Arrow leaves out
    assert Clients.from_table(by_number).ids.tolist() == list(range(len(FRAME)))
    steps.to_parquet(tmp_path / "steps.parquet")  # where it is a column like others
    assert Clients.from_parquet(tmp_path / "steps.parquet").fields == ("item", "rating", "step")
    numbers = FRAME.rename(columns={"client": "__index_level_0__"})
    assert Clients.from_table(numbers, client="__index_level_0__").fields == ("item", "rating")


# ---- ids beyond 64 bits ----------------------------------------------------------------------------------

LARGE = np.array([2**63 + 5, 7], np.uint64)


def test_unsigned_ids_do_not_wrap(tmp_path):
    rule = r"must fit in 64 bits \(-2\*\*63 to 2\*\*63 - 1\), got 9223372036854775813"
    for frame in (pd.DataFrame, pl.DataFrame, pa.table):
        with pytest.raises(DataError, match=f"column 'client' {rule}"):
            Clients.from_table(frame({"client": LARGE, "item": [0, 1]}))
    categories = pd.DataFrame({"client": pd.Categorical(LARGE), "item": [0, 1]})
    with pytest.raises(DataError, match=f"column 'client' {rule}"):
        Clients.from_table(categories)
    with pytest.raises(DataError, match="client ids must be all strings or all 64-bit integers"):
        Clients.from_arrays({2**63 + 5: {"x": [1]}, 7: {"x": [1]}})
    with pytest.raises(DataError, match=f"client ids {rule}"):
        Clients.from_columns(LARGE, [0, 1, 2], {"x": [1, 2]})
    with pytest.raises(DataError, match=f"the vocabulary of 'item' {rule}"):
        Clients.from_columns([1], [0, 1], {"item": [0]}, {"item": LARGE})
    with pytest.raises(DataError, match=f"the vocabulary of 'item' {rule}"):
        Clients.from_table(pd.DataFrame({"client": [1, 2], "item": pd.Categorical(LARGE)}))
    pq.write_table(pa.table({"client": LARGE, "x": [[1], [2]]}), tmp_path / "lists.parquet")
    with pytest.raises(DataError, match=f"column 'client' {rule}"):
        Clients.from_parquet(tmp_path / "lists.parquet")
    small = Clients.from_columns(np.array([2**63 - 1, 7], np.uint64), [0, 1, 2], {"x": [1, 2]})
    assert small.ids.tolist() == [2**63 - 1, 7]
    assert Clients.from_arrays({1: {"x": LARGE}})[1]["x"].tolist() == LARGE.tolist()  # a field does not wrap


@pytest.mark.parametrize(
    ("names", "kind"),
    [
        ([uuid.UUID(int=1), uuid.UUID(int=2)], "uuid"),
        ([b"a", b"b"], "binary"),
        ([1.0, 2.0], "double"),
        ([Decimal(1), Decimal(2)], "decimal"),
        ([True, False], "bool"),
    ],
)
def test_what_cannot_name_clients_is_refused(names, kind):
    rule = f"column 'client' must hold integers or strings, as it names the clients; got .*{kind}"
    with pytest.raises(DataError, match=rule):
        Clients.from_table(pd.DataFrame({"client": names, "item": [0, 1]}))


def test_columns_of_several_types_are_refused():
    with pytest.raises(
        DataError, match=r"got DataFrame: .*for column client with type .*; a column must hold values of one"
    ):
        Clients.from_table(pd.DataFrame({"client": [1, "a"], "item": [0, 1]}))


# ---- clients without a name in SQLite --------------------------------------------------------------------


@pytest.mark.parametrize(("name", "shown"), [(None, "NULL"), (b"ann", "b'ann'"), (1.5, "1.5")])
@pytest.mark.parametrize("part", ["train", None])
def test_a_client_of_sqlite_has_a_name(tmp_path, name, shown, part):
    path = tmp_path / "texts.sqlite"
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE examples (split_name, client_id, serialized_example_proto)")
        connection.execute("INSERT INTO examples VALUES ('train', ?, x'')", [name])
    with pytest.raises(
        DataError, match=f"texts.sqlite, table examples: client_id must be text .* got {shown}"
    ):
        list(read_sqlite(path, part))


# ---- parts that do not fit together ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("offsets", "item", "words", "message"),
    [
        (
            [0, 1.5, 2],
            [0, 1],
            ["a", "b"],
            r"offsets must be whole numbers, got float64 such as \[0.0, 1.5, 2.0\]",
        ),
        ([False, True, True], [0], ["a"], "offsets must be whole numbers, got bool"),
        ([[0, 1, 2]], [0, 1], ["a", "b"], "offsets must run from 0 to the number of rows"),
        (
            [0, 1, 2],
            [0, 2],
            ["a", "b"],
            "'item' must hold places in its vocabulary, whole numbers from 0 to 1, got 2",
        ),
        ([0, 1, 2], [0, -1], ["a", "b"], "whole numbers from 0 to 1, got -1"),
        ([0, 1, 2], [0.0, 1.0], ["a", "b"], "whole numbers from 0 to 1, got float32"),
        ([0, 1, 2], [[0, 1], [1, 5]], ["a", "b"], "whole numbers from 0 to 1, got 5"),
        ([0, 1, 2], [0, 1], ["a", "a"], "the vocabulary of 'item' must have each id once, 'a' comes 2 times"),
        ([0, 1, 2], [0, 1], [3, 4, 3], "the vocabulary of 'item' must have each id once, 3 comes 2 times"),
    ],
)
def test_columns_that_do_not_fit_their_vocabularies_are_refused(offsets, item, words, message):
    with pytest.raises(DataError, match=message):
        Clients.from_columns(["ann", "bob"], offsets, {"item": np.array(item)}, {"item": words})


def test_whole_floats_are_offsets():
    assert Clients.from_columns(["ann"], np.array([0.0, 2.0]), {"x": [1, 2]}).num_examples.tolist() == [2]


def test_further_ways_to_a_code_beyond_its_vocabulary(tmp_path):
    clients = Clients.from_columns(["ann"], [0, 2], {"item": [0, 1]}, {"item": ["a", "b"]})
    with pytest.raises(DataError, match="whole numbers from 0 to 1, got 2"):
        clients.with_columns(item=[0, 2])
    repeated = pa.DictionaryArray.from_arrays(pa.array([0, 1]), ["a", "a"])
    with pytest.raises(DataError, match="the vocabulary of 'item' must have each id once, 'a' comes 2 times"):
        Clients.from_table(pa.table({"client": [1, 2], "item": repeated}))
    with pytest.raises(DataError, match="the vocabulary of 'item' must have each id once"):
        ClientWriter(tmp_path / "clients.arrow", {"item": ["a", "b", "a"]})
    raw = Clients.from_columns(["ann"], [0, 2], {"item": [0, 2]})
    with ClientWriter(tmp_path / "clients.arrow", {"item": ["a", "b"]}) as writer:
        writer.add(clients)
        with pytest.raises(DataError, match="whole numbers from 0 to 1, got 2"):
            writer.add(raw)


def test_a_field_that_may_be_nan_can_be_replaced():
    clients = Clients.from_arrays({"a": {"x": np.array([1.0, np.nan])}}, may_be_nan=["x"])
    np.testing.assert_array_equal(clients.with_columns(x=2 * clients.column("x"))["a"]["x"], [2.0, np.nan])
    with pytest.raises(DataError, match="field 'y' must have a value in every row"):
        clients.with_columns(y=clients.column("x"))


def test_clients_without_any_example_are_read():
    lists = pa.table({"client": ["a", "b"], "rating": pa.array([[], []], pa.list_(pa.float32()))})
    assert Clients.from_table(lists).num_examples.tolist() == [0, 0]
