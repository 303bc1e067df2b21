"""Rating files that are wrong: each is refused with the file, the line, the rule and the value."""

import os
import re
import zipfile

import pandas as pd
import pyarrow as pa
import pyarrow.parquet
import pytest

from fedrecon.datasets.ratings._load import read_ratings
from fedrecon.errors import DataError

OWN = {"client": "who", "item": "what", "rating": "stars"}
TIMED = {**OWN, "time": "when"}
ML, MINE = "userId,movieId,rating\n", "who,what,stars\n"
FINITE = "rating must be a finite number, got"
WHOLE = "must be a whole number, got"
TIME = "time must be a number of 64 bits or a date such as 2009-05-04T23:08:57Z, got"
CUT = "must end with a newline: the file seems cut short (if it is complete, append a newline)"

# name: (name of the file, its content, columns, the message after the path)
FAULTS = {
    "empty": ("ratings.dat", "", None, ": must hold ratings, is empty"),
    "blank": ("ratings.dat", "\n\n", None, ": must hold ratings, has none"),
    "blank table": (
        "ratings.csv",
        "\n\n",
        None,
        ", line 1: must have a column 'userId' (the client); it has ",
    ),
    "header only": ("ratings.csv", ML, None, ": must hold ratings, has none"),
    "cut in a field": ("ratings.dat", "1::2::3::4\n1::3::5::97", None, f", line 2: {CUT}"),
    "cut before a field": ("ratings.dat", "1::2::3::4\n1::3::", None, f", line 2: {CUT}"),
    "cut table": ("ratings.csv", ML + "1,2,3\n1,3,4", None, f", line 3: {CUT}"),
    "cut quote": ("own.csv", MINE + 'a,b,3\n"a,c', OWN, f", line 3: {CUT}"),
    "cut header": ("ratings.csv", "userId,movieId,rating", None, f", line 1: {CUT}"),
    "tabs in dat": (
        "ratings.dat",
        "1::2::3::4\n1\t2\t3\t4\n",
        None,
        ", line 2: must have 4 fields separated by '::', got 1: '1\\t2\\t3\\t4', "
        "which seems separated by '\\t'",
    ),
    "colons in u.data": (
        "u.data",
        "1\t2\t3\t4\n1::2::3::4\n",
        None,
        ", line 2: must have 4 fields separated by '\\t', got 1: '1::2::3::4', which seems separated by '::'",
    ),
    "one colon": (
        "ratings.dat",
        "1:2:3:4\n",
        None,
        ", line 1: must have 4 fields separated by '::', got 1: '1:2:3:4'",
    ),
    "mixed colons": (
        "ratings.dat",
        "1::2:3::4:5\n",
        None,
        ", line 1: must have 4 fields separated by '::', got 3",
    ),
    "semicolons": (
        "ratings.csv",
        "userId;movieId;rating\n1,2,3\n",
        None,
        ", line 2: must have 3 fields separated by ';', got 1: '1,2,3', which seems separated by ','",
    ),
    "unknown separator": (
        "ratings.txt",
        "1 2 3\n",
        None,
        ", line 1: must have fields separated by '::', a tab, ',' or ';', got '1 2 3'; the columns of a "
        "table "
        "that names none are given by their positions, such as data.columns.client = 1",
    ),
    "too few fields": ("ratings.dat", "1::2::3::4\n\n1::3::5\n", None, ", line 3: must have 4 fields"),
    "too many fields": ("ratings.csv", ML + "1,2,3\n1,3,4,5\n", None, ", line 3: must have 3 fields"),
    "newline in a quote": ("ratings.csv", ML + '1,"2\n3",4\n', None, ", line 2: item id must be a"),
    "rating a word": ("ratings.dat", "1::2::3::4\n1::3::good::5\n", None, f", line 2: {FINITE} 'good'"),
    "rating empty": ("ratings.dat", "1::2::3::4\n1::3::::5\n", None, f", line 2: {FINITE} ''"),
    "rating nan": ("ratings.csv", ML + "1,2,nan\n", None, f", line 2: {FINITE} nan"),
    "rating infinite": ("ratings.dat", "1::2::-inf::4\n", None, f", line 1: {FINITE} -inf"),
    "rating too large": ("own.csv", MINE + "a,b,1e39\n", OWN, f", line 2: {FINITE} 1e+39"),
    "rating overflows": ("own.csv", MINE + "a,b,1e999\n", OWN, f", line 2: {FINITE} inf"),
    "above the scale": (
        "ratings.dat",
        "1::2::3::4\n1::3::6::5\n",
        None,
        ", line 2: rating must be within the scale 0.5 to 5, got 6.0",
    ),
    "below the scale": (
        "u.data",
        "1\t2\t0.5\t4\n",
        None,
        ", line 1: rating must be within the scale 1 to 5, got 0.5",
    ),
    "below half a star": (
        "ratings.csv",
        ML + "1,2,0\n",
        None,
        ", line 2: rating must be within the scale 0.5 to 5, got 0.0",
    ),
    "the first of two faults": (
        "ratings.dat",
        "1::2::9::4\n1::3::good::5\n",
        None,
        ", line 1: rating must be within the scale",
    ),
    "time a word": ("ratings.dat", "1::2::3::now\n", None, f", line 1: {TIME} 'now'"),
    "time empty": ("own.csv", "who,what,stars,when\na,b,3,\n", TIMED, f", line 2: {TIME} ''"),
    "time overflows": ("u.data", f"1\t2\t3\t{2**63}\n", None, f", line 1: {TIME} '{2**63}'"),
    "id a word": ("ratings.dat", "1::2::3::4\nbob::3::4::5\n", None, f", line 2: client id {WHOLE} 'bob'"),
    "id a fraction": ("ratings.csv", ML + "1,2.0,3\n", None, f", line 2: item id {WHOLE} '2.0'"),
    "id with zeros": ("ratings.dat", "1::2::3::4\n1::02::3::4\n", None, f", line 2: item id {WHOLE} '02'"),
    "id empty": ("ratings.dat", "1::::3::4\n", None, f", line 1: item id {WHOLE} ''"),
    "id overflows": (
        "ratings.dat",
        f"1::2::3::4\n{2**63}::2::3::4\n",
        None,
        f", line 2: client id must fit in 64 bits (-2**63 to 2**63 - 1), got '{2**63}'",
    ),
    "id of many digits": (
        "ratings.dat",
        f"{'9' * 10_000}::2::3::4\n",
        None,
        ", line 1: client id must fit in 64 bits",
    ),
    "own id empty": ("own.csv", MINE + "a,b,3\n,b,3\n", OWN, ", line 3: client id must not be empty"),
    "duplicate": (
        "ratings.dat",
        "1::2::3::4\n2::2::4::4\n\n1::2::5::5\n2::2::4::4\n",
        None,
        ", line 4: client 1 must rate item 2 once, but did already on line 1 "
        '(duplicates="last", the setting data.duplicates, keeps the last rating, '
        '"all" keeps both)',
    ),
    "duplicate words": (
        "own.csv",
        'who,what,stars,text\na,b,3,"x\ny"\na,b,3,\n',
        OWN,
        ", line 4: client 'a' must rate item 'b' once, but did already on line 2",
    ),
    "no such column": (
        "ratings.csv",
        "userid,movieId,rating\n1,2,3\n",
        None,
        ", line 1: must have a column 'userId' (the client); the nearest is 'userid'; "
        "it has 'userid', 'movieId', 'rating'",
    ),
    "no such own column": (
        "own.csv",
        "who,what,star\na,b,3\n",
        OWN,
        ", line 1: must have a column 'stars' (the rating); the nearest is 'star'",
    ),
    "no time column": ("own.csv", MINE + "a,b,3\n", TIMED, ", line 1: must have a column 'when' (the time)"),
    "column twice": (
        "ratings.csv",
        "userId,movieId,rating,rating\n1,2,3,4\n",
        None,
        ", line 1: must have one column 'rating' (the rating), has 2",
    ),
    "columns without a header": (
        "ratings.dat",
        "1::2::3::4\n",
        OWN,
        ", line 1: must have a column 'who' (the client); it has '1', '2', '3', '4'; in a file without a "
        "header "
        "they are positions, such as data.columns.client = 1",
    ),
    "no text": (
        "ratings.csv",
        ML + "1,2,3\0\n",
        None,
        ": must be UTF-8 text or Parquet, but holds a byte 0 at offset 27",
    ),
    "no Parquet": ("ratings.parquet", ML + "1,2,3\n", None, ": cannot be read as Parquet: "),
    "half a Parquet": ("ratings.parquet", "PAR1PAR1", None, ": cannot be read as Parquet: "),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_wrong_file(tmp_path, fault):
    name, content, columns, message = FAULTS[fault]
    path = tmp_path / name
    path.write_text(content, encoding="utf-8", newline="")
    with pytest.raises(DataError) as error:
        read_ratings(path, columns=columns)
    assert str(error.value).startswith(f"{path}{message}")
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 500


def test_ids_that_are_not_utf_8(tmp_path):
    path = tmp_path / "own.csv"
    path.write_bytes(b"who,what,stars\na,b,3\na,caf\xe9,3\n")
    with pytest.raises(
        DataError, match=re.escape(f"{path}, line 3: item id must be UTF-8, got 'caf\\udce9'")
    ):
        read_ratings(path, columns=OWN)


def test_other_text_need_not_be_utf_8(tmp_path):
    (tmp_path / "own.csv").write_bytes(b"who,what,stars,title\na,b,3,caf\xe9\n")
    assert read_ratings(tmp_path / "own.csv", columns=OWN).rating.tolist() == [3]


def test_a_declared_scale(tmp_path):
    path = tmp_path / "ratings.dat"
    path.write_text("1::2::5::4\n1::3::10::5\n")
    assert read_ratings(path, scale=(1, 10)).rating.tolist() == [5, 10]
    with pytest.raises(DataError, match=r"line 1: rating must be within the scale 1 to 4, got 5\.0"):
        read_ratings(path, scale=[1, 4])


@pytest.mark.parametrize(
    ("frame", "message"),
    [
        (
            {"who": [1.5], "what": [1], "stars": [1]},
            "column 'who' (the client) must hold whole numbers or text, holds double",
        ),
        (
            {"who": [True], "what": [1], "stars": [1]},
            "column 'who' (the client) must hold whole numbers or text, holds bool",
        ),
        ({"who": [1], "what": [1], "stars": ["5"]}, "column 'stars' (the rating) must hold numbers, holds "),
        (
            {"who": [1], "what": [1], "stars": [1], "when": [True]},
            "column 'when' (the time) must hold numbers, dates, timestamps or text, holds bool",
        ),
    ],
)
def test_parquet_of_another_type(tmp_path, frame, message):
    path = tmp_path / "own.parquet"
    pd.DataFrame(frame).to_parquet(path)
    with pytest.raises(DataError, match=re.escape(f"{path}: {message}")):
        read_ratings(path, columns=TIMED if "when" in frame else OWN)


@pytest.mark.parametrize(
    ("frame", "message"),
    [
        ({"who": [], "what": [], "stars": []}, ": must hold ratings, has none"),
        (
            {"who": [1], "stars": [1]},
            ": must have a column 'what' (the item); the nearest is 'who'; it has 'who', 'stars'",
        ),
        (
            {"who": ["a", None], "what": [1, 1], "stars": [1, 1]},
            ", row 2: column 'who' (the client) must have a value, has none",
        ),
        ({"who": ["a", "b"], "what": [1, 1], "stars": [1, None]}, ", row 2: "),
        ({"who": ["a", ""], "what": [1, 1], "stars": [1, 1]}, ", row 2: client id must not be empty"),
        ({"who": [1, 2**63], "what": [1, 1], "stars": [1, 1]}, ", row 2: client id must fit in 64 bits"),
        (
            {"who": [1, 1], "what": [1, 1], "stars": [1, 2]},
            ", row 2: client 1 must rate item 1 once, but did already on row 1",
        ),
        (
            {"who": [1, 1], "what": [1, 2], "stars": [1, float("inf")]},
            ", row 2: rating must be a finite number, got inf",
        ),
    ],
)
def test_wrong_parquet(tmp_path, frame, message):
    path = tmp_path / "own.parquet"
    table = pd.DataFrame(frame)
    if not len(table):
        table = table.astype({"who": "int64", "what": "int64", "stars": "float64"})
    table.to_parquet(path)
    with pytest.raises(DataError, match=re.escape(f"{path}{message}")):
        read_ratings(path, columns=OWN)


def test_parquet_ids_that_are_not_utf_8(tmp_path):
    path = tmp_path / "own.parquet"
    names = pa.array([b"a", b"caf\xe9"]).view(pa.string())
    pa.parquet.write_table(pa.table({"who": names, "what": [1, 2], "stars": [1.0, 2.0]}), path)
    with pytest.raises(
        DataError, match=re.escape(f"{path}, row 2: client id must be UTF-8, got 'caf\\udce9'")
    ):
        read_ratings(path, columns=OWN)


def test_truncated_parquet(tmp_path):
    path = tmp_path / "own.parquet"
    pd.DataFrame({"who": range(1000), "what": range(1000), "stars": 1.0}).to_parquet(path)
    whole = path.read_bytes()
    for keep in range(0, len(whole), 97):
        path.write_bytes(whole[:keep])
        with pytest.raises(DataError, match=r"own\.parquet: "):
            read_ratings(path, columns=OWN)


def test_missing_file(tmp_path):
    with pytest.raises(DataError, match=re.escape(f"{tmp_path}/nothing.dat: no such rating file")):
        read_ratings(tmp_path / "nothing.dat")
    with pytest.raises(DataError, match="cannot be read: "):
        read_ratings(tmp_path / "null\0byte")
    with pytest.raises(DataError, match="cannot be read: File name too long"):
        read_ratings(tmp_path / ("long" * 100))


def test_folder_without_a_rating_file(tmp_path):
    names = "ratings.dat, ratings.csv, ratings.tsv, ratings.parquet, u.data"
    with pytest.raises(
        DataError, match=re.escape(f"{tmp_path}: must hold a rating file ({names}), has no files")
    ):
        read_ratings(tmp_path)
    (tmp_path / "movies.csv").write_text("movieId\n")
    with pytest.raises(DataError, match=re.escape(f"({names}), has movies.csv")):
        read_ratings(tmp_path)


def test_folder_with_two_rating_files(tmp_path):
    for name in ("ratings.dat", "ratings.csv"):
        (tmp_path / name).write_text("1::1::1::1\n")
    with pytest.raises(
        DataError, match=r"must hold one rating file, has ratings\.csv, ratings\.dat; give the path"
    ):
        read_ratings(tmp_path)


def test_what_is_no_file(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(DataError, match=r"pipe: must be a file, a folder or a \.zip archive"):
        read_ratings(tmp_path / "pipe")


def test_archive_that_is_none(tmp_path):
    path = tmp_path / "ratings.zip"
    path.write_text("1::1::1::1\n")
    with pytest.raises(DataError, match=re.escape(f"{path}: cannot be read as a zip archive: ")):
        read_ratings(path)


@pytest.mark.parametrize("name", ["ratings.dat", "ratings.parquet"])
@pytest.mark.parametrize(
    "packing", [zipfile.ZIP_DEFLATED, zipfile.ZIP_LZMA, zipfile.ZIP_BZIP2, zipfile.ZIP_STORED]
)
def test_damaged_archive(tmp_path, name, packing):
    path = tmp_path / "ratings.zip"
    with zipfile.ZipFile(path, "w", packing) as archive:
        archive.writestr(name, "".join(f"{i}::{i % 7}::{i % 5 + 1}::{i}\n" for i in range(1000)))
    content = bytearray(path.read_bytes())
    for place in (45, 60, 80):
        content[place] ^= 255
    path.write_bytes(content)
    with pytest.raises(DataError, match=re.escape(f"{path}")):
        read_ratings(path)


def test_encrypted_archive(tmp_path):
    path = tmp_path / "ratings.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("ratings.dat", "1::1::1::1\n")
    content = bytearray(path.read_bytes())
    content[6] |= 1
    content[content.index(b"PK\1\2") + 8] |= 1
    path.write_bytes(content)
    with pytest.raises(
        DataError, match=re.escape(f"{path}/ratings.dat: cannot be unpacked: ") + ".*password"
    ):
        read_ratings(path)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"duplicates": "first"}, "duplicates must be one of error, last, all, got 'first'"),
        ({"scale": (5, 1)}, "scale must be (least, greatest) with least < greatest, got (5, 1)"),
        ({"scale": [1]}, "scale must be (least, greatest) with least < greatest, got [1]"),
        (
            {"columns": {"user": "who"}},
            "columns must name client, item, rating, time, got 'user'",
        ),
        (
            {"columns": {"client": "who", "rating": "stars"}},
            "columns must name the item column, got {'client': 'who', ",
        ),
        ({"columns": {**OWN, "time": "who"}}, "columns must name each column once, got "),
    ],
)
def test_parameters(tmp_path, parameters, message):
    (tmp_path / "ratings.dat").write_text("1::1::1::1\n")
    with pytest.raises(ValueError, match=re.escape(message)):
        read_ratings(tmp_path, **parameters)
