"""A run whose files are removed while it runs, or whose disk is full, ends with one line that names them."""

import errno
import os
import re
import shutil

import jax.numpy as jnp
import numpy as np
import pytest

import fedrecon as fr
from fedrecon.errors import RunError
from fedrecon.experiment.cli import main as command_line
from fedrecon.experiment.reporting import plots
from fedrecon.experiment.storage import metrics_log
from fedrecon.experiment.storage.checkpoint import Checkpoints
from fedrecon.experiment.storage.metrics_log import read

ROUNDS = 6
SGD = fr.optimizer("sgd", learning_rate=0.1)


def loss(p, batch, key=None):
    return fr.Mean.of((batch["x"] * p["w"] + p["bias"] - batch["y"]) ** 2)


MODEL = fr.partition(
    lambda key: {"w": jnp.zeros(()), "bias": jnp.zeros(())},
    loss,
    lambda p, batch: {"mse": loss(p, batch)},
    local=fr.is_local("bias"),
)
ALGORITHM = fr.fedrecon(MODEL, fr.Solver(SGD, 4), fr.Solver(SGD, 4), SGD, fr.AlternateBatches(2))


def clients(seed, count):
    rng = np.random.default_rng(seed)
    return fr.Clients.from_arrays(
        {f"{seed}-{i}": {"x": rng.normal(size=8), "y": rng.normal(size=8)} for i in range(count)}
    )


TRAIN, TEST = clients(0, 8), clients(1, 4)


def train(out, *callbacks):
    return fr.train(
        ALGORITHM,
        TRAIN,
        ROUNDS,
        clients_per_round=4,
        evaluate=TEST,
        evaluate_every=2,
        evaluation_split=fr.AlternateBatches(2),
        checkpoint_every=2,
        callbacks=callbacks,
        out=out,
    )


@pytest.fixture(autouse=True)
def no_figures(monkeypatch):
    """Nobody looks at them, and drawing takes longer than the run."""
    monkeypatch.setattr(plots, "write", lambda folder, runs: [])


def at(round, action):
    def callback(evaluated):
        if evaluated.round == round:
            action()

    return callback


def rows(records):
    return [tuple(row) for row in records]


@pytest.mark.parametrize("round", [2, ROUNDS])
@pytest.mark.parametrize("content", [None, "", "round,split\n"], ids=["removed", "emptied", "cut"])
def test_metrics_that_were_removed_are_all_written_anew(tmp_path, round, content):
    path = tmp_path / "run" / "metrics.csv"

    def harm():
        path.unlink() if content is None else path.write_text(content)

    result = train(tmp_path / "run", at(round, harm))
    assert rows(read(path)) == rows(result.records)
    again = train(tmp_path / "run")
    assert again.resumed_from == ROUNDS
    assert rows(again.records)[-1] == rows(result.records)[-1]


@pytest.mark.parametrize("round", [2, ROUNDS])
def test_a_run_folder_that_was_removed_is_named(tmp_path, round):
    out = tmp_path / "run"
    with pytest.raises(RunError, match="run: the run folder was removed while the run was using it"):
        train(out, at(round, lambda: shutil.rmtree(out)))
    assert not (out / "result.json").exists()


def test_checkpoints_that_were_removed_are_made_anew(tmp_path):
    out = tmp_path / "run"
    train(out, at(4, lambda: shutil.rmtree(out / "checkpoints")))
    assert Checkpoints(out / "checkpoints").latest() == ROUNDS


def full(*_, **__):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


class FullFile:
    """A file that can be opened, but not written to."""

    def __init__(self, path, mode):
        assert mode == "ab" and path.exists()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    write = full


def line_of(error):
    """What the command line prints of an error, held to be a single line."""
    text = command_line.explain(error)
    assert "\n" not in text
    return text


def fill_syncs(patch, out):
    patch.setattr(os, "fsync", full)


def fill_metrics(patch, out):
    patch.setattr(metrics_log, "open", lambda *args: FullFile(*args), raising=False)


def fill_arrays(patch, out):
    class Handler:
        def save(self, path, tree):
            # As Orbax tells it, through TensorStore.
            raise ValueError("RESOURCE_EXHAUSTED: Error writing: os_error_code='28' No space left on device")

    patch.setattr(Checkpoints, "_handler", lambda self: Handler())


def fill_room(patch, out):
    usage = shutil.disk_usage(out)
    patch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=65_536))


@pytest.mark.parametrize("fill", [fill_syncs, fill_metrics, fill_arrays, fill_room])
@pytest.mark.parametrize("round", [2, 4])
def test_a_full_disk_is_told_in_one_line_that_names_the_file(tmp_path, fill, round):
    out = tmp_path / "run"
    with pytest.MonkeyPatch.context() as patch, pytest.raises((RunError, OSError)) as raised:
        train(out, at(round, lambda: fill(patch, out)))
    line = line_of(raised.value)
    assert str(out) in line
    assert re.search("[Nn]o space (is )?left", line)
    result = train(out)  # once there is room again
    assert result.rounds == ROUNDS and rows(read(out / "metrics.csv")) == rows(result.records)


def test_every_write_of_a_run_that_fails_is_told_so(tmp_path):
    """The disk is full from some write on: whichever that is, the error names a file of the run."""
    whole, calls = os.fsync, []

    def counting(handle):
        calls.append(handle)
        if len(calls) > most:
            full()
        whole(handle)

    most = 10**9
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", counting)
        train(tmp_path / "whole")
    total = len(calls)
    for number, most in enumerate(np.linspace(0, total - 1, 7).astype(int)):
        calls.clear()
        out = tmp_path / str(number)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(os, "fsync", counting)
            with pytest.raises((RunError, OSError)) as raised:
                train(out)
        line = line_of(raised.value)
        assert str(out) in line, most
        assert re.search("[Nn]o space (is )?left", line), most
