"""Public sets of ratings in the exact layout in which they are published; the rows are made up."""

import bz2
import gzip
import json
import lzma
import re
import tomllib
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fedrecon.datasets.ratings._load import read_ratings
from fedrecon.errors import DataError

Rows = list[tuple[Any, ...]]  # of client, item, rating and time; the last two may be None


class PublicSet(NamedTuple):
    """A set as it is published.

    Attributes:
        file: The name of its file.
        content: What the file holds; text is UTF-8.
        options: How it is read, arguments of `read_ratings`.
        rows: What is read.
    """

    file: str
    content: str | bytes
    options: dict[str, Any]
    rows: Rows


def positions(client: int, item: int, rating: int | None = None, time: int | None = None) -> dict[str, Any]:
    given = {"client": client, "item": item, "rating": rating, "time": time}
    return {"columns": {role: place for role, place in given.items() if place is not None}}


def named(client: str, item: str, rating: str | None = None, time: str | None = None) -> dict[str, Any]:
    given = {"client": client, "item": item, "rating": rating, "time": time}
    return {"columns": {role: name for role, name in given.items() if name is not None}}


def lines(*objects: dict[str, Any]) -> str:
    return "".join(json.dumps(x) + "\n" for x in objects)


AMAZON_2018 = lines(
    {"overall": 5.0, "verified": True, "reviewTime": "09 1, 2016", "reviewerID": "A3", "asin": "0001",
    "style":
     {"Format:": " Hardcover"}, "reviewerName": "A. R.", "reviewText": "Fine.\nReally.", "summary": "Five",
     "unixReviewTime": 1472688000},
    {"overall": 2.5, "verified": False, "reviewTime": "10 1, 2016", "reviewerID": "A1", "asin": "B00X",
     "reviewText": "", "unixReviewTime": 1475280000, "vote": "2", "image": ["https://example.org/x.jpg"]},
)  # fmt: skip
AMAZON_2023 = lines(
    {"rating": 5.0, "title": "Such", "text": "text", "images": [], "asin": "B1", "parent_asin": "P1",
    "user_id": "AG",
     "timestamp": 1588000728923, "helpful_vote": 0, "verified_purchase": True},
    {"rating": 1.0, "title": "No", "text": "cut \ud83d", "images": [], "asin": "B2", "parent_asin": "P2",
     "user_id": "AE", "timestamp": 1588000855070, "helpful_vote": 1, "verified_purchase": False},
)  # fmt: skip
YELP = lines(
    {"review_id": "r1", "user_id": "mh_-", "business_id": "XQ", "stars": 3.0, "useful": 0, "funny": 0,
    "cool": 0,
     "text": "If", "date": "2018-07-07 22:09:11"},
    {"review_id": "r2", "user_id": "OyoG", "business_id": "7A", "stars": 5.0, "useful": 1, "funny": 0,
    "cool": 1,
     "text": "I", "date": "2012-01-03 15:28:18"},
)  # fmt: skip
GOODREADS_JSON = lines(
    {"user_id": "0a1b2c3d", "book_id": "1001", "review_id": "4e5f", "is_read": False, "rating": 0,
     "review_text_incomplete": "", "date_added": "Tue Nov 15 11:29:22 -0800 2016", "read_at": "",
     "started_at": ""},
    {"user_id": "0a1b2c3d", "book_id": "1002", "review_id": "6a7b", "is_read": True, "rating": 4,
     "review_text_incomplete": "a", "date_added": "Wed Aug 30 00:00:26 -0700 2017", "read_at": "",
     "started_at": ""},
)  # fmt: skip

