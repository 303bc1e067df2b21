"""Packed files that hold more than they may: refused before they fill the memory."""

import gzip
import resource
import zipfile

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fedrecon.datasets.ratings._load import read_ratings
from fedrecon.datasets.ratings._prepare import prepare
from fedrecon.datasets.text._load import read_user
from fedrecon.datasets.text._prepare import prepare as texts
from fedrecon.errors import DataError

RULE = r"must unpack to at most {} GiB, it unpacks to {} or more; if that is right, unpacked_gib, the setting"
SMALL = 1e-4  # GiB, 107 kB
COLUMNS = {"client": "user", "item": "item", "rating": "stars"}


def held():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10


def zipped(path, size):
    line = b"1,2,3.0,4\n"
    with (
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive,
        archive.open("ratings.csv", "w") as member,
    ):
        member.write(b"userId,movieId,rating,timestamp\n")
        for _ in range(size // 10 // 2**20 + 1):
            member.write(line * min(2**20, size // 10))
    return path


def test_an_archive_has_a_limit(tmp_path):
    path = zipped(tmp_path / "large.zip", 400 * 2**20)
    before = held()
    with pytest.raises(DataError, match="large.zip/ratings.csv: " + RULE.format("0.25", "0.4")):
        read_ratings(path, unpacked_gib=0.25)
    with pytest.raises(DataError, match=RULE.format("0.25", "0.4")):
        prepare(path, unpacked_gib=0.25, cache=tmp_path)
    assert path.stat().st_size < 2**24 and held() - before < 2**27
    small = zipped(tmp_path / "small.zip", 200_000)
    with pytest.raises(DataError, match=RULE.format("0.0001", "0.00[0-9]*")):
        read_ratings(small, unpacked_gib=SMALL, duplicates="last")
    assert len(read_ratings(small, unpacked_gib=2 * SMALL, duplicates="last").rating) == 1


def test_a_line_of_a_gzip_file_has_a_limit(tmp_path):
    path = tmp_path / "one_line.jsonl.gz"
    with gzip.open(path, "wb") as file:
        file.write(b'{"client": "a", "text": ["')
        for _ in range(300):
            file.write(b"word " * 200_000)
        file.write(b'"]}\n')
    before = held()
    with pytest.raises(DataError, match="one_line.jsonl.gz: " + RULE.format("0.01", "0.01")):
        texts(path, unpacked_gib=0.01, cache=tmp_path)
    with pytest.raises(DataError, match=RULE.format("0.01", "0.01")):
        read_user(path, 0.01)
    assert held() - before < 2**27


def test_many_lines_of_a_gzip_file_have_one_limit(tmp_path):
    lines = [f'{{"client": "c{i}", "text": ["{"word " * 1000}"]}}\n' for i in range(100)]
    with gzip.open(tmp_path / "lines.jsonl.gz", "wt") as file:
        file.writelines(lines)
    (tmp_path / "lines.jsonl").write_text("".join(lines))
    with pytest.raises(DataError, match=RULE.format("0.0001", "0.0001")):
        texts(tmp_path / "lines.jsonl.gz", unpacked_gib=SMALL, cache=tmp_path)
    for path, most in (("lines.jsonl.gz", 10 * SMALL), ("lines.jsonl", SMALL)):  # the latter is not packed
        assert len(texts(tmp_path / path, unpacked_gib=most, cache=tmp_path)) == 100


def test_parquet_has_a_limit(tmp_path):
    count = 10**5
    table = {"user": np.zeros(count, np.int64), "item": np.arange(count), "stars": np.ones(count)}
    path, more = tmp_path / "ratings.parquet", np.random.default_rng(0).random(count)
    pq.write_table(pa.table({**table, "more": more}), path)
    with pytest.raises(DataError, match="ratings.parquet: " + RULE.format("0.001", "0.00[0-9]*")):
        read_ratings(path, columns=COLUMNS, unpacked_gib=0.001)
    assert len(read_ratings(path, columns=COLUMNS, unpacked_gib=0.003).rating) == count
    words = {"client": ["a"] * 1000, "text": ["word " * 1000] * 1000}
    pq.write_table(pa.table(words), tmp_path / "texts.parquet", use_dictionary=False)
    with pytest.raises(DataError, match="texts.parquet: " + RULE.format("0.0001", "0.00[0-9]*")):
        texts(tmp_path / "texts.parquet", unpacked_gib=SMALL, cache=tmp_path)
    assert len(texts(tmp_path / "texts.parquet", cache=tmp_path)) == 1


@pytest.mark.parametrize("limit", [0, -1.0, float("nan"), float("inf"), True])
def test_limits_out_of_range(tmp_path, limit):
    for read in (read_ratings, prepare, texts):
        with pytest.raises(ValueError, match="unpacked_gib must be positive and finite, got"):
            read(zipped(tmp_path / "a.zip", 100) if read is not texts else tmp_path, unpacked_gib=limit)
