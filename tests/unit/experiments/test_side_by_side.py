import io
import json
import math
import os
import signal
import sys
import threading
import time

import pytest
from experiments.side_by_side import command, log_of, measured, run_side_by_side
from rich.console import Console


@pytest.fixture
def screen():
    return Console(file=io.StringIO(), soft_wrap=True)


def said(screen):
    return screen.file.getvalue()


def python(text):
    return [sys.executable, "-c", f"import os, pathlib, signal, sys, time\n{text}"]


def test_commands_run_beside_each_other_in_their_order(tmp_path, screen):
    """Each of the first two ends when it has seen the other's sign."""

    def meeting(own, other):
        signs = tmp_path / own, tmp_path / other
        here, there = (f"pathlib.Path({str(path)!r})" for path in signs)
        return python(f"{here}.touch()\nwhile not {there}.exists(): time.sleep(0.01)\nprint('met')")

    commands = {
        tmp_path / "a": meeting("sign of a", "sign of b"),
        tmp_path / "b": meeting("sign of b", "sign of a"),
        tmp_path / "c": python("pass"),
    }
    assert run_side_by_side(commands, 2, screen) == 0
    assert log_of(tmp_path / "b").read_text() == "met\n"
    started = [line.split(":")[0] for line in said(screen).splitlines() if "started" in line]
    assert started == ["a", "b", "c"]
    assert said(screen).count(": done in ") == 3


def test_after_a_failure_no_other_starts(tmp_path, screen):
    commands = {
        tmp_path / "bad": python("print('what is wrong', file=sys.stderr); sys.exit(3)"),
        tmp_path / "next": python("pass"),
    }
    assert run_side_by_side(commands, 1, screen) == 3
    assert "bad: ended with status 3; the same command goes on\nwhat is wrong" in said(screen)
    assert not log_of(tmp_path / "next").exists()
    assert not (tmp_path / "bad").exists()  # it is the command's own


def test_an_interrupt_is_passed_on_once(tmp_path, screen):
    heard = "signal.signal(signal.SIGINT, lambda *_: (print('heard', flush=True), sys.exit(130)))\n"
    commands = {
        tmp_path / "a": python(heard + "print('ready', flush=True)\ntime.sleep(60)"),
        tmp_path / "b": python("pass"),
    }

    def interrupt():
        while not log_of(tmp_path / "a").exists() or "ready" not in log_of(tmp_path / "a").read_text():
            time.sleep(0.02)
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    assert run_side_by_side(commands, 1, screen) == 130
    thread.join()
    assert log_of(tmp_path / "a").read_text() == "ready\nheard\n"
    assert not log_of(tmp_path / "b").exists()


def test_a_run_with_settings_and_seeds(tmp_path):
    words = command(tmp_path / "x.toml", tmp_path / "out", "data", 3, ("seed=1",))
    assert words[1:5] == ["-m", "fedrecon", "run", str(tmp_path / "x.toml")]
    assert words[5:] == ["--data", "data", "--out", str(tmp_path / "out"), "--set", "seed=1", "--seeds", "3"]
    assert "--seeds" not in command(tmp_path / "x.toml", tmp_path / "out", "data")


@pytest.mark.parametrize(("found", "mean"), [(0.5, 0.5), ({"mean": 0.0, "values": [0.5, 1.0]}, 0.75)])
def test_a_metric_of_a_run_or_of_its_seeds(tmp_path, found, mean):
    result = {"test": {"recon_eval": {"examples": {"rmse": found}}}}
    (tmp_path / "result.json").write_text(json.dumps(result))
    assert measured(tmp_path, "test", "recon_eval", "rmse").mean == mean


def test_a_run_that_diverged_has_no_number(tmp_path):
    (tmp_path / "result.json").write_text('{"test": {"recon_eval": {"examples": {"rmse": null}}}}')
    assert math.isnan(measured(tmp_path, "test", "recon_eval", "rmse").mean)
