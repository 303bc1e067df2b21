"""A folder of client files is the federation that one file would be."""

import shutil
import tracemalloc

import numpy as np
import pytest

from fedrecon.data._clients import Clients
from fedrecon.data._sampling import Uniform, cohort_of
from fedrecon.data._shards import columns as shard_columns
from fedrecon.data._shards import folder as folders
from fedrecon.data._shards.check import check_clients
from fedrecon.data._shards.digests import digest_of_set, has_digests
from fedrecon.data._shards.folder import index_shards, shards_of, write_shards
from fedrecon.data._shards.index import INDEX
from fedrecon.errors import DataError

IDS = {
    "integers": lambda n: [7 * i - 20 for i in range(n)],
    "texts": lambda n: [f"ü{i}" for i in range(n)],
    "both": lambda n: [*map(str, range(1, n)), "x"],
}


def made(ids=IDS["integers"], count=30, seed=0):
    """Clients of which some have no example, with numbers of several types and shapes."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(0, 9, count)
    total = int(lengths.sum())
    columns = {
        "item": rng.integers(0, 12, total),
        "rating": rng.integers(1, 11, total) / 2,
        "time": 1.7e9 + rng.random(total),
        "embedding": rng.random((total, 2, 3)).astype(np.float32),
        "liked": rng.random(total) < 0.5,
    }
    return Clients.from_columns(
        ids(count), np.concatenate([[0], np.cumsum(lengths)]), columns, {"item": [f"i{i}" for i in range(12)]}
    )


def content(clients):
    parts = [clients.ids, clients.keys, np.asarray(clients.num_examples, np.int64), clients.offsets]
    parts += [clients.column(name) for name in clients.fields]
    ids = {name: x.tolist() for name, x in clients.vocabularies.items()}
    return clients.fields, ids, [(str(x.dtype), x.shape, x.tolist()) for x in parts]


@pytest.fixture(params=IDS)
def both(tmp_path, request, monkeypatch):
    """The same clients in one file and in a folder, in the making of which pieces are small."""
    monkeypatch.setattr(folders, "_PIECE", 16)
    clients = made(IDS[request.param])
    clients.write(tmp_path / "one.arrow")
    write_shards(tmp_path / "four", clients, 4)
    return Clients.open(tmp_path / "one.arrow"), Clients.open(tmp_path / "four")


USES = {
    "all": lambda c: [c],
    "some": lambda c: [c.take([5, -1, 3, 5]), c.take(c.num_examples > 4), c.take([]), c.take([2]).take([0])],
    "split": lambda c: c.split({"train": 0.6, "test": 0.3}, 5).values(),
    "split again": lambda c: [c.split({"a": 0.5}, 1)["a"].split({"b": 0.5}, 2)["b"].cap(2)],
    "shuffled": lambda c: [c.shuffled(3), c.take([9, 1]).shuffled(3)],
    "sorted": lambda c: [c.sorted_by("time").cap(3), c.cap(1)],
    "changed": lambda c: [c.filter_examples(c.column("liked")), c.with_columns(item=11 - c.column("item"))],
    "fields": lambda c: [c.select("time", "item")],
    "pieces": lambda c: c.pieces(20),
}


@pytest.mark.parametrize("use", USES.values(), ids=USES)
def test_whatever_is_done_with_them_gives_the_same_clients(both, use):
    one, four = ([content(x) for x in use(clients)] for clients in both)
    assert one == four


def test_cohorts_are_laid_out_alike(both):
    one, four = both
    for number in range(5):
        cohort = cohort_of(Uniform(7), number, one.num_examples, 3)
        assert cohort.tolist() == cohort_of(Uniform(7), number, four.num_examples, 3).tolist()
        for field in one.fields:
            rows = [clients.padded(field, cohort, 10) for clients in both]
            assert rows[0].dtype == rows[1].dtype
            np.testing.assert_array_equal(*rows)
    assert repr(one) == repr(four)
    assert [one.field_stats(f) for f in one.fields] == [four.field_stats(f) for f in four.fields]
    name = one.ids.tolist()[3]
    assert {f: x.tolist() for f, x in one[name].items()} == {f: x.tolist() for f, x in four[name].items()}
    with pytest.raises(KeyError, match="no client has the id 'nobody'"):
        four["nobody"]


@pytest.mark.parametrize("clients", [made(), made().take([])], ids=["some", "nobody"])
@pytest.mark.parametrize("count", [1, 50])
def test_shards_may_be_more_than_clients(tmp_path, clients, count):
    write_shards(tmp_path / "many", clients, count)
    assert content(Clients.open(tmp_path / "many")) == content(clients)
    assert len(list((tmp_path / "many").iterdir())) == count + 1
    assert [path.name for path in tmp_path.iterdir()] == ["many"]


def test_a_client_s_shard_follows_from_its_key(tmp_path):
    clients = made()
    write_shards(tmp_path / "four", clients, 4)
    write_shards(tmp_path / "few", clients.take(range(0, 30, 3)), 4)
    names = sorted(path.name for path in (tmp_path / "four").glob("shard*"))
    for name in names:
        full, part = (set(Clients.open(tmp_path / x / name).ids.tolist()) for x in ("four", "few"))
        assert part == full & set(clients.ids[::3].tolist())
    counts = np.bincount(shards_of(made(count=4000).keys, 8), minlength=8)
    assert counts.min() > 400 and counts.max() < 600


def test_files_written_apart_are_one_federation_in_the_order_of_ids(tmp_path):
    clients = made(IDS["both"])
    for name, part in ("b", slice(0, 11)), ("a", slice(11, 30)):
        clients.take(np.arange(30)[part][::-1]).write(tmp_path / f"{name}.arrow")
    with pytest.raises(DataError, match=r"must have an index.arrow, which fedrecon.data.index_shards makes"):
        Clients.open(tmp_path)
    index_shards(tmp_path)
    assert content(Clients.open(tmp_path)) == content(clients)
    index_shards(tmp_path)  # again, as after a file was replaced
    assert content(Clients.open(tmp_path)) == content(clients)


# ---- digests -----------------------------------------------------------------------------------------------


def test_a_digest_needs_no_example(both, monkeypatch):
    one, four = both
    digests = {name: digest_of_set(use) for name, use in one.split({"a": 0.5, "b": 0.5}, 1).items()}
    capped = digest_of_set(one.cap(3))

    def refuse(*_):
        raise AssertionError("an example was read")

    with monkeypatch.context() as patch:
        patch.setattr(shard_columns.ShardFiles, "column", refuse)
        assert has_digests(four) and not has_digests(one)
        assert {n: digest_of_set(x) for n, x in four.split({"a": 0.5, "b": 0.5}, 1).items()} == digests
        with pytest.raises(AssertionError, match="an example was read"):
            digest_of_set(four.cap(3))
    assert digest_of_set(four.cap(3)) == capped
    assert not has_digests(four.shuffled(1))
    assert digest_of_set(four.shuffled(1)) == digest_of_set(one.shuffled(1))


CHANGES = {
    "a number": lambda c: c.with_columns(
        item=np.where(np.arange(c.offsets[-1]) == 5, 0, c.column("item") + 1)
    ),
    "its order": lambda c: c.sorted_by("time"),
    "a field": lambda c: c.select("item", "rating", "time", "embedding"),
    "clients": lambda c: c.take(range(29)),
    "their order": lambda c: c.take(range(29, -1, -1)),
    "examples": lambda c: c.cap(8 - 1),
    "a place": lambda c: c.with_columns(embedding=c.column("embedding")[:, ::-1].copy()),
    "a truth value": lambda c: c.with_columns(liked=~c.column("liked")),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_whatever_changes_changes_the_digest(change):
    clients = made()
    clients = clients.with_columns(item=clients.column("item") % 5)
    assert digest_of_set(clients) != digest_of_set(change(clients))


# ---- faults ------------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path):
    write_shards(tmp_path / "four", made(), 4)
    write_shards(tmp_path / "other", made(seed=1), 4)
    return tmp_path / "four"


def shard(folder, number):
    return folder / f"shard-0000{number}-of-00004.arrow"


def test_a_missing_shard_is_named_at_the_door(folder):
    shard(folder, 2).unlink()
    with pytest.raises(DataError, match=r"shard-00002-of-00004.arrow: this shard is missing; put it back"):
        Clients.open(folder)


def test_a_shard_of_another_conversion_is_named_at_the_door(folder):
    shutil.copy(shard(folder.parent / "other", 3), shard(folder, 3))
    with pytest.raises(DataError, match=r"shard-00003-of-00004.arrow: is a shard of another conversion"):
        Clients.open(folder)


def test_a_shard_that_is_replaced_later_is_noticed(folder):
    clients = Clients.open(folder)
    for number in range(1, 5):
        shutil.copy(shard(folder.parent / "other", number), shard(folder, number))
    with pytest.raises(DataError, match=r"arrow: is a shard of another conversion"):
        clients.column("item")


def test_a_file_too_many_is_named_at_the_door(folder):
    made(count=3).write(folder / "more.arrow")
    with pytest.raises(DataError, match=r"more.arrow: is no shard of the folder's index.arrow, which "):
        Clients.open(folder)


def test_a_client_is_in_one_shard(tmp_path):
    made(count=10).write(tmp_path / "a.arrow")
    made(count=3, seed=1).write(tmp_path / "b.arrow")
    with pytest.raises(DataError, match=r"client -20 must be in one shard, is in a.arrow and b.arrow"):
        index_shards(tmp_path)


def test_shards_have_the_same_fields_and_vocabularies(tmp_path):
    clients = made(count=10)
    clients.take(range(5)).write(tmp_path / "a.arrow")
    rest = clients.take(range(5, 10))
    rest.select("item", "time").write(tmp_path / "b.arrow")
    with pytest.raises(DataError, match=r"b.arrow: must have the fields of a.arrow, .*embedding.*, has"):
        index_shards(tmp_path)
    columns = {name: rest.column(name) for name in rest.fields}
    others = {"item": [f"j{i}" for i in range(12)]}
    Clients.from_columns(rest.ids, rest.offsets, columns, others).write(tmp_path / "b.arrow")
    with pytest.raises(DataError, match=r"b.arrow: must have the vocabulary of 'item' of a.arrow, 12 ids"):
        index_shards(tmp_path)
    with pytest.raises(DataError, match=r"must be a folder of client files \(\*.arrow\), holds none"):
        index_shards(tmp_path / "a.arrow")


def test_a_folder_is_written_whole_or_not_at_all(folder, monkeypatch):
    with pytest.raises(DataError, match="is there already: remove it, or name another folder"):
        write_shards(folder, made(), 2)
    with pytest.raises(ValueError, match="shards must be a whole number of at least 1, got 0"):
        write_shards(folder.parent / "new", made(), 0)

    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr(folders, "write_index", fail)
    with pytest.raises(OSError, match="disk full"):
        write_shards(folder.parent / "new", made(), 2)
    assert sorted(path.name for path in folder.parent.iterdir()) == ["four", "other"]


def flip(path, part):
    """Flips a bit of the last number of a part of the file."""
    content = bytearray(path.read_bytes())
    content[bytes(content).index(part) + len(part) - 1] ^= 4
    path.write_bytes(content)


def test_a_damaged_shard_is_noticed_where_it_is_read_and_by_a_check(folder):
    damaged = Clients.open(shard(folder, 3))
    flip(shard(folder, 3), damaged.column("item").tobytes())
    clients = Clients.open(folder)
    owners = shards_of(clients.keys, 4)
    for number in (0, 1, 3):
        clients.take(owners == number).column("item")
    with pytest.raises(DataError, match=r"shard-00003-of-00004.arrow: is damaged: some of field 'item'"):
        clients.take(owners == 2).column("item")
    found = {x.path.name: x.fault for x in check_clients(folder)}
    assert [name for name, fault in found.items() if fault] == [shard(folder, 3).name]
    assert "some of field 'item'" in found[shard(folder, 3).name] and len(found) == 5


@pytest.mark.parametrize("column", ["start", "key", "digest:rating"])
def test_a_damaged_index_is_noticed(folder, column):
    clients = Clients.open(folder)
    index = clients._starts.index
    flip(folder / INDEX, index.column(column).tobytes())
    if column.startswith("digest"):
        opened = Clients.open(folder)
        with pytest.raises(DataError, match=r"index.arrow: is damaged"):
            digest_of_set(opened)
        assert [x.path.name for x in check_clients(folder) if x.fault] == [
            INDEX, *(shard(folder, n).name for n in range(1, 5))
        ]  # fmt: skip
    else:
        with pytest.raises(DataError, match=r"index.arrow: is damaged"):
            Clients.open(folder)
        with pytest.raises(DataError, match=r"index.arrow: is damaged"):
            list(check_clients(folder))


def test_a_check_reads_everything(folder):
    found = list(check_clients(folder))
    assert [x.path.name for x in found] == [INDEX, *(shard(folder, n).name for n in range(1, 5))]
    assert sum(x.clients for x in found) == 30 and not any(x.fault for x in found)
    assert sum(x.examples for x in found) == made().offsets[-1]
    one = list(check_clients(shard(folder, 1)))
    assert [(x.path, x.fault) for x in one] == [(shard(folder, 1), None)]
    shard(folder, 1).unlink()
    shutil.copy(shard(folder, 4), folder / "more.arrow")
    faults = [x.fault for x in check_clients(folder) if x.fault]
    assert len(faults) == 2 and "this shard is missing" in faults[0] and "is no shard" in faults[1]
    with pytest.raises(DataError, match="there is no such client file or folder"):
        list(check_clients(folder / "none"))


# ---- memory ------------------------------------------------------------------------------------------------


def test_a_client_takes_sixteen_bytes_of_memory(tmp_path):
    """With `Uniform` and a split; what is mapped from the index is the operating system's to keep."""
    count = 200_000
    clients = Clients.from_columns(
        np.arange(count), np.arange(count + 1), {"item": np.zeros(count, np.int32)}, {"item": ["a"]}
    )
    write_shards(tmp_path / "many", clients, 2)
    tracemalloc.start()
    try:
        opened = Clients.open(tmp_path / "many")
        sets = opened.split({"train": 0.8, "validation": 0.1, "test": 0.1}, 0)
        tracemalloc.reset_peak()
        start = tracemalloc.get_traced_memory()[0]
        del opened
        train = sets["train"]
        for number in range(3):
            cohort = cohort_of(Uniform(10), number, train.num_examples, 0)
            train.padded("item", cohort, 2)
            assert train.keys[cohort].shape == (10,)
        for x in sets.values():
            digest_of_set(x)
        kept, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert kept / count < 16.5
    assert (peak - start) / count < 40
