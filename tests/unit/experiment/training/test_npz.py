"""Parameters from files that may be somebody else's."""

import zipfile

import jax
import numpy as np
import pytest

from fedrecon.errors import RunError
from fedrecon.experiment.training.npz import read_npz

WANTED = {"item/factors": jax.ShapeDtypeStruct((3, 2), np.float32)}


def test_only_the_wanted_arrays_are_read(tmp_path):
    path = tmp_path / "start.npz"
    np.savez(path, **{"item/factors": np.ones((3, 2), np.float32), "other": np.array([object()])})
    arrays, there = read_npz(path, WANTED, "start")
    assert list(arrays) == ["item/factors"] and arrays["item/factors"].shape == (3, 2)
    assert there == ["item/factors", "other"]
    assert read_npz(path, {"bias": WANTED["item/factors"]}, "start") == ({}, there)


def test_an_array_that_unpacks_to_much_more_is_refused_unread(tmp_path, monkeypatch):
    path = tmp_path / "start.npz"
    np.savez_compressed(path, **{"item/factors": np.zeros(1_000_000)})
    assert path.stat().st_size < 20_000
    monkeypatch.setattr(np, "load", None)
    with pytest.raises(RunError, match=r"item/factors must be of shape \(3, 2\), got 8,000,128 bytes"):
        read_npz(path, WANTED, "start")


def test_what_is_no_such_file_is_told(tmp_path):
    path = tmp_path / "start.npz"
    np.savez(path, **{"item/factors": np.ones((3, 2), np.float32)})
    whole = path.read_bytes()
    array = tmp_path / "a.npy"
    np.save(array, np.ones(3))
    with zipfile.ZipFile(tmp_path / "objects.npz", "w") as archive:
        archive.writestr("item/factors.npy", b"no array")
    for content in (
        whole[:-30],
        b"PK\x03\x04",
        b"",
        array.read_bytes(),
        (tmp_path / "objects.npz").read_bytes(),
    ):
        path.write_bytes(content)
        with pytest.raises(
            RunError, match=r"start\.npz: start cannot be read: it is no \.npz file, or damaged"
        ):
            read_npz(path, WANTED, "start")
    at = whole.index(np.ones(2, np.float32).tobytes())
    path.write_bytes(whole[:at] + b"\x01" + whole[at + 1 :])
    with pytest.raises(RunError, match="or damaged"):
        read_npz(path, WANTED, "start")
    with pytest.raises(RunError, match="cannot be read: No such file"):
        read_npz(tmp_path / "none.npz", WANTED, "start")
