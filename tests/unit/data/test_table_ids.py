"""Ids of tables: each is told by itself, so that no row changes the order, keys or sets of other clients."""

import hashlib

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fedrecon.data._client_file.writer import ClientWriter
from fedrecon.data._clients import Clients
from fedrecon.data._hashing import client_keys
from fedrecon.data._holdout import hold_out
from fedrecon.data._pooling import numbered
from fedrecon.data._table_ids import alike, number_of, table_ids, table_keys
from fedrecon.datasets.ratings._interactions import interactions, leave_one_out, with_negatives, with_recency
from fedrecon.datasets.ratings._load import read_ratings
from fedrecon.datasets.ratings._prepare import prepare
from fedrecon.errors import DataError
from fedrecon.solvers._optimizers import optimizer

COLUMNS = {"client": "user", "item": "item", "rating": "stars"}
# Ids in their order; those from "+5" on are texts.
SORTED = ["-9223372036854775808", "-3", "0", "9", "10", "9223372036854775807"]
SORTED += ["+5", "-0", "00029", "10 ", "5.0", "9223372036854775808", "Zed", "x1", "\u0663"]
INTEGERS = 6
TEXTS = [*SORTED[INTEGERS:], "", "1\n", "1_0", "--1"]


@pytest.mark.parametrize(
    ("text", "number"),
    [
        *((x, int(x)) for x in SORTED[:INTEGERS]),
        *((x, None) for x in [*SORTED[INTEGERS:], "", "1\n", "1_0", "--1"]),
    ],
)
def test_the_canonical_decimal_of_a_64_bit_integer_is_that_integer(text, number):
    assert number_of(text) == number
    ids = table_ids(pa.array([text])).ids
    assert (ids.tolist(), ids.dtype) == (([text], object) if number is None else ([number], np.int64))


def test_integers_come_before_texts_and_keep_their_keys():
    mixed = np.random.default_rng(0).permutation(SORTED).tolist()
    ids, order = table_ids(pa.array(mixed))
    assert ids.tolist() == mixed and ids[order].tolist() == SORTED
    keys = table_keys(ids[order])
    numbers = np.array([int(x) for x in SORTED[:INTEGERS]])
    assert keys[:INTEGERS].tolist() == client_keys(numbers).tolist()
    assert keys[INTEGERS:].tolist() == client_keys(SORTED[INTEGERS:]).tolist()
    assert table_ids(pa.array([], pa.string())).order.tolist() == []
    assert table_keys(np.zeros(0, object)).tolist() == []


def frame(users, items=None):
    items = [str(i) for i in range(len(users))] if items is None else items
    return {"user": users, "item": items, "stars": [1.0 + i % 5 for i in range(len(users))]}


