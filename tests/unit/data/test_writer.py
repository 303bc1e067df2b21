"""Client files in pieces, what kills leave of them, and what is known of fields without reading them."""

import os
import signal
import subprocess
import sys

import numpy as np
import pyarrow
import pytest

from fedrecon import Clients
from fedrecon.data._client_file.file import is_client_file
from fedrecon.data._client_file.writer import ClientWriter
from fedrecon.data._field_stats import NONE, FieldStats, measured, merged
from fedrecon.errors import DataError
from fedrecon.experiment.training.run_spec import digest


def clients(lengths, first=0, seed=0):
    rng = np.random.default_rng(seed)
    return Clients.from_arrays(
        {
            first + i: {
                "item": rng.choice(50, n, replace=False).astype(np.int32) + 3,
                "image": rng.normal(size=(n, 2, 3)).astype(np.float32),
            }
            for i, n in enumerate(lengths)
        }
    )


def test_pieces_are_one_file(tmp_path):
    parts = [clients([3, 0, 7]), clients([0, 2], first=3), clients([1], first=5, seed=1)]
    path = tmp_path / "clients.arrow"
    with ClientWriter(path, {"item": np.arange(60)}) as writer:
        for part in parts:
            writer.add(part)
    found = Clients.open(path)
    assert found.ids.tolist() == list(range(6)) and found.num_examples.tolist() == [3, 0, 7, 0, 2, 1]
    for part in parts:
        for client in part.ids.tolist():
            for name, values in part[client].items():
                np.testing.assert_array_equal(found[client][name], values)
    assert found.vocabularies["item"].tolist() == list(range(60))
    assert [p.name for p in tmp_path.iterdir()] == ["clients.arrow"] and is_client_file(path)
    whole = tmp_path / "whole.arrow"
    Clients.from_columns(
        found.ids,
        np.concatenate([[0], np.cumsum(found.num_examples)]),
        {name: found.column(name) for name in found.fields},
        found.vocabularies,
    ).write(whole)
    assert whole.read_bytes() == path.read_bytes()


def write(path, *parts, vocabularies=None):
    with ClientWriter(path, vocabularies) as writer:
        for part in parts:
            writer.add(part)


def test_a_failure_leaves_what_was_there(tmp_path):
    path, some = tmp_path / "clients.arrow", clients([4])
    some.write(path)
    before = path.read_bytes()
    for parts, message in (
        ((some, clients([4], first=1).select("item")), "all pieces must have the fields"),
        ((some, some), "unique over all pieces"),
        (
            (Clients.from_arrays({8: {"x": [0.5]}}), Clients.from_arrays({9: {"x": [2.0**25]}})),
            "field 'x' must be of one type and shape in all pieces, it was float32 and is int32",
        ),
        ((), "at least one piece"),
    ):
        with pytest.raises(DataError, match=message):
            write(path, *parts)
    assert path.read_bytes() == before and [p.name for p in tmp_path.iterdir()] == ["clients.arrow"]


def test_pieces_are_numbered_as_the_file(tmp_path):
    """Tables number their strings each by itself: under one vocabulary others would be meant."""
    path, rows = tmp_path / "clients.arrow", {"client": [1, 1], "item": ["b", "a"]}
    piece = Clients.from_table(pyarrow.table(rows))
    assert piece.vocabularies["item"].tolist() == ["b", "a"]
    with pytest.raises(DataError, match="field 'item' of a piece must be numbered by the writer's"):
        write(path, piece, vocabularies={"item": ["a", "b"]})
    with pytest.raises(DataError, match="field 'item' of a piece has original ids: give `ClientWriter`"):
        write(path, piece)
    assert list(tmp_path.iterdir()) == []
    write(path, piece, piece_of(2, [1]), vocabularies={"item": ["b", "a"]})
    found = Clients.open(path)
    assert [found[i]["item"].tolist() for i in (1, 2)] == [[0, 1], [1]]


def piece_of(client, items):
    return Clients.from_arrays({client: {"item": np.array(items, np.int32)}})


KILLED = """
import os, signal, sys
from fedrecon import Clients
from fedrecon.data._client_file.writer import ClientWriter
with ClientWriter(sys.argv[1]) as writer:
    writer.add(Clients.from_arrays({1: {"item": [3]}}))
    if sys.argv[2] == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    print("writing", flush=True)
    sys.stdin.read()
"""


