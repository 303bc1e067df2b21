"""The store of what clients keep: the last word counts, and any committed state can be gone back to."""

import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedrecon.errors import DataError
from fedrecon.simulation import _client_state_store as module
from fedrecon.simulation._client_state_store import ClientStateStore, StoredClientState

KEYS = np.array([70, 10, 2**63 + 5, 40, 30], np.uint64)
LIKE = {"user": jax.ShapeDtypeStruct((2,), jnp.float32), "bias": jax.ShapeDtypeStruct((), jnp.bfloat16)}


def value(*numbers, places=None):
    """What clients keep, in blocks of one, places left free at the end."""
    x = np.array([*numbers, *[-1] * ((places or len(numbers)) - len(numbers))], np.float32)
    return {"user": jnp.asarray(x[:, None, None] + np.array([0, 0.5])), "bias": jnp.bfloat16(x[:, None])}


def content(client_states, keys=KEYS):
    stored = client_states.get(keys, len(keys))
    np.testing.assert_array_equal(stored.value["user"][:, 1] - 0.5 * stored.seen, stored.value["user"][:, 0])
    np.testing.assert_array_equal(stored.value["user"][:, 0], stored.value["bias"].astype(np.float32))
    assert stored.value["bias"].dtype == jnp.bfloat16
    return [float(x) if s else None for x, s in zip(stored.value["bias"], stored.seen, strict=True)]


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "kept"


@pytest.fixture
def client_states(folder):
    client_states = ClientStateStore(LIKE, KEYS, folder)
    client_states.put(0, KEYS[[0, 2]], value(1, 2))
    client_states.put(1, KEYS[[2, 4]], value(3, 4, places=3))
    return client_states


def test_the_last_value_of_a_client_counts(client_states):
    assert content(client_states) == [1, None, 3, None, 4]
    stored = client_states.get(KEYS[[4, 1]], 4)
    assert isinstance(stored, StoredClientState)
    assert stored.seen.tolist() == [True, False, False, False]
    assert stored.value["user"].shape == (4, 2)


def test_strangers_keep_nothing(client_states):
    strangers = np.array([3, 2**64 - 1], np.uint64)
    assert content(client_states, np.append(strangers, KEYS[:1])) == [None, None, 1]
    assert not client_states.knows(strangers)
    assert client_states.knows(np.append(strangers, KEYS[1]))
    client_states.put(2, strangers, value(1, 1))
    with pytest.raises(ValueError, match="only clients of the population"):
        content(client_states)


def test_going_back_by_rounds(client_states):
    content(client_states)
    client_states.put(2, KEYS[[0]], value(9))
    client_states.rewind(2)  # what is not fetched yet
    assert content(client_states) == [1, None, 3, None, 4]
    client_states.rewind(1)
    assert content(client_states) == [1, None, 2, None, None]
    client_states.put(1, KEYS[[3]], value(5))
    assert content(client_states) == [1, None, 2, 5, None]
    client_states.rewind(0)
    assert content(client_states) == [None] * 5


def test_a_committed_state_is_restored_whatever_came_after(client_states, folder):
    mark = client_states.commit(2)
    client_states.put(2, KEYS[[0, 1]], value(7, 8))
    assert content(client_states) == [7, 8, 3, None, 4]
    with open(folder / mark["file"], "ab") as file:
        file.write(b"x" * 13)  # a record that a kill cut short
    before = (folder / mark["file"]).read_bytes()
    again = ClientStateStore(LIKE, KEYS[::-1], folder)
    again.restore(mark)
    assert content(again) == [1, None, 3, None, 4]
    assert (folder / mark["file"]).read_bytes() == before  # reading changes nothing
    again.put(2, KEYS[[3]], value(6))
    assert again.commit(3) != mark
    assert content(again) == [1, None, 3, 6, 4]
    again.restore(None)
    assert content(again) == [None] * 5


def test_a_commit_of_an_earlier_round_forgets_the_later_one(client_states):
    mark = client_states.commit(1)
    assert mark["records"] == 2
    client_states.restore(mark)
    assert content(client_states) == [1, None, 2, None, None]


def test_a_mark_is_json_and_equal_states_have_equal_marks(client_states, tmp_path):
    import json

    other = ClientStateStore(LIKE, KEYS, tmp_path / "other")
    other.put(0, KEYS[[0, 2]], value(1, 2))
    content(other)
    other.put(1, KEYS[[2, 4]], value(3, 4))
    assert json.loads(json.dumps(client_states.commit(2))) == other.commit(2)


def test_a_damaged_log_is_refused(client_states, folder):
    mark = client_states.commit(2)
    path = folder / mark["file"]
    good = path.read_bytes()
    again = ClientStateStore(LIKE, KEYS, folder)
    path.write_bytes(good[:-1])
    with pytest.raises(DataError, match=r"0\.log: what clients keep is cut short: 103 of 104 bytes"):
        again.restore(mark)
    path.write_bytes(good[:50] + bytes([good[50] ^ 1]) + good[51:])
    with pytest.raises(DataError, match=r"0\.log: what clients keep is not what was written"):
        again.restore(mark)
    path.unlink()
    with pytest.raises(DataError, match="cut short: 0 of 104"):
        again.restore(mark)
    other = ClientStateStore({"user": jax.ShapeDtypeStruct((3,), jnp.float32)}, KEYS, folder)
    with pytest.raises(
        DataError, match=r"keep bfloat16\[\], float32\[2\] there and float32\[3\] in this run"
    ):
        other.restore(mark)


