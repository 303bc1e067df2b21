"""A log: what is added can be read, cut off and checked, and what lies behind its end does no harm."""

import numpy as np
import pytest

from fedrecon.simulation import _append_log as logs
from fedrecon.simulation._append_log import Log

TYPE = np.dtype([("client", np.uint64), ("x", np.float32, (3,))])


def records(*numbers):
    made = np.zeros(len(numbers), TYPE)
    made["client"], made["x"] = numbers, np.array(numbers)[:, None] + [0.1, 0.2, 0.3]
    return made


@pytest.fixture
def log(tmp_path):
    log = Log(tmp_path / "a.log", TYPE)
    log.append(records(5, 6))
    log.append(records(7, 2**63, 9))
    return log


def test_records_are_read_in_any_order(log):
    np.testing.assert_array_equal(log.read(np.array([3, 0, 3])), records(2**63, 5, 2**63))
    np.testing.assert_array_equal(log.column("client"), np.array([5, 6, 7, 2**63, 9], np.uint64))
    np.testing.assert_array_equal(log.column("x"), records(5, 6, 7, 2**63, 9)["x"])
    assert log.path.stat().st_size == 5 * TYPE.itemsize


def test_without_records_there_is_no_file(tmp_path):
    log = Log(tmp_path / "a.log", TYPE)
    assert log.read(np.arange(0)).shape == (0,)
    assert log.column("x").shape == (0, 3) and log.column("client").shape == (0,)
    assert log.checksum() == 0
    log.sync()
    assert not log.path.exists()


def test_cutting_changes_the_file_when_the_next_record_comes(log):
    before = log.path.read_bytes()
    log.cut(3)
    assert log.path.read_bytes() == before
    np.testing.assert_array_equal(log.column("client"), [5, 6, 7])
    log.append(records(1))
    assert log.path.read_bytes() == records(5, 6, 7, 1).tobytes()


def test_bytes_of_a_half_written_record_are_dropped(log):
    with open(log.path, "ab") as file:
        file.write(b"half a record")
    again = Log(log.path, TYPE, 4)
    again.append(records(1))
    np.testing.assert_array_equal(again.column("client"), np.array([5, 6, 7, 2**63, 1], np.uint64))


def test_the_checksum_is_that_of_the_content(log, monkeypatch):
    monkeypatch.setattr(logs, "_CHUNK", 2 * TYPE.itemsize + 1)
    assert log.checksum() == Log(log.path, TYPE, 5).checksum()
    whole = log.checksum()
    log.append(records(4))
    assert log.checksum() == Log(log.path, TYPE, 6).checksum() != whole
    log.cut(5)
    assert log.checksum() == whole
    log.append(records(8))
    assert log.checksum() not in (whole, Log(log.path, TYPE, 5).checksum())
    log.cut(2)
    log.append(records(7, 2**63, 9))
    assert log.checksum() == whole


def test_a_file_that_is_too_short_has_no_checksum(log):
    with pytest.raises(OSError, match="has fewer than 6 records of 20 bytes"):
        Log(log.path, TYPE, 6).checksum()


@pytest.mark.parametrize("size", [1, 10**6])
def test_a_copy_of_some_records(log, tmp_path, monkeypatch, size):
    monkeypatch.setattr(logs, "_CHUNK", size)
    (tmp_path / ".b.log.writing").write_bytes(b"left by a kill")
    copy = log.copied(tmp_path / "b.log", np.array([1, 4]))
    assert copy.count == 2
    np.testing.assert_array_equal(copy.column("client"), [6, 9])
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.log", "b.log"]
    none = log.copied(tmp_path / "c.log", np.arange(0))
    assert none.count == 0 and (tmp_path / "c.log").read_bytes() == b""