SETS = {
    "MovieLens 100K": PublicSet(
        "u.data", "31\t407\t3\t880000100\n12\t9\t4\t880000207\n", {},
        [(31, 407, 3, 880000100), (12, 9, 4, 880000207)],
    ),
    "MovieLens 1M": PublicSet(
        "ratings.dat", "4::812::5::978000001\n9::33::3::978000042\n", {},
        [(4, 812, 5, 978000001), (9, 33, 3, 978000042)],
    ),
    "MovieLens 10M": PublicSet(
        "ratings.dat", "7::64::4.5::838000046\n7::91::5::838000025\n", {},
        [(7, 64, 4.5, 838000046), (7, 91, 5, 838000025)],
    ),
    "MovieLens latest, 20M, 25M, 32M": PublicSet(
        "ratings.csv", "userId,movieId,rating,timestamp\n5,17,4.0,964000703\n5,28,0.5,964000247\n", {},
        [(5, 17, 4, 964000703), (5, 28, 0.5, 964000247)],
    ),
    "HetRec MovieLens": PublicSet(
        "user_ratedmovies.dat",
        "userID\tmovieID\trating\tdate_day\tdate_month\tdate_year\tdate_hour\tdate_minute\tdate_second\r\n"
        "81\t6\t1\t3\t4\t2007\t1\t7\t6\r\n81\t40\t4.5\t3\t4\t2007\t1\t9\t4\r\n",
        named("userID", "movieID", "rating"),
        [(81, 6, 1, None), (81, 40, 4.5, None)],
    ),
    "HetRec Last.fm": PublicSet(
        "user_artists.dat", "userID\tartistID\tweight\r\n3\t77\t1204\r\n3\t78\t991\r\n",
        named("userID", "artistID", "weight"), [(3, 77, 1204, None), (3, 78, 991, None)],
    ),
    "HetRec Delicious": PublicSet(
        "user_taggedbookmarks-timestamps.dat",
        "userID\tbookmarkID\ttagID\ttimestamp\r\n6\t5\t2\t1289000362000\r\n6\t4\t2\t1289000159000\r\n",
        named("userID", "bookmarkID", time="timestamp"), [(6, 5, None, 1289000362000), (6, 4, None,
        1289000159000)],
    ),
    "Book-Crossing": PublicSet(
        "BX-Book-Ratings.csv",
        '"User-ID";"ISBN";"Book-Rating"\r\n"101";"012345678X";"0"\r\n"102";"0123456789";"5"\r\n'
        '"103";"\u00e9123456789";"10"\r\n'.encode("latin-1"),
        {**named("User-ID", "ISBN", "Book-Rating"), "encoding": "latin-1", "unrated": 0},
        [(102, "0123456789", 5, None), (103, "\u00e9123456789", 10, None)],
    ),
    "goodbooks-10k": PublicSet(
        "ratings.csv", "user_id,book_id,rating\n8,31,5\n9,402,4\n", named("user_id", "book_id", "rating"),
        [(8, 31, 5, None), (9, 402, 4, None)],
    ),
    "Goodreads interactions": PublicSet(
        "goodreads_interactions.csv", "user_id,book_id,is_read,rating,is_reviewed\n7,31,1,5,0\n7,30,0,0,0\n",
        {**named("user_id", "book_id", "rating"), "unrated": 0}, [(7, 31, 5, None)],
    ),
    "Goodreads by genre": PublicSet(
        "goodreads_interactions_poetry.json.gz", gzip.compress(GOODREADS_JSON.encode()),
        {**named("user_id", "book_id", "rating", "date_added"), "unrated": 0},
        [("0a1b2c3d", 1002, 4, 1504076426)],
    ),
    "Amazon 2014, ratings only": PublicSet(
        "ratings_Books.csv",
        "A0EXAMPLE0001,0000000001,4.0,1019000600\nA0EXAMPLE00002,0000000001,1.0,1395000200\n",
        positions(1, 2, 3, 4),
        [("A0EXAMPLE0001", "0000000001", 4, 1019000600), ("A0EXAMPLE00002", "0000000001", 1, 1395000200)],
    ),
    "Amazon 2018, ratings only": PublicSet(
        "Books.csv", "0000000002,A0EXAMPLE00003,5.0,1123000800\n0000000002,A0EXAMPLE00004,4.5,1112000800\n",
        positions(2, 1, 3, 4),
        [("A0EXAMPLE00003", "0000000002", 5, 1123000800), ("A0EXAMPLE00004", "0000000002", 4.5, 1112000800)],
    ),
    "Amazon 2018, reviews": PublicSet(
        "Books_5.json.gz", gzip.compress(AMAZON_2018.encode()),
        named("reviewerID", "asin", "overall", "unixReviewTime"),
        [("A3", "0001", 5, 1472688000), ("A1", "B00X", 2.5, 1475280000)],
    ),
    "Amazon 2023, ratings only": PublicSet(
        "All_Beauty.csv.gz",
        gzip.compress(b"user_id,parent_asin,rating,timestamp\nAG,B1,5.0,1588000728923\nAE,B2,1.0,1588000855070\n"),
        named("user_id", "parent_asin", "rating", "timestamp"),
        [("AG", "B1", 5, 1588000728923), ("AE", "B2", 1, 1588000855070)],
    ),
    "Amazon 2023, reviews": PublicSet(
        "All_Beauty.jsonl.gz", gzip.compress(AMAZON_2023.encode()),
        named("user_id", "parent_asin", "rating", "timestamp"),
        [("AG", "P1", 5, 1588000728923), ("AE", "P2", 1, 1588000855070)],
    ),
    "Yelp": PublicSet(
        "yelp_academic_dataset_review.json", YELP, named("user_id", "business_id", "stars", "date"),
        [("mh_-", "XQ", 3, 1531001351), ("OyoG", "7A", 5, 1325604498)],
    ),
    "Last.fm 360K": PublicSet(
        "usersha1-artmbid-artname-plays.tsv",
        '0a1b2c3d\t1111111a\tthe "example\t512\n0a1b2c3d\t\t"die Beispiele\t48\n',
        positions(1, 3, 4),
        [("0a1b2c3d", 'the "example', 512, None), ("0a1b2c3d", '"die Beispiele', 48, None)],
    ),
    "Last.fm 1K": PublicSet(
        "userid-timestamp-artid-artname-traid-traname.tsv",
        "user_000001\t2009-05-04T23:08:57Z\t3333333c\tSome Artist\t\tSome Track\n"
        "user_000001\t2009-05-04T13:54:10Z\t\t作曲家\t\tTrack 2\n",
        positions(1, 4, time=2),
        [("user_000001", "Some Artist", None, 1241478537), ("user_000001", "作曲家", None, 1241445250)],
    ),
    "Million Song": PublicSet(
        "train_triplets.txt", "5c6d7e8f\tSOEXAMPL000000001\t1\n5c6d7e8f\tSOEXAMPL000000002\t3\n",
        positions(1, 2, 3),
        [("5c6d7e8f", "SOEXAMPL000000001", 1, None), ("5c6d7e8f", "SOEXAMPL000000002", 3, None)],
    ),
    "Epinions": PublicSet(
        "ratings_data.txt", "6 210 4\n6 211 5\n", positions(1, 2, 3), [(6, 210, 4, None), (6, 211, 5, None)]
    ),
    "FilmTrust": PublicSet(
        "ratings.txt", "3 8 2\n3 9 0.5\n", positions(1, 2, 3), [(3, 8, 2, None), (3, 9, 0.5, None)]
    ),
    "CiaoDVD": PublicSet(
        "movie-ratings.txt", "4,6,11,1,5,2013-04-11\n4,7,11,2,4,2013-04-12\n", positions(1, 2, 5, 6),
        [(4, 6, 5, 1365638400), (4, 7, 4, 1365724800)],
    ),
    "Jester": PublicSet(
        "jester_ratings.dat", "2\t\t4\t\t0.125\n2\t\t6\t\t-9.5\n", positions(1, 3, 5),
        [(2, 4, 0.125, None), (2, 6, -9.5, None)],
    ),
    "Gowalla": PublicSet(
        "loc-gowalla_totalCheckins.txt.gz",
        gzip.compress(
            b"0\t2010-10-19T23:55:27Z\t30.25\t-97.75\t1201\n"
            b"0\t2010-10-18T22:17:43Z\t30.5\t-97.5\t1202\n"
        ),
        positions(1, 5, time=2), [(0, 1201, None, 1287532527), (0, 1202, None, 1287440263)],
    ),
    "Foursquare": PublicSet(
        "dataset_TSMC2014_NYC.txt",
        "470\t5555555e\t7777777a\tArts & Crafts\t40\t-74\t-240\tTue Apr 03 18:00:09 +0000 2012\n"
        "979\t6666666f\t7777777a\tCaf\xe9\t40\t-74\t-240\tTue Apr 03 18:00:25 +0000 2012\n".encode("latin-1"),
        positions(1, 2, time=8), [(470, "5555555e", None, 1333476009), (979, "6666666f", None, 1333476025)],
    ),
    "Yahoo! R3": PublicSet(
        "ydata-ymusic-rating-study-v1_0-train.txt", "2\t24\t5\n2\t45\t1\n", positions(1, 2, 3),
        [(2, 24, 5, None), (2, 45, 1, None)],
    ),
    "Anime": PublicSet(
        "rating.csv", "user_id,anime_id,rating\n3,40,-1\n3,44,8\n",
        {**named("user_id", "anime_id", "rating"), "unrated": -1}, [(3, 44, 8, None)],
    ),
    "Steam 200K": PublicSet(
        "steam-200k.csv",
        '100200300,"A Game, Part 2",play,273.0,0\n100200300,"Game 4",play,87.0,0\n',
        positions(1, 2, 4),
        [(100200300, "A Game, Part 2", 273, None), (100200300, "Game 4", 87, None)],
    ),
    "Retailrocket": PublicSet(
        "events.csv",
        "timestamp,visitorid,event,itemid,transactionid\n1433000332117,2001,view,3001,\n"
        "1433000214164,2002,view,3002,\n",
        named("visitorid", "itemid", time="timestamp"),
        [(2001, 3001, None, 1433000332117), (2002, 3002, None, 1433000214164)],
    ),
    "RecBole": PublicSet(
        "ml-100k.inter",
        "user_id:token\titem_id:token\trating:float\ttimestamp:float\n31\t407\t3\t880000100\n12\t9\t3.5\t880000207.0\n",
        {}, [(31, 407, 3, 880000100), (12, 9, 3.5, 880000207)],
    ),
    "RecBole, items alone": PublicSet(
        "pinterest.inter", "user_id:token\titem_id:token\n0\ta\n1\tb\n", {}, [(0, "a", None, None), (1, "b",
        None, None)]
    ),
}  # fmt: skip


