"""Rating files that nobody foresaw: a valid data set or a DataError comes of each, never half a file."""

import csv
import io
import re
import tempfile
import zipfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fedrecon.data._clients import Clients
from fedrecon.datasets.ratings._prepare import prepare
from fedrecon.errors import DataError

OWN = {"client": "userId", "item": "movieId", "rating": "rating"}
WHOLE = r"-?(?:[0-9]+|0x[0-9a-fA-F]+)"  # Arrow reads hexadecimal numbers, too
SEPARATORS = {
    "ratings.dat": "::",
    "u.data": "\t",
    "ratings.csv": ",",
    "ratings.tsv": "\t",
    "own.csv": ",",
    "plain": "::",
}
HEADER = ["userId", "movieId", "rating", "timestamp"]

good_ids = st.one_of(st.integers(0, 5), st.sampled_from([-1, 2**31, 2**63 - 1, -(2**63)])).map(str)
words = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=4)
stars = st.sampled_from(["1", "2", "3.0", "4", "5", "4.5", "0.5", "1e0"])
times = st.integers(0, 2**33).map(str)
odd_numbers = ["", "nan", "-inf", "6", "0", "1.5", "007", "+1", " 1", "1 ", "0x1", "1e400", str(2**63), "1_0"]
odd = st.sampled_from([*odd_numbers, "x", '"', "\u0663"])
signs = [
    b"::",
    b":",
    b"\t",
    b",",
    b"\n",
    b"\r",
    b"\r\n",
    b"\n\n",
    b'"',
    b"\0",
    b"\xef\xbb\xbf",
    b" ",
    b"-",
    b"9",
]
junk = st.one_of(st.sampled_from(signs), st.binary(max_size=6))


@st.composite
def rows(draw, ids, damaged):
    field = (lambda usual: st.one_of(usual, usual, usual, odd)) if damaged else (lambda usual: usual)
    row = st.tuples(field(ids), field(ids), field(stars), field(times))
    if damaged:
        return draw(st.lists(row, max_size=12))
    return draw(st.lists(row, min_size=1, max_size=12, unique_by=lambda x: x[:2]))


@st.composite
def files(draw):
    """Name, content, columns and rule for duplicates of a file, and whether it is as it should be."""
    name = draw(st.sampled_from([*SEPARATORS, "ratings.parquet"]))
    wrong = draw(st.booleans())
    columns = OWN if name == "own.csv" else None
    whole_stars = name == "u.data" and not wrong
    found = draw(rows(words if name == "own.csv" and not wrong else good_ids, wrong))
    if whole_stars:
        found = [(u, i, "1" if r == "0.5" else r, t) for u, i, r, t in found]
    content = encoded(name, found, draw(st.sampled_from(["\n", "\r\n"])))
    if name != "plain" and draw(st.booleans()):  # in an archive, names alone tell which file has the ratings
        packed = io.BytesIO()
        with zipfile.ZipFile(
            packed, "w", draw(st.sampled_from([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED]))
        ) as archive:
            archive.writestr(f"inner/{name}", content)
        name, content = "archive.zip", packed.getvalue()
    for _ in range(draw(st.integers(0, 3)) if wrong else 0):
        start = draw(st.integers(0, len(content)))
        stop = start + draw(st.integers(0, 3))
        content = content[:start] + draw(junk) + content[stop:]
    if wrong and draw(st.integers(0, 4)) == 0:
        content = content[: draw(st.integers(0, len(content)))]
    return name, content, columns, draw(st.sampled_from(["error", "last", "all"])), not wrong


def encoded(name, found, newline):
    if name.endswith("parquet"):
        table = pa.table(
            {
                "userId": pa.array([u for u, *_ in found], pa.string()),
                "movieId": pa.array([i for _, i, *_ in found], pa.string()).dictionary_encode(),
                "rating": pa.array([number(r) for _, _, r, _ in found], pa.float64()),
            }
        )
        sink = io.BytesIO()
        pa.parquet.write_table(table, sink)
        return sink.getvalue()
    if "csv" not in name and "tsv" not in name:
        return "".join(SEPARATORS[name].join(row) + newline for row in found).encode()
    text = io.StringIO()
    csv.writer(text, delimiter=SEPARATORS[name], lineterminator=newline).writerows([HEADER, *found])
    return text.getvalue().encode()


def number(text):
    try:
        return float(text)
    except ValueError:
        return None


