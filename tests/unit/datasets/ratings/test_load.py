"""Rating files that are right: every format, ids, order, duplicates."""

import zipfile

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
import pytest

from fedrecon.datasets.ratings._load import read_ratings

ROWS = [(7, 30, 4.0, 100), (7, 10, 3.0, 90), (2, 30, 5.0, 80), (7, 20, 1.0, 100)]
COLUMNS = {"client": "who", "item": "what", "rating": "stars"}


def written(separator: str, header: str = "", newline: str = "\n") -> str:
    lines = [separator.join([str(u), str(i), f"{r:g}", str(t)]) for u, i, r, t in ROWS]
    return newline.join(([header] if header else []) + lines) + newline


FILES = {
    "ratings.dat": written("::"),
    "u.data": written("\t"),
    "u1.base": written("\t"),
    "ratings.txt": written("::"),
    "ratings.csv": written(",", "userId,movieId,rating,timestamp"),
    "windows.csv": written(",", "userId,movieId,rating,timestamp", "\r\n"),
    "marked.csv": "\ufeff" + written(",", "userId,movieId,rating,timestamp"),
    "ratings.tsv": written("\t", "userId\tmovieId\trating\ttimestamp"),
    "blank.csv": "\n" + written(",", "userId,movieId,rating,timestamp").replace("\n", "\n\n"),
}


def check(ratings):
    assert ratings.client_ids.tolist() == [2, 7]
    assert ratings.item_ids.tolist() == [10, 20, 30]
    assert ratings.client.tolist() == [1, 1, 0, 1]
    assert ratings.item.tolist() == [2, 0, 2, 1]
    assert ratings.rating.tolist() == [4.0, 3.0, 5.0, 1.0]
    assert ratings.rating.dtype == np.float32
    assert ratings.time is None or ratings.time.tolist() == [100, 90, 80, 100]


@pytest.mark.parametrize("name", FILES)
def test_every_format_gives_the_same_ratings(tmp_path, name):
    (tmp_path / name).write_text(FILES[name], encoding="utf-8", newline="")
    ratings = read_ratings(tmp_path / name)
    check(ratings)
    assert ratings.time is not None
    assert ratings.client_ids.dtype == ratings.item_ids.dtype == np.int64


@pytest.mark.parametrize("name", ["ratings.dat", "u.data", "ratings.csv", "ratings.parquet"])
@pytest.mark.parametrize("inner", ["", "ml-latest/"])
def test_the_rating_file_of_a_folder_or_an_archive(tmp_path, name, inner):
    folder = tmp_path / "folder"
    (folder / inner).mkdir(parents=True)
    path = folder / inner / name
    if name.endswith("parquet"):
        pd.DataFrame(ROWS, columns=["userId", "movieId", "rating", "timestamp"]).to_parquet(path)
    else:
        path.write_text(FILES[name])
    (folder / "movies.csv").write_text("movieId,title\n10,A\n")
    archive = tmp_path / "archive.zip"
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as opened:
        opened.write(path, inner + name)
        opened.writestr(f"__MACOSX/{inner}._{name}", b"\0")
        opened.writestr(inner + "movies.csv", "movieId,title\n10,A\n")
    check(read_ratings(folder))
    check(read_ratings(archive))


def test_time_is_optional_in_a_table(tmp_path):
    (tmp_path / "ratings.csv").write_text(
        "rating,movieId,extra,userId\n4,30,x,7\n3,10,,7\n5,30,x,2\n1,20,x,7\n"
    )
    ratings = read_ratings(tmp_path)
    check(ratings)
    assert ratings.time is None


def test_half_stars(tmp_path):
    (tmp_path / "ratings.dat").write_text("1::1::0.5::1\n1::2::4.5::1\n")
    assert read_ratings(tmp_path).rating.tolist() == [0.5, 4.5]


def test_own_columns_with_ids_of_text_and_any_rating(tmp_path):
    text = 'what,stars,who,review\n"a, b",-7.5,ann,"two\nlines"\n\u00e9,1e3,bob,\n"a, b",0,07,"say ""no"""\n'
    (tmp_path / "reviews.csv").write_text(text, encoding="utf-8")
    for path in (tmp_path / "reviews.csv", tmp_path):
        ratings = read_ratings(path, columns=COLUMNS)
        assert ratings.client_ids.tolist() == ["07", "ann", "bob"]
        assert ratings.item_ids.tolist() == ["a, b", "\u00e9"]
        assert ratings.client.tolist() == [1, 2, 0]
        assert ratings.rating.tolist() == [-7.5, 1000.0, 0.0]


def test_only_canonical_decimals_are_numbers_so_that_no_ids_are_merged(tmp_path):
    path = tmp_path / "own.csv"
    path.write_text(f"who,what,stars\n{2**63 - 1},7,1\n{-(2**63)},07,1\n")
    ratings = read_ratings(path, columns=COLUMNS)
    assert ratings.client_ids.tolist() == [-(2**63), 2**63 - 1]
    assert ratings.client_ids.dtype == np.int64
    assert ratings.item_ids.tolist() == ["7", "07"]  # integers come before other texts


def test_decimals_beyond_64_bits_are_texts(tmp_path):
    path = tmp_path / "own.csv"
    path.write_text(f"who,what,stars\n1,2,1\n1,{-(2**63) - 1},1\n")
    assert read_ratings(path, columns=COLUMNS).item_ids.tolist() == ["2", str(-(2**63) - 1)]


