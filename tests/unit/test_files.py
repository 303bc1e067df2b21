"""Files that are whole or not there, names that are on the disk, and locks that end with their process."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from fedrecon import Clients
from fedrecon._files import atomic_file, leftovers, lock, make_folder, remove, sync_folder, write_atomically
from fedrecon.simulation._append_log import Log


@pytest.fixture
def calls(monkeypatch):
    """What is synced and renamed, in order; files and folders by the last part of their path."""
    seen = []
    sync, replace = os.fsync, os.replace

    def traced_sync(handle):
        seen.append(("sync", Path(os.readlink(f"/proc/self/fd/{handle}")).name))
        sync(handle)

    def traced_replace(source, target):
        seen.append(("rename", Path(target).name))
        replace(source, target)

    monkeypatch.setattr(os, "fsync", traced_sync)
    monkeypatch.setattr(os, "replace", traced_replace)
    return seen


linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="names of open files are Linux's")


@linux
def test_a_file_is_synced_before_its_name_and_the_name_after(tmp_path, calls):
    write_atomically(tmp_path / "file", "text")
    assert calls == [("sync", ".file.writing"), ("rename", "file"), ("sync", tmp_path.name)]
    assert [p.name for p in tmp_path.iterdir()] == ["file"] and (tmp_path / "file").read_text() == "text"


@linux
def test_the_name_of_a_client_file_is_synced(tmp_path, calls):
    Clients.from_arrays({1: {"x": [1.0]}}).write(tmp_path / "clients.arrow")
    assert calls == [("sync", "clients"), ("rename", "clients.arrow"), ("sync", tmp_path.name)]


@linux
def test_the_name_of_a_copied_log_is_synced(tmp_path, calls):
    log = Log(tmp_path / "a.log", np.dtype([("x", np.int32)]))
    log.append(np.zeros(3, log.dtype))
    log.copied(tmp_path / "b.log", np.arange(2))
    assert calls[-2:] == [("rename", "b.log"), ("sync", tmp_path.name)]
    assert ("sync", ".b.log.writing") in calls


@linux
def test_names_of_new_folders_are_synced(tmp_path, calls):
    make_folder(tmp_path / "a" / "b")
    assert calls == [("sync", "a"), ("sync", tmp_path.name)]
    make_folder(tmp_path / "a" / "b")
    assert len(calls) == 2


def test_a_block_that_fails_leaves_the_old_content(tmp_path):
    path = tmp_path / "file"
    path.write_text("old")

    def write_half():
        with atomic_file(path) as file:
            file.write(b"new")
            raise KeyError

    with pytest.raises(KeyError):
        write_half()
    assert path.read_text() == "old"
    assert [p.name for p in leftovers(tmp_path)] == [".file.writing"]


def test_a_write_that_fails_leaves_the_old_content(tmp_path, monkeypatch):
    path = tmp_path / "file"
    write_atomically(path, "old")

    def fail(handle):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="No space left"):
        write_atomically(path, "new")
    assert path.read_text() == "old"


def test_removing_goes_by_another_name(tmp_path, monkeypatch):
    folder = tmp_path / "5"
    folder.mkdir()

    def die(path):
        raise KeyboardInterrupt

    monkeypatch.setattr("shutil.rmtree", die)
    with pytest.raises(KeyboardInterrupt):
        remove(folder)
    assert not folder.exists()
    monkeypatch.undo()
    (left,) = leftovers(tmp_path)
    remove(left)
    assert list(tmp_path.iterdir()) == []


def test_a_file_system_that_syncs_no_folders_is_no_error(tmp_path, monkeypatch):
    def refuse(handle):
        raise OSError(22, "Invalid argument")

    monkeypatch.setattr(os, "fsync", refuse)
    sync_folder(tmp_path)

    def fail(handle):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="Input/output error"):
        sync_folder(tmp_path)


HOLDER = """
import sys, time
from pathlib import Path
from fedrecon._files import lock
held = lock(Path(sys.argv[1]))
print("held", flush=True)
time.sleep(600)
"""


def test_a_lock_ends_with_its_process_however_that_ends(tmp_path):
    path = tmp_path / ".lock"
    holder = subprocess.Popen([sys.executable, "-c", HOLDER, str(path)], stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(BlockingIOError, match="is locked by another process"):
            lock(path)
    finally:
        holder.kill()
        holder.communicate()
    if os.name != "nt":
        assert holder.returncode == -signal.SIGKILL
    assert path.exists()
    lock(path).release()
    assert path.exists()


def test_a_lock_is_one_for_all_of_a_process(tmp_path):
    held = lock(tmp_path / ".lock")
    with pytest.raises(BlockingIOError):
        lock(tmp_path / ".lock")
    held.release()
    lock(tmp_path / ".lock").release()


def test_programs_that_lock_by_flock_are_kept_out(tmp_path):
    fcntl = pytest.importorskip("fcntl", reason="flock is of Unix")
    held = lock(tmp_path / ".lock")
    with open(tmp_path / ".lock", "a") as file:
        with pytest.raises(BlockingIOError):
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        held.release()
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        with pytest.raises(BlockingIOError):
            lock(tmp_path / ".lock")


@pytest.mark.parametrize("code", [38, 37, 95], ids=["ENOSYS", "ENOLCK", "ENOTSUP"])
def test_a_file_system_without_locks_is_an_error_and_no_lock_that_a_kill_leaves(tmp_path, monkeypatch, code):
    fcntl = pytest.importorskip("fcntl", reason="flock is of Unix")

    def refuse(handle, operation):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(fcntl, "flock", refuse)
    with pytest.raises(OSError, match=os.strerror(code)):
        lock(tmp_path / ".lock")
    monkeypatch.undo()
    lock(tmp_path / ".lock").release()


def test_filelock_is_imported_by_who_locks(run_python):
    code = "import sys, fedrecon._files\nprint('filelock' in sys.modules)"
    assert run_python(code).strip() == "False"
