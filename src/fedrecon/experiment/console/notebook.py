"""What a run shows in a notebook, and the choice of what suits the place where a program runs."""

import math
import sys
import time
from typing import Any

from fedrecon._safe_text import terminal
from fedrecon.experiment.console.progress import (
    EvaluatedRound,
    LiveLine,
    Pace,
    Progress,
    describe,
    progress_for,
)


class Notebook(Progress):
    """Shows one line in the output of a notebook's cell, which is replaced as the rounds go on.

    It needs no widgets: the display of IPython, which runs the cell, can replace what it shows.
    """

    # Seconds between two replacements, since each is a message to the browser.
    _EVERY = 0.2

    def __init__(self) -> None:
        self._pace = Pace()
        self._line = LiveLine(self._pace)
        self._handle: Any = None
        self._shown, self._text = -math.inf, ""

    def start(self, done: int, rounds: int) -> None:
        self._line.rounds = rounds
        self._show(f"round {done}/{rounds}  compiling ...")

    def round(self, number: int, loss: float) -> None:
        self._text = f"round {number}/{self._line.rounds}  {self._line.round(number, loss)}"
        if time.monotonic() - self._shown > self._EVERY:
            self._show(self._text)

    def evaluated(self, evaluated: EvaluatedRound) -> None:
        self._line.evaluated(evaluated)
        self._text = describe(evaluated, self._pace)
        self._show(self._text)

    def note(self, text: str) -> None:
        print(terminal(text), flush=True)

    def close(self) -> None:
        if self._text:
            self._show(self._text)

    def _show(self, text: str) -> None:
        from IPython.display import display

        content = {"text/plain": terminal(text)}
        if self._handle is None:
            self._handle = display(content, raw=True, display_id=True)
        else:
            self._handle.update(content, raw=True)
        self._shown = time.monotonic()


def automatic_progress() -> Progress:
    """A live line in Jupyter, a live bar on a terminal, and nothing elsewhere, such as in a log."""
    if _is_in_notebook():
        return Notebook()
    if not sys.stdout.isatty():
        return Progress()
    # The import of Rich takes a tenth of a second.
    from fedrecon.experiment.console.screen import screen_of_output

    return progress_for(screen_of_output())


def _is_in_notebook() -> bool:
    """Whether this process is a kernel of Jupyter; IPython is not imported to find out."""
    ipython = sys.modules.get("IPython")
    shell = None if ipython is None else ipython.get_ipython()
    return shell is not None and hasattr(shell, "kernel")