@pytest.mark.parametrize("kind", ["int64", "uint16", "string", "category", "large_string[pyarrow]"])
def test_parquet_ids_of_every_kind(tmp_path, kind):
    frame = pd.DataFrame({"who": ["7", "7", "2", "7"], "what": [30, 10, 30, 20], "stars": [4, 3, 5, 1]})
    if kind == "category":
        frame["who"] = pd.Categorical(frame["who"], categories=["2", "5", "7"])  # nobody is "5"
    else:
        frame["who"] = (
            frame["who"].astype("int64").astype(kind if "string" not in kind else "int64").astype(kind)
        )
    frame.to_parquet(tmp_path / "own.parquet")
    ratings = read_ratings(tmp_path / "own.parquet", columns=COLUMNS)
    check(ratings._replace(client_ids=ratings.client_ids.astype(np.int64)))
    assert ratings.client_ids.dtype == np.int64  # also of texts: each is the decimal of an integer


@pytest.mark.parametrize(
    ("time", "expected"),
    [
        (np.array([3, 1], np.int32), [3, 1]),
        (
            pd.to_datetime(["1970-01-01 00:00:03", "1970-01-01 00:00:01"]).astype("datetime64[ms]"),
            [3000, 1000],
        ),
        ([pd.Timestamp("1970-01-04").date(), pd.Timestamp("1970-01-02").date()], [3, 1]),
    ],
)
def test_parquet_times(tmp_path, time, expected):
    pd.DataFrame({"who": [1, 1], "what": [1, 2], "stars": [1.0, 2.0], "when": time}).to_parquet(
        tmp_path / "a.parquet"
    )
    ratings = read_ratings(tmp_path / "a.parquet", columns={**COLUMNS, "time": "when"})
    assert ratings.time.tolist() == expected


@pytest.mark.parametrize(
    ("duplicates", "items", "stars"), [("last", [1, 2, 1], [1, 5, 4]), ("all", [1, 1, 2, 1], [2, 1, 5, 4])]
)
def test_duplicates(tmp_path, duplicates, items, stars):
    (tmp_path / "ratings.dat").write_text("1::1::2::1\n1::1::1::2\n1::2::5::3\n2::1::4::4\n")
    ratings = read_ratings(tmp_path, duplicates=duplicates)
    assert ratings.item_ids[ratings.item].tolist() == items
    assert ratings.rating.tolist() == stars
    assert len(ratings.time) == len(items)


def test_a_file_of_many_blocks_keeps_its_order(tmp_path):
    random = np.random.default_rng(0)
    pairs = random.permutation(400_000)
    client, item, stars = pairs // 1000 * 10**9, pairs % 1000 * 7, random.integers(1, 6, len(pairs))
    table = pd.DataFrame({"userId": client, "movieId": item, "rating": stars, "timestamp": pairs})
    table.to_csv(tmp_path / "ratings.csv", index=False)
    assert (tmp_path / "ratings.csv").stat().st_size > 8 << 20
    ratings = read_ratings(tmp_path)
    np.testing.assert_array_equal(ratings.client_ids[ratings.client], client)
    np.testing.assert_array_equal(ratings.item_ids[ratings.item], item)
    np.testing.assert_array_equal(ratings.rating, stars)
    np.testing.assert_array_equal(ratings.time, pairs)


def test_movielens_1m(shared_data):
    ratings = read_ratings(shared_data("ml-1m"))
    assert (len(ratings.rating), len(ratings.client_ids), len(ratings.item_ids)) == (1_000_209, 6_040, 3_706)
    assert ratings.item_ids[ratings.item[:3]].tolist() == [1193, 661, 914]
    assert ratings.rating.sum(dtype=np.float64) == 3_582_313


def test_movielens_latest_small(shared_data):
    ratings = read_ratings(shared_data("ml-latest-small"))
    assert (len(ratings.rating), len(ratings.client_ids), len(ratings.item_ids)) == (100_836, 610, 9_724)
    assert (ratings.rating.min(), ratings.rating.max()) == (0.5, 5.0)


@pytest.mark.parametrize("name", ["ratings.csv", "ratings.dat", "ratings.parquet"])
@pytest.mark.parametrize("packed", [False, True], ids=["file", "archive"])
def test_no_file_of_python_is_handed_to_the_threads_of_arrow(tmp_path, monkeypatch, name, packed):
    """After an error they may still hold it when Python ends, which aborts the process then."""
    path = tmp_path / name
    if name.endswith(".parquet"):
        pd.DataFrame(ROWS, columns=["userId", "movieId", "rating", "timestamp"]).to_parquet(path)
    else:
        path.write_text(FILES[name])
    if packed:
        with zipfile.ZipFile(tmp_path / "ratings.zip", "w") as archive:
            archive.write(path, name)
        path = tmp_path / "ratings.zip"
    handed = []

    def spied(module, function):
        original = getattr(module, function)

        def call(file, *args, **more):
            handed.append(file)
            return original(file, *args, **more)

        monkeypatch.setattr(module, function, call)

    spied(pyarrow.csv, "read_csv")
    spied(pyarrow.parquet, "ParquetFile")
    check(read_ratings(path))
    assert [isinstance(x, pa.NativeFile) and not isinstance(x, pa.PythonFile) for x in handed] == [True]