def started(path, what):
    return subprocess.Popen(
        [sys.executable, "-c", KILLED, path, what], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


@pytest.mark.skipif(os.name == "nt", reason="nothing tells there what is in use")
def test_the_next_to_write_removes_what_a_kill_left_and_nothing_in_use(tmp_path):
    path, other = tmp_path / "clients.arrow", tmp_path / "clients.arrow.other"
    with started(path, "on") as writing:
        assert writing.stdout.readline() == "writing\n"
        with started(path, "killed") as killed, started(other, "killed") as foreign:
            assert killed.wait(300) == foreign.wait(300) == -signal.SIGKILL
        assert len(list(tmp_path.glob(".clients.arrow.*"))) == 3
        clients([4]).write(path)  # as any other that writes the same file
        left = [p.name for p in tmp_path.glob(".clients.arrow.*")]
        assert len(left) == 2 and sum(name.startswith(".clients.arrow.other.") for name in left) == 1
        writing.stdin.close()
        assert writing.wait(300) == 0
    assert Clients.open(path).ids.tolist() == [1]
    write(other, piece_of(3, [1]))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["clients.arrow", "clients.arrow.other"]


def test_facts_come_with_the_file_and_hold_for_parts(tmp_path, monkeypatch):
    made = clients([3, 9, 0, 4])
    made.write(tmp_path / "clients.arrow")
    opened = Clients.open(tmp_path / "clients.arrow")
    monkeypatch.setattr(Clients, "column", lambda *_: pytest.fail("the field was read"))
    for part in (opened, opened.take([1, 0]).cap(2), opened.select("item")):
        assert part.field_stats("item") == made.field_stats("item") and part.distinct("item")
    assert not opened.distinct("image")


def test_opening_copies_nothing(tmp_path):
    rng = np.random.default_rng(0)
    columns = {"item": rng.integers(0, 9, 200_000).astype(np.int32), "image": rng.normal(size=(200_000, 2))}
    Clients.from_columns([5, 7], [0, 150_000, 200_000], columns).write(tmp_path / "clients.arrow")
    before = pyarrow.total_allocated_bytes()
    opened = Clients.open(tmp_path / "clients.arrow")
    assert pyarrow.total_allocated_bytes() - before < 50_000
    np.testing.assert_array_equal(opened[7]["item"], columns["item"][150_000:])
    np.testing.assert_allclose(opened[7]["image"], columns["image"][150_000:], rtol=1e-6)
    assert not opened.column("item").flags.owndata


def test_facts_are_those_of_all_pieces():
    made = clients([4, 6, 0, 5])
    pieces = list(made.pieces(7))
    assert [len(piece) for piece in pieces] == [1, 2, 1]
    assert sum(int(piece.num_examples.sum()) for piece in pieces) == 15
    least, most = made.column("item").min(), made.column("item").max()
    assert made.field_stats("item") == FieldStats(least, most, True)
    assert merged(NONE, FieldStats(1, 2, False)) == FieldStats(1, 2, False)
    twice = measured(np.array([1, 2, 1], np.int64), np.array([0, 0, 0]))
    apart = measured(np.array([1, 2, 1], np.int64), np.array([0, 0, 1]))
    assert (twice.distinct, apart.distinct) == (False, True)
    wide = measured(np.array([2**40, -(2**41)]), np.array([0, 0]))
    assert wide == FieldStats(-(2**41), 2**40, True)


def test_pieces_change_neither_orders_nor_digests(monkeypatch):
    made = clients([4, 6, 0, 5, 9])
    whole = made.shuffled(3), made.sorted_by("item"), digest(made), made.take([3, 1]).field_stats("item")
    monkeypatch.setattr("fedrecon.data._clients.Clients.pieces", lambda self, examples=0: PIECES(self, 6))
    cut = made.shuffled(3), made.sorted_by("item"), digest(made), made.take([3, 1]).field_stats("item")
    for one, other in zip(whole[:2], cut[:2], strict=True):
        for name in made.fields:
            np.testing.assert_array_equal(one.column(name), other.column(name))
    assert whole[2:] == cut[2:]


PIECES = Clients.pieces