def rows_of(ratings: Any) -> Rows:
    ids = [ratings.client_ids[ratings.client].tolist(), ratings.item_ids[ratings.item].tolist()]
    rest = (ratings.rating, ratings.time)
    values = [[None] * len(ratings.client) if column is None else column.tolist() for column in rest]
    return list(zip(*ids, *values, strict=True))


def as_read(rows: Rows) -> Rows:
    """Rows with ids as a column holds them: all strings where one is."""
    columns = [list(column) for column in zip(*rows, strict=True)]
    for ids in columns[:2]:
        if any(isinstance(x, str) for x in ids):
            ids[:] = [str(x) for x in ids]
    return list(zip(*columns, strict=True))


def write(folder: Path, which: PublicSet) -> Path:
    path = folder / which.file
    path.write_bytes(which.content if isinstance(which.content, bytes) else which.content.encode())
    return path


@pytest.mark.parametrize("name", SETS)
def test_a_public_set_is_read_as_it_is_published(tmp_path, name):
    path = write(tmp_path, SETS[name])
    assert rows_of(read_ratings(path, **SETS[name].options)) == as_read(SETS[name].rows)


def test_the_documentation_says_what_each_set_needs():
    page = (Path(__file__).resolve().parents[4] / "docs" / "data_files.md").read_text(encoding="utf-8")
    rows = [line for line in page.splitlines() if line.startswith("| ")]
    for name, which in SETS.items():
        (row,) = [row for row in rows if f"`{which.file}`" in row and row.startswith(f"| {name.split()[0]}")][
            :1
        ]
        columns = re.search(r"columns = \{.*?\}", row)
        documented = None if columns is None else tomllib.loads(columns[0])["columns"]
        assert documented == which.options.get("columns"), name
        assert ("unrated" in row) == ("unrated" in which.options), name


