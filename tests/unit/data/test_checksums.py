"""No byte of a client file changes without being noticed, and what is cached is then made anew."""

import json
import time
import warnings

import numpy as np
import pyarrow as pa
import pytest

from fedrecon.data._cache import load_or_convert
from fedrecon.data._client_file.checksums import CHUNK
from fedrecon.data._clients import Clients
from fedrecon.errors import DataError, UncheckedWarning

EXAMPLES = 3 * CHUNK // 4 + 17  # int32: four chunks, the last of which is short


def made(texts=False):
    rng = np.random.default_rng(0)
    ends = np.sort(rng.integers(0, EXAMPLES, 99))
    ids = [f"user {i}" for i in range(100)] if texts else np.arange(100) * 7
    columns = {
        "item": rng.integers(0, 50, EXAMPLES).astype(np.int32),
        "liked": rng.random(EXAMPLES) < 0.5,
        "vector": rng.normal(size=(EXAMPLES, 3)).astype(np.float32),
    }
    words = np.array([f"item {i}" for i in range(50)], object)
    return Clients.from_columns(ids, [0, *ends, EXAMPLES], columns, {"item": words})


def content(clients):
    """All that clients hold, as values that compare."""
    return (
        clients.ids.tolist(),
        clients.keys.tolist(),
        clients.num_examples.tolist(),
        {name: (x.dtype.str, x.tobytes()) for name in clients.fields for x in [clients.column(name)]},
        {name: ids.tolist() for name, ids in clients.vocabularies.items()},
        {name: clients.field_stats(name) for name in clients.fields},
    )


def flip(path, place, bit=0):
    data = bytearray(path.read_bytes())
    data[place] ^= 1 << bit
    path.write_bytes(data)


READS = {
    "column": lambda c: c.column("item"),
    "one client": lambda c: c[c.ids.tolist()[99]],
    "padded": lambda c: c.padded("item", np.array([99]), 10**5),
    "taken": lambda c: c.take([99]).column("item"),
    "in another order": lambda c: c.take([99, 3]).column("item"),
    "filtered": lambda c: c.filter_examples(np.ones(EXAMPLES, bool)),
    "shuffled": lambda c: c.shuffled(0),
    "sorted": lambda c: c.sorted_by("item"),
    "written": lambda c: c.take([5, 99]).column("item"),
}


@pytest.mark.parametrize("read", READS.values(), ids=READS)
def test_a_changed_number_is_noticed_by_whatever_reads_it(tmp_path, read):
    path = tmp_path / "c.arrow"
    clients = made()
    clients.write(path)
    last = clients.column("item")[-64:].tobytes()
    flip(path, path.read_bytes().index(last) + len(last) - 4)
    opened = Clients.open(path)
    opened[0]  # in another chunk
    for _ in range(2):
        with pytest.raises(DataError, match=r"c\.arrow: is damaged: some of field 'item'"):
            read(opened)


@pytest.mark.parametrize("texts", [False, True])
def test_any_flipped_bit_is_noticed_or_harmless(tmp_path, texts):
    path = tmp_path / "c.arrow"
    made(texts).write(path)
    good, right = path.read_bytes(), content(Clients.open(path))
    rng = np.random.default_rng(1)
    metadata = [good.index(b"vocabularies"), good.rindex(b"vocabularies")]
    places = [*rng.integers(0, len(good), 60), *range(len(good) - 1200, len(good), 29)]
    places += [m + d for m in metadata for d in range(-60, 3000, 61)]
    messages = []
    for place in places:
        data = bytearray(good)
        data[min(place, len(good) - 1)] ^= 1 << int(rng.integers(8))
        (tmp_path / "bad.arrow").write_bytes(data)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                assert content(Clients.open(tmp_path / "bad.arrow")) == right, place
        except (DataError, UncheckedWarning) as error:
            messages.append(str(error))
    assert len(messages) > len(places) / 3
    assert all("bad.arrow" in message for message in messages)


def test_ranges_that_lie_are_noticed(tmp_path):
    path = tmp_path / "c.arrow"
    made().write(path)
    reader = pa.ipc.open_file(str(path))
    table = reader.read_all()
    metadata = dict(table.schema.metadata)
    facts = json.loads(metadata[b"facts"])
    facts["item"][0] = 3
    metadata[b"facts"] = json.dumps(facts).encode()
    with pa.ipc.new_file(str(path), table.schema.with_metadata(metadata)) as writer:
        writer.write_table(table.replace_schema_metadata(metadata))
    with pytest.raises(DataError, match="it is damaged"):
        Clients.open(path)


def without_checksums(path):
    """A client file as version 0.1.0 wrote it, with ranges that are not those of its numbers."""
    table = pa.ipc.open_file(str(path)).read_all()
    metadata = {n: x for n, x in table.schema.metadata.items() if n in (b"format", b"vocabularies")}
    metadata[b"facts"] = json.dumps({"item": [10, 12, False]}).encode()
    with pa.ipc.new_file(str(path), table.schema.with_metadata(metadata)) as writer:
        writer.write_table(table.replace_schema_metadata(metadata))


def test_an_old_file_opens_with_one_warning_and_its_ranges_are_read_again(tmp_path):
    path = tmp_path / "c.arrow"
    clients = made()
    clients.write(path)
    without_checksums(path)
    with pytest.warns(UncheckedWarning, match=r"c\.arrow: not checked") as warned:
        opened = Clients.open(path)
    assert len(warned) == 1
    assert content(opened) == content(clients)


def cached(folder, conversions, clients=None):
    def convert():
        conversions.append(1)
        return made() if clients is None else clients

    return load_or_convert(
        convert, kind="test", facts=1, fingerprint=lambda: "mark", where="source", folder=folder
    )


@pytest.mark.parametrize("damage", ["number", "metadata", "cut", "old"])
def test_a_damaged_cache_is_made_anew(tmp_path, damage):
    right, conversions = content(made()), []
    assert content(cached(tmp_path, conversions)) == right
    assert content(cached(tmp_path, conversions)) == right
    assert len(conversions) == 1
    (path,) = tmp_path.glob("*.arrow")
    good = path.read_bytes()
    if damage == "number":
        flip(path, good.index(made().column("item")[:64].tobytes()) + 8)
    elif damage == "metadata":
        flip(path, good.rindex(b"vocabularies") + 40, 7)
    elif damage == "cut":
        path.write_bytes(good[: len(good) // 2])
    else:
        without_checksums(path)
    clients = cached(tmp_path, conversions)
    part = clients.take([1, 5])  # shares the columns
    assert content(clients) == right
    assert len(conversions) == 2
    assert content(part)[0] == right[0][1:6:4]
    assert path.read_bytes() == good


def test_a_damaged_cache_whose_source_gives_other_data_by_now_is_an_error(tmp_path):
    cached(tmp_path, [])
    (path,) = tmp_path.glob("*.arrow")
    flip(path, path.read_bytes().index(made().column("item")[:64].tobytes()) + 8)
    clients = cached(tmp_path, [], made().take(range(50)))
    with pytest.raises(DataError, match="its source holds other data now"):
        clients.column("item")


@pytest.mark.slow
def test_opening_a_large_file_does_not_read_it(tmp_path):
    columns = {"item": np.zeros(50_000_000, np.int32), "rating": np.zeros(50_000_000, np.float32)}
    path = tmp_path / "c.arrow"
    Clients.from_columns(np.arange(6040), np.linspace(0, 50_000_000, 6041).astype(int), columns).write(path)
    times = []
    for _ in range(5):
        start = time.perf_counter()
        Clients.open(path)
        times.append(time.perf_counter() - start)
    assert min(times) < 0.02