def written(table, kind, folder):
    """The clients of a table of texts in one of the forms that tables have."""
    arrow = pa.table(table)
    folder.mkdir()
    if kind == "csv":
        lines = [",".join(table), *(",".join(map(str, row)) for row in zip(*table.values(), strict=True))]
        (folder / "ratings.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
        return prepare(folder / "ratings.csv", columns=COLUMNS, cache=folder)
    if kind == "pandas":
        return Clients.from_table(pd.DataFrame(table), client="user")
    if kind == "categories":
        return Clients.from_table(
            pd.DataFrame(table).astype({"user": "category", "item": "category"}), "user"
        )
    if kind == "polars":
        return Clients.from_table(pl.DataFrame(table), client="user")
    if kind == "arrow chunks":
        return Clients.from_table(pa.concat_tables([arrow[:2], arrow[2:]]), client="user")
    words = {
        "text": pa.string(),
        "large text": pa.large_string(),
        "dictionary": pa.dictionary(pa.int32(), pa.string()),
    }
    for name in ("user", "item"):
        place = arrow.schema.get_field_index(name)
        arrow = arrow.set_column(place, name, arrow[name].cast(words[kind.removeprefix("parquet ")]))
    pq.write_table(arrow, folder / "ratings.parquet")
    return prepare(folder / "ratings.parquet", columns=COLUMNS, cache=folder)


FORMS = ["csv", "pandas", "categories", "polars", "arrow chunks"]
FORMS += ["parquet text", "parquet large text", "parquet dictionary"]


def known(clients):
    """Key and items of each client."""
    items = [str(x) for x in clients.vocabularies["item"].tolist()]
    names = zip(clients.ids.tolist(), clients.keys.tolist(), strict=True)
    return {str(i): (key, [items[x] for x in clients[i]["item"]]) for i, key in names}


@pytest.mark.parametrize("kind", FORMS)
def test_texts_of_decimals_are_integers_in_every_table(kind, tmp_path):
    clients = written(frame(["10", "9", "10", "-3"]), kind, tmp_path / "x")
    assert clients.ids.tolist() == [-3, 9, 10] and clients.ids.dtype == np.int64
    assert clients.keys.tolist() == client_keys(np.array([-3, 9, 10])).tolist()
    assert clients.vocabularies["item"].tolist() == [0, 1, 2, 3]
    assert clients.vocabularies["item"].dtype == np.int64


@pytest.mark.parametrize("kind", FORMS)
def test_one_more_row_changes_no_other_client(kind, tmp_path):
    users = [str(u) for u in [7, 100, 23, 9, 51, 8, 12, 77, 30, 2] for _ in range(6)]
    plain = written(frame(users), kind, tmp_path / "plain")
    odd = written(
        frame([*users, "x1", "00029"], [*map(str, range(len(users))), "a", "7"]), kind, tmp_path / "odd"
    )
    assert odd.ids.tolist() == [*map(str, sorted(map(int, set(users)))), "00029", "x1"]
    there, before = known(odd), known(plain)
    assert {name: there[name] for name in before} == before
    assert known(plain.shuffled(3)).items() <= known(odd.shuffled(3)).items()
    shares = {"a": 0.5, "b": 0.5}
    of_plain, of_odd = (x.split(shares, 3)["a"].ids.tolist() for x in (plain, odd.take(range(10))))
    assert [str(x) for x in of_plain] == of_odd
    assert list(before) == [str(x) for x in plain.ids.tolist()]
    words = [str(x) for x in odd.vocabularies["item"].tolist()]
    assert [w for w in words if w != "a"] == [str(x) for x in plain.vocabularies["item"].tolist()]


def test_csv_and_parquet_of_one_table_meet(tmp_path):
    table = frame(["5", "12", "x", "007", "5"], ["30", "4", "b", "30", "+1"])
    first, *others = (written(table, kind, tmp_path / kind) for kind in FORMS if kind != "pandas")
    for other in others:
        assert other.ids.tolist() == first.ids.tolist() == ["5", "12", "007", "x"]
        assert known(other) == known(first)


def test_rows_that_are_clients(tmp_path):
    lists = {"client": ["10", "x", "9"], "item": [[1, 2], [3], []]}
    pq.write_table(pa.table(lists), tmp_path / "lists.parquet")
    clients = Clients.from_parquet(tmp_path / "lists.parquet")
    assert clients.ids.tolist() == ["10", "x", "9"]  # in the order of the rows
    assert clients.keys[[0, 2]].tolist() == client_keys(np.array([10, 9])).tolist()
    pq.write_table(pa.table({**lists, "client": ["10", "8", "9"]}), tmp_path / "lists.parquet")
    assert Clients.from_parquet(tmp_path / "lists.parquet").ids.dtype == np.int64


@pytest.fixture
def mixed():
    return Clients.from_table(pd.DataFrame(frame(["7", "x", "7", "11", "x", "11"])), client="user")


def test_clients_made_of_others_keep_their_keys(mixed, tmp_path):
    path = tmp_path / "clients.arrow"
    mixed.write(path)
    parts = [Clients.open(path), mixed.cap(1), mixed.sorted_by("stars"), numbered(mixed), interactions(mixed)]
    parts += [*hold_out(mixed, {"test": 0.5}).values(), *leave_one_out(interactions(mixed)).values()]
    parts += [with_recency(mixed, 1.0, 2.0), with_negatives(mixed, 2, 6, 0)]
    parts += [mixed.with_columns(y=np.arange(6)), mixed.filter_examples(np.arange(6) > 2)]
    for clients in parts:
        assert clients.ids.tolist() == ["7", "11", "x"]
        assert clients.keys.tolist() == mixed.keys.tolist()
    with pytest.raises(DataError, match="keys must be one for each of the 2 clients, got 3"):
        Clients.from_columns([1, 2], [0, 1, 1], {"y": np.zeros(1)}, keys=mixed.keys)


def test_a_client_is_found_by_its_number_and_its_text(mixed):
    numbers = Clients.from_table(pd.DataFrame(frame(["7", "11"])), client="user")
    for clients in (mixed, numbers):
        for name in (7, "7", np.int64(7)):
            assert clients[name]["stars"][0] == 1.0
        for name in ("07", 8, 7.5, None):
            with pytest.raises(KeyError, match="no client has the id"):
                clients[name]
    with pytest.raises(KeyError):
        mixed[7.0]


def test_pieces_of_a_client_file_may_differ_in_the_type_of_ids(tmp_path, mixed):
    numbers = Clients.from_columns([5, 6], [0, 1, 2], {"stars": np.ones(2, np.float32)})
    with ClientWriter(tmp_path / "clients.arrow") as writer:
        writer.add(numbers)
        writer.add(mixed.select("stars"))
    joined = Clients.open(tmp_path / "clients.arrow")
    assert joined.ids.tolist() == ["5", "6", "7", "11", "x"]
    assert joined.keys.tolist() == [*numbers.keys.tolist(), *mixed.keys.tolist()]
    seven = Clients.from_columns([7], [0, 1], {"stars": np.ones(1, np.float32)})
    with pytest.raises(DataError, match="client ids must be unique"):
        in_one_file(tmp_path / "other.arrow", seven, mixed.select("stars"))


def in_one_file(path, *pieces):
    with ClientWriter(path) as writer:
        for piece in pieces:
            writer.add(piece)


def test_vocabularies_of_pieces_may_differ_in_type(tmp_path):
    piece = Clients.from_table(pd.DataFrame({"client": [1, 1], "item": ["5", "3"]}))
    assert piece.vocabularies["item"].tolist() == [5, 3]
    with ClientWriter(tmp_path / "clients.arrow", {"item": ["5", "3"]}) as writer:
        writer.add(piece)
    assert Clients.open(tmp_path / "clients.arrow").vocabularies["item"].tolist() == ["5", "3"]


def test_ids_of_two_types_are_compared_by_value():
    assert alike([1, 2], ["1", "02"]) == (["1", "2"], ["1", "02"])
    assert alike(np.array(["a"], object), ["b"]) == (["a"], ["b"])
    assert alike([3], np.array([4])) == ([3], [4])
    assert alike([], ["1"]) == ([], ["1"])


def test_the_task_ids_of_texts_and_arrays_stay_strings(tmp_path):
    """Texts are known by their authors' names: those of JSON Lines and of arrays are what they are."""
    from fedrecon.datasets.text._prepare import prepare as texts

    (tmp_path / "x.jsonl").write_text('{"client": 7, "text": ["a b"]}\n{"client": "08", "text": ["c"]}\n')
    clients = texts(tmp_path / "x.jsonl", cache=tmp_path)
    assert clients.ids.tolist() == ["7", "08"]
    of_text = int.from_bytes(hashlib.blake2b(b"7", digest_size=8).digest(), "little")
    assert clients.keys[0] == of_text == Clients.from_arrays({"7": {"x": [1]}}).keys[0]


def test_movielens_formats_still_ask_for_whole_numbers(tmp_path):
    (tmp_path / "ratings.csv").write_text("userId,movieId,rating,timestamp\n1,2,3.0,4\nx1,2,3.0,4\n")
    with pytest.raises(DataError, match="line 3: client id must be a whole number, got 'x1'"):
        read_ratings(tmp_path / "ratings.csv")
    (tmp_path / "ratings.csv").write_text(f"userId,movieId,rating,timestamp\n{2**63},2,3.0,4\n")
    with pytest.raises(DataError, match="line 2: client id must fit in 64 bits"):
        read_ratings(tmp_path / "ratings.csv")


NUMBERED = {"user": [5, 5, 9], "item": [3952, 7, 3952], "rating": [1.0, 2.0, 3.0]}


@pytest.mark.parametrize("make", [pa.table, pd.DataFrame, pl.DataFrame])
def test_ids_that_are_whole_numbers_are_mapped_on_request(make, tmp_path):
    plain = Clients.from_table(make(NUMBERED), client="user")
    assert plain.vocabularies == {} and plain[5]["item"].tolist() == [3952, 7]
    mapped = Clients.from_table(make(NUMBERED), client="user", vocabularies=["item"])
    assert mapped.vocabularies["item"].tolist() == [3952, 7]
    assert mapped.vocabularies["item"].dtype == np.int64
    assert (mapped[5]["item"].tolist(), mapped[9]["item"].tolist()) == ([0, 1], [0])
    pq.write_table(pa.table(NUMBERED), tmp_path / "rows.parquet")
    lists = pa.table({"user": [5, 9], "item": [[3952, 7], [3952]], "rating": [[1.0, 2.0], [3.0]]})
    pq.write_table(lists, tmp_path / "lists.parquet")
    for name in ("rows", "lists"):
        read = Clients.from_parquet(tmp_path / f"{name}.parquet", client="user", vocabularies=["item"])
        assert read.vocabularies["item"].tolist() == [3952, 7]
        assert read[5]["item"].tolist() == [0, 1]


def test_lists_of_strings_are_mapped_as_columns_of_strings_are(tmp_path):
    pq.write_table(pa.table({"client": ["a", "b"], "item": [["q", "p"], ["q"]]}), tmp_path / "x.parquet")
    clients = Clients.from_parquet(tmp_path / "x.parquet")
    assert clients.vocabularies["item"].tolist() == ["q", "p"] and clients["a"]["item"].tolist() == [0, 1]


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ("item", r"vocabularies must be a list of columns, such as \['item'\], got 'item'"),
        (["film"], r"vocabularies must name columns of \['item', 'rating'\], got 'film'"),
        (["user"], r"vocabularies must name columns of \['item', 'rating'\], got 'user'"),
        (["rating"], "column 'rating' must hold whole numbers or strings to be mapped, got double"),
    ],
)
def test_what_cannot_be_mapped_is_refused(names, message):
    with pytest.raises(DataError, match=message):
        Clients.from_table(pa.table(NUMBERED), client="user", vocabularies=names)