def zstd(content: bytes) -> bytes:
    return pa.compress(content, codec="zstd", asbytes=True)


@pytest.mark.parametrize(
    ("suffix", "pack"),
    [(".gz", gzip.compress), (".bz2", bz2.compress), (".xz", lzma.compress), (".zst", zstd),
     (".lzma", lambda content: lzma.compress(content, lzma.FORMAT_ALONE))],
)  # fmt: skip
@pytest.mark.parametrize("name", ["MovieLens 1M", "MovieLens latest, 20M, 25M, 32M", "Yelp", "Book-Crossing"])
def test_every_packing(tmp_path, name: str, suffix: str, pack: Callable[[bytes], bytes]):
    which = SETS[name]
    content = write(tmp_path, which).read_bytes()
    packed = tmp_path / (which.file + suffix)
    packed.write_bytes(pack(content))
    assert rows_of(read_ratings(packed, **which.options)) == as_read(which.rows)
    (tmp_path / "alone").mkdir()
    packed.rename(tmp_path / "alone" / packed.name)
    assert rows_of(read_ratings(tmp_path / "alone", **which.options)) == as_read(which.rows)
    packed.write_bytes(pack(content * 400)[:-20])
    with pytest.raises(DataError, match=f"{which.file}{suffix}: cannot be read: "):
        read_ratings(packed, **which.options)
    packed.write_bytes(pack(content * 400))
    with pytest.raises(DataError, match="must unpack to at most"):
        read_ratings(packed, **{**which.options, "unpacked_gib": 1e-6})