def check(file):
    name, content, columns, duplicates, good = file
    with tempfile.TemporaryDirectory() as folder:
        path, cache = Path(folder, name), Path(folder, "cache")
        path.write_bytes(content)
        made = outcome(path, columns=columns, duplicates=duplicates, cache=cache)
        if isinstance(made, DataError):
            assert not good, f"refused, but there is nothing wrong: {made}"
            assert str(made).startswith(str(path))
            assert str(made).isprintable(), "fits on a line, shows on any screen"
            assert not cache.exists() or not list(cache.iterdir())
        else:
            check_clients(made, duplicates)
            (written,) = cache.iterdir()
            check_same(Clients.open(written), made)
            if name in SEPARATORS:
                check_same(made, slowly(name, content, columns, duplicates))


def outcome(*args, **kwargs):
    try:
        return prepare(*args, **kwargs)
    except DataError as error:
        return error


def check_clients(clients, duplicates):
    items, ratings = clients.column("item"), clients.column("rating")
    assert clients.num_examples.min() >= 1
    assert len(items) == len(ratings) == clients.num_examples.sum()
    assert np.isfinite(ratings).all()
    assert np.unique(items).tolist() == list(range(len(clients.vocabularies["item"])))
    assert len(set(clients.vocabularies["item"].tolist())) == len(clients.vocabularies["item"])
    if duplicates != "all":
        assert clients.distinct("item")


def check_same(one, other):
    assert one.ids.tolist() == other.ids.tolist()
    assert one.vocabularies["item"].tolist() == other.vocabularies["item"].tolist()
    assert one.fields == other.fields
    np.testing.assert_array_equal(one.num_examples, other.num_examples)
    for field in one.fields:
        np.testing.assert_array_equal(one.column(field), other.column(field))


def slowly(name, content, columns, duplicates):
    """The same data set, read with Python's own means."""
    text = content.decode("utf-8-sig", "replace")
    if "csv" in name or "tsv" in name:
        header, *lines = [
            x for x in csv.reader(io.StringIO(text, newline=""), delimiter=SEPARATORS[name]) if x
        ]
    else:
        header, lines = HEADER, [x.split(SEPARATORS[name]) for x in text.replace("\r", "\n").split("\n") if x]
    fields = [x for x in HEADER if x in header and not (columns and x == "timestamp")]
    found = [tuple(line[header.index(x)] for x in fields) for line in lines]
    ids = [[row[k] for row in found] for k in (0, 1)]
    ids = [[int(x) for x in column] if all(map(is_whole, column)) else column for column in ids]
    pairs = list(zip(*ids, strict=True))
    if duplicates == "last":
        last = {pair: k for k, pair in enumerate(pairs)}
        keep = sorted(last.values())
    else:
        keep = range(len(pairs))
    users = sorted({u for u, _ in pairs}, key=integers_first)
    items = sorted({i for _, i in pairs}, key=integers_first)
    order = sorted(keep, key=lambda k: users.index(pairs[k][0]))
    counts = [sum(pairs[k][0] == user for k in order) for user in users]
    result = {
        "item": np.array([items.index(pairs[k][1]) for k in order], np.int32),
        "rating": np.array([float(found[k][2]) for k in order], np.float32),
    }
    if "timestamp" in fields:
        times = slow_times([found[k][3] for k in range(len(found))])
        if times is not None:
            result["time"] = times[order]
        else:
            assert name in ("ratings.csv", "ratings.tsv"), "only there times are read where they can be"
    vocabulary = np.array(items, np.int64 if isinstance(items[0], int) else object)
    return Clients.from_columns(users, np.concatenate([[0], np.cumsum(counts)]), result, {"item": vocabulary})


def slow_times(texts):
    """Numbers, whole where all are; None where one is no number within 64 bits: there are no dates here."""

    def number(text):
        return int(text, 0 if "x" in text else 10) if re.fullmatch(WHOLE, text.strip()) else float(text)

    try:
        numbers = [number(text) for text in texts]
    except ValueError:
        return None
    if any("_" in x or x.strip().startswith("+") or not x.isascii() for x in texts):
        return None
    if not all(-(2**63) <= x < 2**63 for x in numbers):  # nan included
        return None
    whole = all(x == int(x) for x in numbers)
    return np.array([int(x) for x in numbers] if whole else numbers, np.int64 if whole else np.float64)


def integers_first(name):
    return (0, int(name), "") if is_whole(str(name)) and -(2**63) <= int(name) < 2**63 else (1, 0, name)


def is_whole(text):
    try:
        return str(int(text)) == text
    except ValueError:
        return False


@settings(max_examples=100, suppress_health_check=list(HealthCheck))
@given(files())
def test_a_data_set_or_an_error(file):
    check(file)


@pytest.mark.slow
@settings(max_examples=10_000, suppress_health_check=list(HealthCheck))
@given(files())
def test_a_data_set_or_an_error_ten_thousand_times(file):
    check(file)
