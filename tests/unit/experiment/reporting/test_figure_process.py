"""Figures that a process of its own draws."""

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress

import pytest

from fedrecon.errors import RunError
from fedrecon.experiment.reporting import figure_process
from fedrecon.experiment.reporting.figure_data import Curves, figure_files
from fedrecon.experiment.reporting.figure_process import FigureDrawer, FigureProcess
from fedrecon.experiment.storage.metrics_log import RECON_EVAL, TRAINING, Records, Row


@pytest.fixture
def curves():
    records = Records()
    names = ("bytes_up", "bytes_down", "seconds")
    records.append([Row(5, "train", TRAINING, "total", name, 1.0) for name in names])
    records.append([Row(5, "validation", RECON_EVAL, "examples", "rmse", 1.0)])
    return Curves("a", records, {"test": {"rmse": [0.9, 1.0, 1.1]}})


@pytest.fixture
def process():
    drawer = FigureProcess()
    drawer._here = False  # the suite has loaded Matplotlib
    yield drawer
    drawer.close()


def test_it_draws_what_this_process_would_draw(tmp_path, curves, process):
    FigureDrawer().draw(tmp_path / "here" / "plots", curves)
    with process:
        process.draw(tmp_path / "there" / "plots", curves)
    files = figure_files(tmp_path / "here" / "plots", [curves])
    assert len(files) == 4
    for file in files:
        assert (tmp_path / "there" / file).read_bytes() == (tmp_path / "here" / file).read_bytes()


def test_several_runs_are_drawn_in_turn(tmp_path, curves, process):
    with process:
        for number in range(3):
            process.draw(tmp_path / f"{number}" / "plots", curves)
    assert all((tmp_path / f"{number}" / "plots" / "clients.svg").exists() for number in range(3))


def test_files_are_told_for_runs_without_evaluations(tmp_path, curves):
    assert figure_files(tmp_path / "plots", [Curves("a", Records(), {})]) == []
    only = figure_files(tmp_path / "plots", [Curves("a", curves.records, {})])
    assert [file.as_posix() for file in only] == ["plots/progress.png", "plots/progress.svg"]


def test_figures_that_cannot_be_drawn_are_told_after_all_others(tmp_path, curves, process):
    (tmp_path / "first").write_text("a file, where a folder must be made")
    process.draw(tmp_path / "first", curves)
    process.draw(tmp_path / "plots", curves)
    with pytest.raises(RunError, match=r"first: the figures cannot be drawn: .*; all numbers are saved"):
        process.wait()
    assert (tmp_path / "plots" / "progress.svg").exists()
    process.wait()  # it is told once


def test_figures_of_a_process_that_was_killed_are_drawn_here(tmp_path, curves, process):
    process.prepare()
    os.kill(process._process.pid, signal.SIGSTOP)
    for name in ("one", "two"):
        process.draw(tmp_path / name, curves)
    os.kill(process._process.pid, signal.SIGKILL)
    process.wait()
    assert all((tmp_path / name / "progress.svg").exists() for name in ("one", "two"))


def test_a_process_that_cannot_start_leaves_the_figures_to_this_one(tmp_path, curves, process, monkeypatch):
    monkeypatch.setattr(figure_process, "__name__", "fedrecon.no_such_module")
    with process:
        process.draw(tmp_path / "plots", curves)
    assert (tmp_path / "plots" / "progress.svg").exists()


def test_an_error_of_the_command_leaves_the_figures_of_earlier_runs(tmp_path, curves, process):
    with suppress(ValueError), process:
        process.draw(tmp_path / "plots", curves)
        raise ValueError("of the second run")
    assert (tmp_path / "plots" / "progress.svg").exists()


def test_ctrl_c_waits_for_no_figure(tmp_path, curves, process):
    with suppress(KeyboardInterrupt), process:
        process.prepare()
        os.kill(process._process.pid, signal.SIGSTOP)
        process.draw(tmp_path / "plots", curves)
        raise KeyboardInterrupt
    assert process._process is None


def test_a_process_that_was_killed_before_leaves_the_figures_to_this_one(tmp_path, curves, process):
    process.prepare()
    process._process.kill()
    process._process.wait()
    with process:
        process.draw(tmp_path / "plots", curves)
    assert (tmp_path / "plots" / "progress.svg").exists()


def test_figures_are_drawn_here_where_matplotlib_is_loaded(tmp_path, curves):
    with FigureProcess() as drawer:
        drawer.draw(tmp_path / "plots", curves)
        assert drawer._process is None
    assert (tmp_path / "plots" / "progress.svg").exists()


def test_the_process_ends_with_the_one_that_started_it():
    program = f"""
import os, signal
from {figure_process.__name__} import FigureProcess
drawer = FigureProcess()
drawer.prepare()
print(drawer._process.pid, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    pid = int(done.stdout)
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline and _lives(pid):
        time.sleep(0.05)
    assert not _lives(pid)


def _lives(pid):
    try:
        with open(f"/proc/{pid}/stat") as file:  # an orphan may stay as a zombie where nobody collects it
            return file.read().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False