def test_the_table_with_the_columns_is_chosen_from_an_archive(tmp_path):
    which = SETS["Book-Crossing"]
    with zipfile.ZipFile(tmp_path / "BX-CSV-Dump.zip", "w") as archive:
        archive.writestr("BX-Users.csv", '"User-ID";"Location";"Age"\r\n"1";"nyc, usa";NULL\r\n')
        archive.writestr("BX-Books.csv", '"ISBN";"Book-Title"\r\n"0123456789";"A title"\r\n')
        archive.writestr("BX-Book-Ratings.csv", which.content)
    assert rows_of(read_ratings(tmp_path / "BX-CSV-Dump.zip", **which.options)) == as_read(which.rows)
    inside = tmp_path / "BX-CSV-Dump.zip" / "BX-Book-Ratings.csv"
    assert rows_of(read_ratings(inside, **which.options)) == as_read(which.rows)
    with pytest.raises(
        DataError, match=r"must hold one rating file, has BX-Users\.csv, .*; give the path of one"
    ):
        read_ratings(tmp_path / "BX-CSV-Dump.zip", columns={"client": "who", "item": "what"})
    with pytest.raises(DataError, match=r"nothing\.csv: no such rating file"):
        read_ratings(tmp_path / "BX-CSV-Dump.zip" / "nothing.csv")


def test_a_folder_of_recbole(tmp_path):
    which = SETS["RecBole"]
    write(tmp_path, which)
    (tmp_path / "ml-100k.item").write_text("item_id:token\tmovie_title:token_seq\n407\tA film\n")
    (tmp_path / "ml-100k.user").write_text("user_id:token\tage:token\n31\t49\n")
    assert rows_of(read_ratings(tmp_path)) == which.rows
    names = {
        "client": "user_id",
        "item": "item_id",
        "rating": "rating",
    }  # as RecBole's own configuration has them
    assert rows_of(read_ratings(tmp_path, columns=names)) == [(*row[:3], None) for row in which.rows]