@pytest.fixture
def eager(monkeypatch):
    """Logs are written anew as soon as most of them is outdated."""
    monkeypatch.setattr(module, "_WORTH", 1)


def test_an_outdated_log_is_written_anew_and_the_old_one_stays_while_it_is_needed(
    client_states, folder, eager
):
    first = client_states.commit(2)
    assert first["file"] == "0.log"
    for round in range(2, 6):
        client_states.put(round, KEYS[[0, 4]], value(10 + round, 20 + round))
    second = client_states.commit(6)
    assert (second["file"], second["records"], second["since"]) == ("1.log", 3, 6)
    client_states.remove_all_but([first, second])
    assert sorted(os.listdir(folder)) == ["0.log", "1.log"]
    assert content(client_states) == [15, None, 3, None, 25]
    client_states.put(6, KEYS[[1]], value(8))
    for mark, wanted in ((first, [1, None, 3, None, 4]), (second, [15, None, 3, None, 25])):
        again = ClientStateStore(LIKE, KEYS, folder)
        again.restore(mark)
        assert content(again) == wanted
    client_states.remove_all_but([second])
    assert os.listdir(folder) == ["1.log"]
    with pytest.raises(ValueError, match="kept after 5 rounds is known no more, only since round 6"):
        client_states.rewind(5)
    client_states.rewind(6)
    assert content(client_states) == [15, None, 3, None, 25]
    client_states.rewind(0)
    assert content(client_states) == [None] * 5
    client_states.put(0, KEYS[[1]], value(2))
    client_states.put(1, KEYS[[1]], value(3))
    client_states.rewind(1)
    assert content(client_states) == [None, 2, None, None, None]


def test_a_temporary_store_does_not_outgrow_its_clients_and_goes_with_its_owner(eager):
    client_states = ClientStateStore(LIKE, KEYS)
    for round in range(20):
        client_states.put(round, KEYS, value(*range(round, round + 5)))
        assert content(client_states) == list(range(round, round + 5))
    folder = client_states._folder
    (path,) = folder.iterdir()
    assert path.stat().st_size < 3 * 5 * client_states.dtype.itemsize
    del client_states
    assert not folder.exists()


def test_a_held_state_can_be_read_beside_the_present_one(tmp_path, eager):
    for folder in (None, tmp_path / "kept"):
        client_states = ClientStateStore(LIKE, KEYS, folder)
        assert content(client_states.at(client_states.commit(0))) == [None] * 5
        client_states.put(0, KEYS[[0, 1]], value(1, 2))
        mark = client_states.mark(1)
        client_states.hold(mark)
        for round in range(1, 6):
            client_states.put(round, KEYS[[1, 2]], value(round, round))
            assert content(client_states.at(mark)) == [1, 2, None, None, None]
            assert content(client_states) == [1, round, round, None, None]
            client_states.commit(round + 1)
            client_states.remove_all_but([])
        then = client_states.at(mark)
        files = set(os.listdir(client_states._folder))
        assert mark["file"] in files and len(files) == 2
        client_states.hold(None)
        client_states.remove_all_but([])
        assert mark["file"] not in os.listdir(client_states._folder)
        del client_states
        with pytest.raises(FileNotFoundError):
            content(then)


def test_memory_does_not_grow_with_what_is_kept(folder, run_python):
    """A store of 400 MB, of which a process reads and writes all: it never holds more than a part."""
    code = f"""
import pathlib
import jax, numpy as np
from fedrecon.experiment.storage.resource_usage import peak_memory
from fedrecon.simulation._client_state_store import ClientStateStore
keys = np.arange(400, dtype=np.uint64)
like = jax.ShapeDtypeStruct((2**18,), np.float32)
client_states = ClientStateStore(like, keys, pathlib.Path({str(folder)!r}))
before = peak_memory()
for start in range(0, 400, 10):
    client_states.put(start, keys[start:start + 10], np.ones((1, 10, 2**18), np.float32))
    client_states.get(keys[start:start + 10], 10)
mark = client_states.commit(400)
client_states.restore(mark)
assert client_states.get(keys[::100], 4).seen.all()
print(mark["records"], peak_memory() - before)
"""
    records, grown = map(int, run_python(code).split())
    assert records == 400
    assert grown < 150_000_000


def test_another_process_adopts_a_state(client_states):
    mark = client_states.commit(1)
    other = ClientStateStore(LIKE, KEYS)
    other.adopt(mark, client_states.records(mark))
    other.restore(mark)
    assert content(other) == [1, None, 2, None, None]
    other.put(1, KEYS[[3]], value(5))
    assert content(other) == [1, None, 2, 5, None]