def test_files_are_named_where_their_columns_cannot_be_used(tmp_path):
    twice = pa.table([pa.array([1]), pa.array([2]), pa.array([3])], names=["client", "x", "x"])
    said = "columns must have different names, 2 are called 'x'"
    with pytest.raises(DataError, match=f"^{said}"):
        Clients.from_table(twice)
    pq.write_table(twice, tmp_path / "twice.parquet")
    with pytest.raises(DataError, match=rf"twice\.parquet: {said}"):
        Clients.from_parquet(tmp_path / "twice.parquet")
    nulls = pa.DictionaryArray.from_arrays(pa.array([0, None]), pa.array(["a"]))
    pq.write_table(pa.table({"client": [1, 1], "item": nulls}), tmp_path / "nulls.parquet")
    with pytest.raises(DataError, match=r"nulls\.parquet: column 'item' must have a value in every row"):
        Clients.from_parquet(tmp_path / "nulls.parquet")
    with pytest.raises(DataError, match=r"none\.parquet: there is no such file"):
        Clients.from_parquet(tmp_path / "none.parquet")


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Clients.from_table(pa.table(NUMBERED), client="user")[np.int64(3)], "has the id 3'"),
        (lambda: Clients.from_columns(np.array([3, 3]), [0, 1, 2], {"x": [1, 2]}), "unique, 3 comes 2 times"),
        (lambda: Clients.from_arrays({np.int64(3): {"x": [1]}, np.int64(4): {"y": [1]}}), "client 4 has the"),
        (
            lambda: Clients.from_table(pa.table(NUMBERED), client="user").split({"a": np.float64(1.5)}, 0),
            r"'a' must lie in \(0, 1\], got 1.5",
        ),
        (
            lambda: Clients.from_table(pa.table(NUMBERED), client="user").split(
                {"a": np.float64(0.75), "b": np.float64(0.5)}, 0
            ),
            "got {'a': 0.75, 'b': 0.5}, 1.25",
        ),
        (lambda: optimizer("sgd", learning_rate=np.float64(-1)), "finite, got -1.0"),
    ],
)
def test_messages_show_numbers_of_numpy_like_others(call, message):
    with pytest.raises((KeyError, ValueError), match=message) as caught:
        call()
    assert "np." not in str(caught.value)