def test_a_folder_of_parquet_parts(tmp_path):
    folder = tmp_path / "ratings.parquet"
    folder.mkdir()
    (folder / "_SUCCESS").write_text("")
    (folder / ".part-00000.crc").write_bytes(b"\0")
    for i, items in enumerate(([1, 2], [3])):
        table = pa.table({"u": ["b", "a"][: len(items)], "i": items, "r": [1.0, 2.0][: len(items)]})
        pq.write_table(table, folder / f"part-0000{i}-5c1d.snappy.parquet")
    options = named("u", "i", "r")
    assert rows_of(read_ratings(folder, **options)) == [
        ("b", 1, 1, None),
        ("a", 2, 2, None),
        ("b", 3, 1, None),
    ]
    pq.write_table(pa.table({"u": ["c"], "i": ["x"]}), folder / "part-00002-5c1d.snappy.parquet")
    with pytest.raises(DataError, match=r"part-00002.*must have a column 'r' \(the rating\)"):
        read_ratings(folder, **options)
    pq.write_table(pa.table({"u": ["c"], "i": ["x"], "r": [1.0]}), folder / "part-00002-5c1d.snappy.parquet")
    with pytest.raises(DataError, match=r"ratings\.parquet: its parts must have columns of one type"):
        read_ratings(folder, **options)


@pytest.mark.parametrize("kind", [pl.Enum(["q", "p"]), pl.Categorical, pl.String])
def test_parquet_with_a_client_per_row(tmp_path, kind):
    path = tmp_path / "histories.parquet"
    content = {"u": ["b", "a"], "i": [["p", "q"], ["q"]], "r": [[1.0, 2.0], [3.0]]}
    names = {"u": pl.Enum(["a", "b"]), "i": pl.List(kind)}
    pl.DataFrame(content, schema_overrides=names).write_parquet(path)
    rows = [("b", "p", 1, None), ("b", "q", 2, None), ("a", "q", 3, None)]
    assert rows_of(read_ratings(path, **named("u", "i", "r"))) == rows
    pl.DataFrame({**content, "r": [1.0, 2.0]}, schema_overrides=names).write_parquet(path)
    with pytest.raises(DataError, match="every column that is read must hold lists, 'r' does not"):
        read_ratings(path, **named("u", "i", "r"))
    pl.DataFrame({**content, "r": [[1.0], [2.0]]}, schema_overrides=names).write_parquet(path)
    with pytest.raises(DataError, match="the lists of a client must be of one length, 'r' differs"):
        read_ratings(path, **named("u", "i", "r"))


def test_a_folder_that_lenskit_saved(tmp_path):
    schema = {
        "version": "2025.3", "name": "ml", "default_interaction": "rating",
        "entities": {"item": {"id_type": "int", "attributes": {"title": {"layout": "scalar"}}},
                     "user": {"id_type": "str", "attributes": {}}},
        "relationships": {"rating": {"entities": {"user": None, "item": None}, "interaction": True,
                                     "repeats": "forbidden",
                                     "attributes": {"rating": {"layout": "scalar"},
                                     "timestamp": {"layout": "scalar"}}}},
    }  # fmt: skip
    (tmp_path / "schema.json").write_text(json.dumps(schema))
    (tmp_path / "summary.md").write_text("# ml\n")
    pq.write_table(pa.table({"user_id": ["ann", "bob", "cy"]}), tmp_path / "user.parquet", compression="zstd")
    pq.write_table(pa.table({"item_id": [10, 20], "title": ["A", "B"]}), tmp_path / "item.parquet")
    numbers = pa.array([2, 0, 0], pa.int32())
    stamps = pa.array([3, 1, 2], pa.int64()).cast(pa.timestamp("s"))
    table = {"user_num": numbers, "item_num": pa.array([1, 1, 0], pa.int32()), "rating": pa.array([4.0, 5.0,
        0.5], pa.float32()),
             "timestamp": stamps}  # fmt: skip
    pq.write_table(pa.table(table), tmp_path / "rating.parquet")
    assert rows_of(read_ratings(tmp_path)) == [
        ("cy", 20, 4, 3000),
        ("ann", 20, 5, 1000),
        ("ann", 10, 0.5, 2000),
    ]
    table["user_num"] = pa.array([3, 0, 0], pa.int32())
    pq.write_table(pa.table(table), tmp_path / "rating.parquet")
    with pytest.raises(DataError, match=r"rating\.parquet: must number the 3 entities from 0 on, got 3"):
        read_ratings(tmp_path)
    (tmp_path / "schema.json").write_text('{"entities": {}}')
    with pytest.raises(DataError, match=r"schema\.json: must be the schema of a LensKit data set"):
        read_ratings(tmp_path)


