import io
import time
from types import SimpleNamespace

import pytest
from rich.console import Console

from fedrecon.experiment.console.progress import (
    Lines,
    Live,
    Pace,
    Progress,
    describe,
    duration,
    pace_of,
    progress_for,
)


class Scores:
    def __init__(self, evaluated=5, **metrics):
        self.evaluated, self.metrics = evaluated, metrics

    def summary(self):
        return {"evaluated_clients": self.evaluated, "asked_clients": 5, "examples": self.metrics}


def report(round=50, rounds=500, **metrics):
    evaluations = {"validation": Scores(**metrics)} if metrics else {}
    return SimpleNamespace(round=round, rounds=rounds, training={"loss": 0.75}, evaluations=evaluations)


@pytest.fixture
def clock(monkeypatch):
    now = SimpleNamespace(seconds=100.0)
    monkeypatch.setattr(time, "monotonic", lambda: now.seconds)
    return now


def test_a_line_tells_how_many_clients_were_evaluated_where_some_were_not():
    assert "clients" not in describe(report(rmse=1.5), Pace())
    assert "validation rmse 1.5000 (2 of 5 clients)" in describe(report(rmse=1.5, evaluated=2), Pace())


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "0 s"), (59.0, "59 s"), (61.0, "1 min 01 s"), (3600 + 5 * 60.0, "1 h 05 min")]
)
def test_durations(seconds, text):
    assert duration(seconds) == text


def test_the_pace_is_that_of_the_last_seconds(clock):
    pace = Pace()
    assert pace.at(1, 100) == (None, None)
    clock.seconds += 2
    assert pace.at(5, 100) == (2.0, 47.5)
    clock.seconds += 1
    assert pace.at(5, 100)[0] == pytest.approx(4 / 3)
    for number in range(6, 40):
        clock.seconds += 1
        speed, left = pace.at(number, 100)
    assert speed == pytest.approx(1.0, abs=0.05)
    assert left == pytest.approx(61, rel=0.05)


def test_a_line_per_evaluation(clock):
    file = io.StringIO()
    with Lines(file) as lines:
        lines.start(0, 500)
        lines.round(1, 0.9)
        clock.seconds += 4.9
        lines.round(50, 0.8)
        lines.evaluated(report(rmse=0.91, accuracy=0.43, mse=0.83))
        lines.evaluated(report(100))
        lines.note("done")
    assert file.getvalue().splitlines() == [
        "round  50/500  loss 0.7500  validation rmse 0.9100 accuracy 0.4300  10.0 rounds/s  45 s left",
        "round 100/500  loss 0.7500  20.2 rounds/s  20 s left",
        "done",
    ]


def test_other_metrics_are_shown_too():
    line = describe(report(perplexity=9.5, accuracy=0.25), Pace())
    assert "validation accuracy 0.2500 perplexity 9.5000" in line


def test_a_live_bar_on_a_terminal(clock):
    file = io.StringIO()
    console = Console(file=file, force_terminal=True, width=120, color_system=None)
    progress = progress_for(console)
    assert isinstance(progress, Live)
    with progress:
        progress.start(0, 10)
        progress.round(1, 2.5)
        clock.seconds += 1
        progress.evaluated(report(5, 10, rmse=0.91, accuracy=0.43))
        progress.round(5, 1.25)
        progress.note("[note]")
    shown = file.getvalue()
    assert "5/10" in shown
    assert "loss 1.2500" in shown
    assert "loss 1.2500  validation rmse 0.9100 accuracy 0.4300  4.0 rounds/s" in shown
    assert "4.0 rounds/s  1 s left" in shown
    assert "round  5/10  loss 0.7500  validation rmse 0.9100 accuracy 0.4300" in shown
    assert "[note]" in shown


def test_lines_elsewhere():
    assert isinstance(progress_for(Console(file=io.StringIO())), Lines)


def test_a_run_that_fails_before_its_first_round_closes_the_bar():
    console = Console(file=io.StringIO(), force_terminal=True)
    with pytest.raises(KeyError), progress_for(console):
        raise KeyError


def test_silence_by_default():
    with Progress() as progress:
        progress.start(0, 3)
        progress.round(1, 0.5)
        progress.evaluated(report())
        progress.note("x")


def test_slow_rounds_are_told_by_their_seconds():
    assert [pace_of(x) for x in (12.34, 1.0, 0.125)] == ["12.3 rounds/s", "1.0 rounds/s", "8.0 s a round"]
