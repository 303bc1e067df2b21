"""Conversion by DuckDB: the reader's file, byte for byte, from files of any size in any order."""

import json
import subprocess
import sys
from collections import Counter

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fedrecon.data._clients import Clients
from fedrecon.datasets.ratings import _grouped_writer, _staged_ratings
from fedrecon.datasets.ratings._convert import convert
from fedrecon.datasets.ratings._files import stream
from fedrecon.datasets.ratings._prepare import prepare
from fedrecon.errors import DataError

COLUMNS = {"client": "user", "item": "isbn", "rating": "stars", "time": "when"}


@pytest.fixture(autouse=True)
def in_many_pieces(monkeypatch):
    monkeypatch.setattr(_grouped_writer, "_PIECE", 200)
    monkeypatch.setattr(_staged_ratings, "_ROWS", 128)
    monkeypatch.setattr(stream, "_ROWS", 70)
    monkeypatch.setattr("fedrecon.datasets.ratings._files.csv._BLOCK", 1 << 12)


def rows(count, seed=0, user=str, item=str, when=str, users=60):
    """Different pairs of a user and an item in any order."""
    rng = np.random.default_rng(seed)
    pairs = rng.permutation(users * 40)[:count]
    return [
        (user(p // 40 * 3 - 20), item(p % 40 * 7), str(rng.integers(1, 11) / 2), when(rng.integers(0, 90)))
        for p in pairs.tolist()
    ]


def write(path, table, separator=","):
    lines = [separator.join(("user", "isbn", "stars", "when")), *(separator.join(row) for row in table)]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def by_reader(tmp_path, source, order="time", cap=None, least=0, **reading):
    reading = {"columns": COLUMNS, **reading}
    clients = prepare(source, cache=tmp_path / "cache", **reading)
    if order == "time":
        clients = clients.sorted_by("time")
    kept = np.flatnonzero(clients.num_examples >= least)
    clients = (clients if cap is None else clients.cap(cap)).take(kept)
    clients.write(tmp_path / "reader.arrow")
    return (tmp_path / "reader.arrow").read_bytes()


def by_duckdb(tmp_path, *sources, **options):
    out = tmp_path / "duckdb.arrow"
    convert(sources, out, **{"columns": COLUMNS, **options})
    content = out.read_bytes()
    out.unlink()
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []
    return content


IDS = {
    "integers": (str, str),
    "texts": (lambda n: f"ü{n}", lambda n: f"{n:05d}"),
    "both": (lambda n: str(n) if n % 2 else f"+{n}", lambda n: "x" if n == 7 else str(n)),
    "beyond 64 bits": (lambda n: str(10**18 * 9 + n), lambda n: str(10**19 + n)),
}


@pytest.mark.parametrize("order", ["time", "file"])
@pytest.mark.parametrize("ids", IDS)
def test_the_file_is_that_of_the_reader(tmp_path, ids, order):
    user, item = IDS[ids]
    source = write(tmp_path / "ratings.csv", rows(900, user=user, item=item))
    assert by_duckdb(tmp_path, source, order=order) == by_reader(tmp_path, source, order)


TIMES = {
    "whole numbers beyond 32 bits": lambda n: str(10**12 + int(n)),
    "fractions": lambda n: str(int(n) / 4),
    "fractions of seconds": lambda n: f"{1_600_000_000 + int(n) / 16}",
    "whole numbers with a point": lambda n: f"{int(n)}.0",
    "large whole numbers with a point": lambda n: f"{10**9 + int(n)}.0",
    "fractions in few": lambda n: "1.5" if n == 7 else str(int(n)),
    "dates": lambda n: f"2009-05-{1 + int(n) % 28:02d}T23:08:{int(n) % 60:02d}Z",
    "dates with fractions": lambda n: f"2009-05-04 23:08:57.{int(n):03d}",
}


@pytest.mark.parametrize("times", TIMES)
def test_times_are_those_of_the_reader(tmp_path, times):
    source = write(tmp_path / "ratings.csv", rows(700, when=TIMES[times]))
    assert by_duckdb(tmp_path, source) == by_reader(tmp_path, source)


@pytest.mark.parametrize(
    ("options", "asked"),
    [
        ({"cap": 5}, {"cap": 5}),
        ({"least_ratings": 18}, {"least": 18}),
        ({"least_ratings": 18, "cap": 3}, {"least": 18, "cap": 3}),
        ({"unrated": 2.5}, {"unrated": 2.5}),
        ({"scale": (0.5, 5)}, {"scale": (0.5, 5)}),
    ],
)
def test_what_is_left_out_is_what_the_reader_leaves_out(tmp_path, options, asked):
    source = write(tmp_path / "ratings.csv", rows(900))
    assert by_duckdb(tmp_path, source, **options) == by_reader(tmp_path, source, **asked)


def test_repeated_items_follow_the_rules_of_the_reader(tmp_path):
    table = rows(500)
    table += [(user, item, "4.5", "7") for user, item, _, _ in table[100:200]]
    source = write(tmp_path / "ratings.csv", table)
    for rule in ("last", "all"):
        assert by_duckdb(tmp_path, source, duplicates=rule) == by_reader(tmp_path, source, duplicates=rule)
    with pytest.raises(DataError) as expected:
        by_reader(tmp_path, source)
    with pytest.raises(DataError) as error:
        by_duckdb(tmp_path, source)
    assert str(error.value).split(" (")[0] == str(expected.value).split(" (")[0]
    first, second = write(tmp_path / "a.csv", table[:500]), write(tmp_path / "b.csv", table[500:])
    with pytest.raises(DataError, match=r"b\.csv, line 2: client .* already on .*a\.csv, line 102 "):
        by_duckdb(tmp_path, first, second)


@pytest.mark.parametrize("duplicates", ["error", "last", "all"])
def test_a_core_is_the_largest_set_in_which_all_have_enough(tmp_path, duplicates):
    table = [row for row in rows(900) if int(row[1]) % 5 or not int(row[0]) % 4]
    if duplicates != "error":
        table += [(user, item, "4.5", "7") for user, item, _, _ in table[:150]]
    once = list({row[:2]: row for row in table}.values()) if duplicates == "last" else table
    left, before = once, []
    while left != before:
        before = left
        for place in (0, 1):
            counts = Counter(row[place] for row in left)
            left = [row for row in left if counts[row[place]] >= 10]
    assert 0 < len(left) < len(once) and len({row[1] for row in left}) < 40
    pairs = {row[:2] for row in left}
    expected = write(tmp_path / "left.csv", [row for row in table if row[:2] in pairs])
    source = write(tmp_path / "ratings.csv", table)
    found = by_duckdb(tmp_path, source, core=10, duplicates=duplicates)
    assert found == by_reader(tmp_path, expected, duplicates=duplicates)
    with pytest.raises(DataError, match="core must leave a rating, no clients and items have 99 of each"):
        by_duckdb(tmp_path, source, core=99, duplicates=duplicates)
    if duplicates == "error":
        again = write(tmp_path / "again.csv", [*table, table[0]])
        with pytest.raises(DataError, match=r"again\.csv, line \d+: client .* must rate item .* once"):
            by_duckdb(tmp_path, again, core=10)


TIMELESS = {
    "no number": {150: "soon"},
    "an empty cell": {150: ""},
    "two forms": {150: "2009-05-04"},
    "no column": None,
}


@pytest.mark.parametrize("written", ["csv", "parquet"])
@pytest.mark.parametrize("times", TIMELESS)
def test_times_that_nobody_asked_for_may_be_unreadable(tmp_path, times, written):
    """In MovieLens' own tables they are optional: all of them are taken, or none."""
    names = ["userId", "movieId", "rating", "timestamp"][: 3 if TIMELESS[times] is None else 4]
    odd = TIMELESS[times] or {}
    table = [(str(i // 40), str(i % 40), "3.5", odd.get(i, "2"))[: len(names)] for i in range(300)]
    source = tmp_path / f"ratings.{written}"
    if written == "csv":
        source.write_text("\n".join(",".join(row) for row in [names, *table]) + "\n")
    else:
        kinds = (int, int, float, lambda x: x or None)
        columns = [
            [kind(x) for x in column] for kind, column in zip(kinds, zip(*table, strict=True), strict=False)
        ]
        pq.write_table(pa.table(columns, names), source)
    assert "time" not in prepare(source, cache=tmp_path / "cache").fields
    assert by_duckdb(tmp_path, source, columns=None) == by_reader(tmp_path, source, "file", columns=None)


@pytest.mark.parametrize("lists", [False, True])
def test_a_fault_of_parquet_is_named_by_its_row_in_the_file(tmp_path, lists):
    values = {"user": list(range(300)), "isbn": [1] * 300, "stars": [3.0] * 300, "when": [4] * 300}
    if lists:
        values |= {name: [[x, x] for x in values[name]] for name in ("isbn", "stars", "when")}
    for name in ("isbn", "when", "stars"):
        spoilt = {**values, name: [*values[name][:250], None, *values[name][251:]]}
        pq.write_table(pa.table(spoilt), tmp_path / "r.parquet")
        with pytest.raises(DataError) as expected:
            by_reader(tmp_path, tmp_path / "r.parquet")
        with pytest.raises(DataError) as error:
            by_duckdb(tmp_path, tmp_path / "r.parquet")
        assert str(error.value) == str(expected.value) and "r.parquet, row 251: " in str(error.value)
    if lists:
        values["isbn"] = [*values["isbn"][:250], [5, None], *values["isbn"][251:]]
        pq.write_table(pa.table(values), tmp_path / "r.parquet")
        with pytest.raises(DataError, match=r"r\.parquet, row \d+: column 'isbn'"):
            by_duckdb(tmp_path, tmp_path / "r.parquet")


def test_errors_of_duckdb_name_the_client_file_wherever_they_come(tmp_path, monkeypatch):
    duckdb = pytest.importorskip("duckdb")
    source = write(tmp_path / "ratings.csv", rows(50))

    class Closing:
        def __init__(self, connection):
            self._connection = connection

        def __getattr__(self, name):
            return getattr(self._connection, name)

        def __enter__(self):
            return self

        def __exit__(self, *error):
            self._connection.close()
            raise duckdb.IOException("no space left")

    connect = duckdb.connect
    monkeypatch.setattr(duckdb, "connect", lambda *a, **k: Closing(connect(*a, **k)))
    with pytest.raises(DataError, match=r"duckdb\.arrow: cannot be made: .*no space left"):
        by_duckdb(tmp_path, source)

    def fail(*_, **__):
        raise duckdb.IOException("read-only")

    monkeypatch.setattr(duckdb, "connect", fail)
    with pytest.raises(DataError, match=r"other\.arrow: cannot be made: .*read-only"):
        convert([source], tmp_path / "other.arrow", columns=COLUMNS)


@pytest.mark.parametrize("ids", IDS)
def test_shards_are_the_clients_of_one_file(tmp_path, ids):
    user, item = IDS[ids]
    source = write(tmp_path / "ratings.csv", rows(900, user=user, item=item))
    convert([source], tmp_path / "one.arrow", columns=COLUMNS)
    convert([source], tmp_path / "four", columns=COLUMNS, shards=4)
    one, four = (Clients.open(tmp_path / name) for name in ("one.arrow", "four"))
    assert one.ids.tolist() == four.ids.tolist() and one.fields == four.fields
    for name in one.fields:
        assert one.column(name).tolist() == four.column(name).tolist()
        assert one.field_stats(name) == four.field_stats(name)
    with pytest.raises(DataError, match="is there already"):
        convert([source], tmp_path / "four", columns=COLUMNS, shards=4)
    with pytest.raises(ValueError, match="shards must be a whole number of at least 1"):
        convert([source], tmp_path / "none", columns=COLUMNS, shards=0)


def test_other_formats_are_read_by_the_same_rules(tmp_path):
    table = rows(800)
    whole = by_reader(tmp_path, write(tmp_path / "ratings.csv", table))
    assert by_duckdb(tmp_path, write(tmp_path / "r.tsv", table, "\t")) == whole
    names = ("user", "isbn", "stars", "when")
    kinds = (int, int, float, int)
    columns = zip(names, kinds, zip(*table, strict=True), strict=True)
    values = {name: [kind(x) for x in column] for name, kind, column in columns}
    pq.write_table(pa.table(values), tmp_path / "r.parquet", row_group_size=100)
    lines = [json.dumps({n: values[n][i] for n in names}) for i in range(len(table))]
    (tmp_path / "r.jsonl").write_text("\n".join(lines) + "\n")
    for name in ("r.parquet", "r.jsonl"):
        assert by_duckdb(tmp_path, tmp_path / name) == whole
    # Some of the ratings in each of three files, in the order of the whole.
    write(tmp_path / "a.csv", table[:300])
    pq.write_table(pa.table({n: x[300:500] for n, x in values.items()}), tmp_path / "b.parquet")
    (tmp_path / "c.jsonl").write_text("\n".join(lines[500:]) + "\n")
    assert by_duckdb(tmp_path, *(tmp_path / n for n in ("a.csv", "b.parquet", "c.jsonl"))) == whole


def test_decimal_commas_and_ids_alone(tmp_path):
    table = [(u, i, s.replace(".", ","), w) for u, i, s, w in rows(400)]
    source = write(tmp_path / "ratings.csv", table, ";")
    assert by_duckdb(tmp_path, source) == by_reader(tmp_path, source)
    alone = {"client": "user", "item": "isbn"}
    assert by_duckdb(tmp_path, source, columns=alone) == by_reader(tmp_path, source, "file", columns=alone)


def test_movielens_needs_no_columns(tmp_path):
    source = tmp_path / "ratings.dat"
    lines = ["::".join((str(int(u) + 21), i, "4", w)) for u, i, _, w in rows(300)]
    source.write_text("\n".join(lines) + "\n")
    assert by_duckdb(tmp_path, source, columns=None) == by_reader(tmp_path, source, columns=None)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("7,8,x,1", "line 602: rating must be a finite number, got 'x'"),
        ("7,,3,1", "line 602: item id must not be empty"),
        ("7,8,3,soon", "must hold numbers alone, or dates|line 602: time must be a number"),
        ("7,8,3", "line 602: must have 4 fields"),
        ("7,8,nan,1", "line 602: rating must be a finite number"),
        ("7,8,99,1", r"line 602: rating must be within the scale 0 to 10, got 99\.0"),
    ],
)
def test_a_fault_is_named_by_file_and_line(tmp_path, line, message):
    source = write(tmp_path / "ratings.csv", [*rows(600, users=59), tuple(line.split(","))])
    with pytest.raises(DataError, match=f"ratings.csv.*({message})"):
        by_duckdb(tmp_path, source, scale=(0, 10))
    assert not (tmp_path / "duckdb.arrow").exists()


def test_sources_that_do_not_go_together_are_refused(tmp_path):
    one = write(tmp_path / "one.csv", rows(50))
    dated = write(tmp_path / "dated.csv", rows(50, 1, when=TIMES["dates"]))
    with pytest.raises(DataError, match=r"dated\.csv: times must be all numbers, .* got timestamp"):
        by_duckdb(tmp_path, one, dated)
    (tmp_path / "empty.csv").write_text("user,isbn,stars,when\n")
    with pytest.raises(DataError, match=r"empty\.csv: must hold ratings, has none"):
        by_duckdb(tmp_path, one, tmp_path / "empty.csv")
    with pytest.raises(DataError, match="must have times for the order 'time', has none"):
        by_duckdb(tmp_path, one, columns={"client": "user", "item": "isbn"}, order="time")
    with pytest.raises(DataError, match="least_ratings must leave a client, nobody has 99 ratings"):
        by_duckdb(tmp_path, one, least_ratings=99)
    for options, message in (
        ({"order": "size"}, "order must be one of time, file, got 'size'"),
        ({"cap": 0}, "cap must be a whole number of at least 1, got 0"),
        ({"least_ratings": -1}, "least_ratings must be a whole number of at least 0"),
        ({"memory_mib": 8}, "memory_mib must be a whole number of at least 64"),
    ):
        with pytest.raises(ValueError, match=message):
            by_duckdb(tmp_path, one, **options)
    with pytest.raises(ValueError, match="sources must name a rating file at least"):
        convert([], tmp_path / "x.arrow")


KILLED = """
import sys
from fedrecon.datasets.ratings._convert import convert

def progress(stage, done, total):
    if stage == sys.argv[3]:
        print("reached", flush=True)
        sys.stdin.read()

convert([sys.argv[1]], sys.argv[2], columns=dict(client="user", item="isbn", rating="stars", time="when"),
        progress=progress)
"""


@pytest.mark.parametrize("stage", ["bytes", "ratings"])
def test_a_kill_leaves_no_file_and_is_cleared_by_the_next_call(tmp_path, stage):
    source, out = write(tmp_path / "ratings.csv", rows(300)), tmp_path / "duckdb.arrow"
    command = [sys.executable, "-c", KILLED, str(source), str(out), stage]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "reached\n"
        process.kill()
    assert not out.exists()
    assert by_duckdb(tmp_path, source) == by_reader(tmp_path, source)


def test_progress_is_told(tmp_path):
    source = write(tmp_path / "ratings.csv", rows(900))
    told = []
    convert([source], tmp_path / "out.arrow", columns=COLUMNS, progress=lambda *x: told.append(x))
    assert told[-1] == ("ratings", 900, 900)
    assert [done for stage, done, _ in told if stage == "bytes"][-1] == source.stat().st_size
    assert len(Clients.open(tmp_path / "out.arrow")) == 60


def test_times_of_different_units_are_not_mixed(tmp_path):
    """Timestamps of Parquet are counted in their own unit: beside seconds they would be years apart."""
    text = write(tmp_path / "a.csv", rows(5))

    def parquet(name, when):
        columns = {"user": [f"u{i}" for i in range(len(when))], "isbn": ["a"] * len(when)}
        pq.write_table(pa.table({**columns, "stars": [1.0] * len(when), "when": when}), tmp_path / name)
        return tmp_path / name

    micro = parquet("micro.parquet", pa.array([978307200000000], pa.timestamp("us")))
    milli = parquet("milli.parquet", pa.array([978307200000], pa.timestamp("ms")))
    with pytest.raises(DataError, match=r"must be all numbers, .* got Parquet's timestamp\[us\]"):
        convert([text, micro], tmp_path / "out.arrow", columns=COLUMNS)
    with pytest.raises(DataError, match=r"must be all Parquet's timestamp\[ms\], .* got .*\[us\]"):
        convert([milli, micro], tmp_path / "out.arrow", columns=COLUMNS)
    mixed = parquet("mixed.parquet", pa.array(["2001-01-01"] * 70 + ["1700000000000"] * 70))
    with pytest.raises(DataError, match=r"must be all timestamp\[us\], .* got numbers"):
        convert([mixed], tmp_path / "out.arrow", columns=COLUMNS)
    assert not (tmp_path / "out.arrow").exists()
