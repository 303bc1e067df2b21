"""Packed files that hold more than they may: refused before they fill the memory."""

import gzip
import resource
import zipfile

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fedrecon.data._client_file.file import open_clients
from fedrecon.data._clients import Clients
from fedrecon.datasets.ratings._dataset import load
from fedrecon.datasets.ratings._load import read_ratings
from fedrecon.datasets.ratings._prepare import prepare
from fedrecon.datasets.text._load import read_user
from fedrecon.datasets.text._prepare import prepare as texts
from fedrecon.errors import DataError, UncheckedWarning
from fedrecon.experiment import config as configs
from fedrecon.experiment.tasks._spec import task_spec

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


def compressed_clients(path, codec):
    """A client file without checksums, as an earlier version wrote them, which another program compressed."""
    columns = {"item": np.zeros(100_000, np.int32), "rating": np.ones(100_000, np.float32)}
    Clients.from_columns(["a", "b"], [0, 60_000, 100_000], columns, {"item": ["x"]}).write(path)
    table = pa.ipc.open_file(path).read_all()
    metadata = {key: value for key, value in table.schema.metadata.items() if key != b"frame"}
    with pa.ipc.new_file(
        path,
        table.schema.with_metadata(metadata),
        options=pa.ipc.IpcWriteOptions(compression=codec),
    ) as file:
        file.write_table(table.slice(0, 1))
        file.write_table(table.slice(1))
    return path


@pytest.mark.parametrize("codec", ["lz4", "zstd"])
def test_a_compressed_client_file_has_a_limit(tmp_path, codec):
    path = compressed_clients(tmp_path / "clients.arrow", codec)
    assert path.stat().st_size < 20_000
    with pytest.warns(UncheckedWarning):
        assert Clients.open(path, unpacked_gib=8e-4)["b"]["rating"].sum() == 40_000
    rule = "clients.arrow: " + RULE.format("0.0007", "0.00074.")
    with pytest.raises(DataError, match=rule):
        Clients.open(path, unpacked_gib=7e-4)
    with pytest.raises(DataError, match=rule):
        load(path, seed=0, unpacked_gib=7e-4)
    settings = [f"data.path={path}", "data.unpacked_gib=7e-4"]
    for task in ("movielens", "ranking"):
        config = configs.load(None, [f"task={task}", *settings])
        with pytest.raises(DataError, match=rule):
            task_spec(task).open_client_file(config, path)
    with pytest.raises(DataError, match="must not be compressed"):
        open_clients(path)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.99])
def test_a_compressed_client_file_that_is_cut_is_a_data_error(tmp_path, share):
    path = compressed_clients(tmp_path / "clients.arrow", "zstd")
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(DataError, match="is no client file, or it is"):
        Clients.open(path)


def test_parquet_of_clients_has_a_limit(tmp_path):
    table = pa.table({"client": np.zeros(10**6, np.int32), "x": np.zeros(10**6, np.float32)})
    (tmp_path / "parts").mkdir()
    for path in (tmp_path / "clients.parquet", tmp_path / "parts" / "1.parquet"):
        pq.write_table(table, path)
    for path in (tmp_path / "clients.parquet", tmp_path / "parts"):
        with pytest.raises(DataError, match=f"{path.name}: " + RULE.format("0.007", "0.00745")):
            Clients.from_parquet(path, unpacked_gib=0.007)
        assert len(Clients.from_parquet(path, unpacked_gib=0.008)) == 1
    pq.write_table(table, tmp_path / "parts" / "2.parquet")
    with pytest.raises(DataError, match="parts: " + RULE.format("0.008", "0.0149")):
        Clients.from_parquet(tmp_path / "parts", unpacked_gib=0.008)
    dotted = table.rename_columns(["client", "review.x"])
    pq.write_table(dotted, tmp_path / "dotted.parquet")
    with pytest.raises(DataError, match="dotted.parquet: " + RULE.format("0.007", "0.00745")):
        Clients.from_parquet(tmp_path / "dotted.parquet", unpacked_gib=0.007)
    lists = pa.table({"client": [1], "x": pa.array([np.zeros(10**6, np.float32)])})
    pq.write_table(lists, tmp_path / "lists.parquet")
    with pytest.raises(DataError, match="lists.parquet: " + RULE.format("0.003", "0.00373")):
        Clients.from_parquet(tmp_path / "lists.parquet", unpacked_gib=0.003)


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