NAMED = named("userId", "movieId", "rating")
REFUSED = {
    "Netflix Prize": ("combined_data_1.txt", b"1:\n123456,3,2005-01-02\n", {},
        "must be written as client,item"),
    "Jester 1": ("jester-data-1.xls", b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + b"\0" * 600, {},
        "must be saved as CSV"),
    "Jester 1, saved as CSV": ("jester-data-1.csv", b"74" + b",-7.82,8.79,99" * 10 + b"\n", {},
        "a matrix with a row for each client must be written with a row for each rating first"),
    "a workbook": ("ratings.xlsx", b"PK\x03\x04" + b"\0" * 600, {}, "must be saved as CSV"),
    "HetRec as RAR": ("ratings.rar", b"Rar!\x1a\x07\x00" + b"\0" * 9, {}, "must be unpacked first"),
    "Steam reviews": ("steam_reviews.json", b"{'username': 'Someone', 'product_id': u'100'}\n",
                      named("username", "product_id"), "in single quotes, must be written as JSON first"),
    "a JSON array": ("ratings.json", b'[{"u": 1}]\n', NAMED, "must be JSON Lines, an object on each line"),
    "an Arrow file": ("ratings.feather", b"ARROW1\0\0", {}, "must be saved as Parquet"),
    "UTF-16": ("ratings.csv", "userId,movieId,rating\n1,2,3\n".encode("utf-16"), {},
        'data.encoding = "utf-16"'),
    "Latin-1": ("own.csv", b"userId,movieId,rating\ncaf\xe9,2,3\n", NAMED, "data.encoding sets another"),
    "another scale": ("ratings.csv", b"userId,movieId,rating\n1,2,10\n", {},
        "the setting data.scale, sets another one"),
    "0 for not rated": ("ratings.csv", b"userId,movieId,rating\n1,2,0\n", {},
        "the setting data.unrated, leaves out"),
    "string ids": ("ratings.csv", b"userId,movieId,rating\nann,2,3\n", {},
        "where ids are text, columns says which"),
    "no header": ("ratings.csv", b"1,2,3\n", {}, "positions, such as data.columns.client = 1"),
    "a header": ("own.csv", b"userId,movieId,rating\n1,2,3\n", positions(1, 2, 3),
        "columns are given by its names"),
    "too few fields": ("own.csv", b"1,2\n", positions(1, 2, 3),
        r"line 1: must have a field 3 \(the rating\), has 2"),
    "positions in JSON": ("own.jsonl", b'{"u": 1}\n', positions(1, 2), "columns must be given by name"),
    "a field missing": ("own.jsonl", b'{"u": 1, "i": 2}\n{"u": 1}\n', named("u", "i"),
        "line 2: field 'i' .* has none"),
    "ids of two kinds": ("own.jsonl", b'{"u": 1, "i": 2}\n{"u": "a", "i": 2}\n', named("u", "i"),
                         "line 2: field 'u' .* must be text in all lines or a whole number in .*, got 'a'"),
    "no rating": ("own.jsonl", b'{"u": 1, "i": 2, "r": "x"}\n', named("u", "i", "r"),
        "line 1: .* finite number"),
    "no time": ("own.jsonl", b'{"u": 1, "i": 2, "t": "x"}\n', named("u", "i", time="t"),
        "line 1: .*: time must be"),
    "times of two forms": ("own.csv", b"u,i,t\n1,2,3\n1,3,2009-05-04\n", named("u", "i", time="t"),
                           "times must be all numbers, or all dates of one form"),
    "no JSON": ("own.jsonl", b'{"u": 1, "i": 2}\n{"u": 1, "i"\n', named("u", "i"),
        "line 2: must be an object of JSON"),
    "thousands of digits": ("own.jsonl", b'{"u": 1, "i": ' + b"9" * 6000 + b"}\n", named("u", "i"),
        "line 1: must be an object of JSON: a number must have at most 4,300 digits$"),
    "an empty id": ("own.tsv", b"ann\t\tsomebody\t3\n", positions(1, 2, 4),
        "line 1: item id must not be empty; another column"),
    "duplicate": ("own.jsonl", b'{"u": 1, "i": 2}\n\n{"u": 1, "i": 2}\n', named("u", "i"),
                  "line 3: client 1 must rate item 2 once, but did already on line 1"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_read_says_what_to_do(tmp_path, name):
    file, content, options, remedy = REFUSED[name]
    (tmp_path / file).write_bytes(content)
    with pytest.raises(DataError, match=remedy) as error:
        read_ratings(tmp_path / file, **options)
    assert str(error.value).startswith(str(tmp_path / file))
    assert "\n" not in str(error.value) and len(str(error.value)) < 500


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"separator": "/"}, r"separator must be one of ',', ';', .*, got '/'"),
        (
            {"encoding": "latin-99"},
            "encoding must be one that Python knows, such as utf-8 or latin-1, got 'latin-99'",
        ),
        ({"unrated": float("nan")}, "unrated must be a finite number, got nan"),
        (
            {"columns": {"client": 1, "item": "film"}},
            "columns must be names or, in a file without a header, positions",
        ),
        ({"columns": {"client": 0, "item": 1}}, "columns must be names, or positions from 1 on, got 0"),
    ],
)
def test_arguments(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        read_ratings(tmp_path, **options)


def test_a_decimal_comma_and_a_separator_that_is_given(tmp_path):
    path = tmp_path / "excel.csv"
    path.write_text("user;film;stars;note\n1;a;3,5;x,y\n2;b;4;\n1;b;0,5;\n")
    rows = [(1, "a", 3.5, None), (2, "b", 4, None), (1, "b", 0.5, None)]
    assert rows_of(read_ratings(path, **named("user", "film", "stars"))) == rows
    path.write_text("user|a;b;c;d\n1|x\n")
    assert rows_of(read_ratings(path, **named("user", "a;b;c;d"), separator="|")) == [(1, "x", None, None)]


@pytest.mark.parametrize("times", [("2009-05-04 23:08", "soon"), ("", "1"), ("1", "2009-05-04")])
def test_times_that_nobody_asked_for_stop_nothing(tmp_path, times):
    rows = "".join(f"1,{i},3,{time}\n" for i, time in enumerate(times))
    (tmp_path / "ratings.csv").write_text("userId,movieId,rating,timestamp\n" + rows)
    assert rows_of(read_ratings(tmp_path)) == [(1, i, 3, None) for i in range(len(times))]
    with pytest.raises(DataError, match="time"):
        read_ratings(tmp_path, **named("userId", "movieId", "rating", "timestamp"))


@pytest.mark.parametrize(
    ("texts", "times"),
    [
        (["978300760.0", "978300761"], [978300760, 978300761]),
        (["978300760.25", "978300761"], [978300760.25, 978300761]),
        (["2009-05-04", "1969-12-31"], [1241395200, -86400]),
        (["2009-05-04T23:08:57.5Z", "2009-05-04T23:08:57Z"], [1241478537.5, 1241478537]),
        (["2009-05-05T01:08:57+02:00", "1970-01-01T00:00:00Z"], [1241478537, 0]),
        (["Wed Aug 30 00:00:26 -0700 2017", "Thu Jan 01 00:00:00 +0000 1970"], [1504076426, 0]),
    ],
)
@pytest.mark.parametrize("form", ["csv", "jsonl", "parquet"])
def test_times(tmp_path, form, texts, times):
    path = tmp_path / f"own.{form}"
    rows = [{"u": 1, "i": i, "t": text} for i, text in enumerate(texts)]
    if form == "csv":
        path.write_text("u,i,t\n" + "".join(f"1,{i},{text}\n" for i, text in enumerate(texts)))
    elif form == "jsonl":
        path.write_text(lines(*rows))
    else:
        pq.write_table(pa.Table.from_pylist(rows), path)
    assert read_ratings(path, **named("u", "i", time="t")).time.tolist() == times
