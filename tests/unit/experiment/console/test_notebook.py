"""What a run shows in a notebook, and what it shows where nobody said."""

import io
import sys
import time
from types import SimpleNamespace

import pytest

from fedrecon.experiment.console import notebook
from fedrecon.experiment.console.notebook import Notebook, automatic_progress
from fedrecon.experiment.console.progress import Live, Progress


class Display:
    """Stands for IPython's display, and notes what a cell shows."""

    def __init__(self):
        self.shown = []

    def display(self, content, *, raw, display_id):
        assert raw and display_id is True
        self.shown.append(content["text/plain"])
        return SimpleNamespace(update=self.update)

    def update(self, content, *, raw):
        assert raw
        self.shown.append(content["text/plain"])


@pytest.fixture
def cell(monkeypatch):
    display, shell = Display(), SimpleNamespace(kernel="a kernel")
    modules = {
        "IPython": SimpleNamespace(get_ipython=lambda: shell),
        "IPython.display": SimpleNamespace(display=display.display),
    }
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, name, module)
    return display


class Scores:
    def summary(self):
        metrics = {"hr@10": 0.25, "ndcg@10": 0.125, "recall@10": 0.5}
        return {"examples": metrics, "evaluated_clients": 5, "asked_clients": 5}


def evaluated(round, **evaluations):
    training = {"loss": 0.75, "rmse": 0.9, "accuracy": 0.4, "dropped": 0.0, "gradient_steps": 3.0}
    return SimpleNamespace(round=round, rounds=10, training=training, evaluations=evaluations)


def test_a_cell_shows_one_line_that_is_replaced(cell, monkeypatch, capsys):
    now = SimpleNamespace(seconds=100.0)
    monkeypatch.setattr(time, "monotonic", lambda: now.seconds)
    with automatic_progress() as progress:
        assert isinstance(progress, Notebook)
        progress.start(0, 10)
        for number in (1, 2, 3):  # too fast to be shown one by one
            progress.round(number, 1.5)
        now.seconds += 1
        progress.round(4, 1.25)
        progress.evaluated(evaluated(5, validation=Scores()))
        progress.note("going on")
        progress.round(6, 1.0)
    assert cell.shown == [
        "round 0/10  compiling ...",
        "round 4/10  loss 1.2500  3.0 rounds/s  2 s left",
        "round  5/10  loss 0.7500  validation hr@10 0.2500 ndcg@10 0.1250  4.0 rounds/s  1 s left",
        "round 6/10  loss 1.0000  validation hr@10 0.2500 ndcg@10 0.1250  5.0 rounds/s  1 s left",
    ]
    assert capsys.readouterr().out == "going on\n"


def test_without_evaluated_clients_the_training_clients_metrics_are_shown(cell):
    with Notebook() as progress:
        progress.start(0, 10)
        progress.evaluated(evaluated(5))
    assert "training rmse 0.9000 accuracy 0.4000" in cell.shown[1]


def test_a_terminal_gets_a_bar_and_a_log_nothing(monkeypatch):
    monkeypatch.setattr(notebook, "_is_in_notebook", lambda: False)
    terminal = io.StringIO()
    terminal.isatty = lambda: True
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", terminal)
        assert isinstance(automatic_progress(), Live)
    monkeypatch.setattr(sys, "stdout", io.StringIO())
    assert type(automatic_progress()) is Progress


def test_ipython_in_a_terminal_is_no_notebook(cell, monkeypatch):
    monkeypatch.setattr(sys.modules["IPython"], "get_ipython", lambda: SimpleNamespace())
    assert not notebook._is_in_notebook()
    monkeypatch.delitem(sys.modules, "IPython")
    assert not notebook._is_in_notebook()
