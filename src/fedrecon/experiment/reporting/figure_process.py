"""Draws the figures of runs, at once or in a process of its own beside the training.

Matplotlib takes a second to import and another one to draw the figures of a run. A command that trains leaves
both to another process: so the result is there sooner, and the trials of a sweep do not wait for figures.
"""

import os
import pickle
import queue
import signal
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

from fedrecon.errors import RunError
from fedrecon.experiment.reporting.figure_data import Curves


class FigureDrawer:
    """Draws the figures of runs in this process, at once."""

    def prepare(self) -> None:
        """Imports what drawing needs, beside the first rounds of a run."""
        from fedrecon.experiment.reporting import plots  # noqa: F401

    def draw(self, folder: Path, curves: Curves) -> None:
        """Draws the figures of a run, now or by `wait`.

        Args:
            folder: The folder of the figures; it is made where it does not exist.
            curves: The run.
        """
        from fedrecon.experiment.reporting import plots

        plots.write(folder, [curves])

    def wait(self) -> None:
        """Waits until all figures are on the disk."""


class FigureProcess(FigureDrawer):
    """Draws the figures of runs in a process of its own, in turn, while this one goes on.

    The process starts with the first use. It ends with this one, however that ends: it reads from a pipe that
    is closed then. Where this process has loaded Matplotlib already, no other can be started, or the other
    ends early, figures are drawn here.

    Used as a context, it waits for the figures at the end. Ctrl-C leaves out those that are not drawn then.
    """

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._here = "matplotlib" in sys.modules
        self._waiting: deque[tuple[Path, Curves]] = deque()
        self._lock = threading.Lock()
        self._failures: list[str] = []

    def __enter__(self) -> "FigureProcess":
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        try:
            if kind is None:
                self.wait()
            elif issubclass(kind, Exception):  # which says more than that a figure is missing
                with suppress(RunError):
                    self.wait()
        finally:
            self.close()

    def prepare(self) -> None:
        """Starts the process; may be called from any thread."""
        with self._lock:
            if self._here or self._process is not None:
                return
            # The other process must import the same library, wherever this one found it.
            paths = [path for path in sys.path if isinstance(path, str)]
            program = f"import sys; sys.path[:] = {paths!r}; from {__name__} import serve; serve()"
            try:
                self._process = subprocess.Popen(
                    [sys.executable, "-c", program],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.DEVNULL,
                )
            except OSError:
                self._here = True

    def draw(self, folder: Path, curves: Curves) -> None:
        """Asks the process for the figures of a run; `wait` tells whether they could be drawn."""
        self.prepare()
        self._waiting.append((folder.absolute(), curves))
        if self._process is None:
            self._draw_here()
            return
        assert self._process.stdin is not None
        try:
            pickle.dump(self._waiting[-1], self._process.stdin)
            self._process.stdin.flush()
        except OSError:  # the process has ended, for instance by a kill
            self._draw_here()

    def wait(self) -> None:
        """Waits until all figures are on the disk.

        Raises:
            RunError: Some could not be drawn; all others are there.
        """
        while self._waiting:
            if self._process is None:
                self._draw_here()
                break
            assert self._process.stdout is not None
            try:
                failure = pickle.load(self._process.stdout)
            except Exception:  # it has ended, or somebody else writes into the pipe
                self._draw_here()
                break
            folder, _ = self._waiting.popleft()
            self._note(folder, failure)
        failures, self._failures = self._failures, []
        if failures:
            more = f" (and those of {len(failures) - 1:,} more runs)" if len(failures) > 1 else ""
            raise RunError(f"{failures[0]}{more}; all numbers are saved, `fedrecon plot RUN` draws figures")

    def close(self) -> None:
        """Ends the process; figures that are not drawn then are left out."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            for pipe in (self._process.stdin, self._process.stdout):
                assert pipe is not None
                with suppress(OSError):  # what is left in the buffer has nobody to read it
                    pipe.close()
            self._process = None

    def _draw_here(self) -> None:
        """Draws in this process what is waiting, and all that follows."""
        self.close()
        self._here = True
        while self._waiting:
            folder, curves = self._waiting.popleft()
            try:
                super().draw(folder, curves)
            except Exception as error:
                self._note(folder, _described(error))

    def _note(self, folder: Path, failure: str | None) -> None:
        if failure is not None:
            self._failures.append(f"{folder}: the figures cannot be drawn: {failure}")


def serve() -> None:
    """The main function of the process: draws what it is asked for, until the pipe of requests is closed."""
    # Ctrl-C reaches all processes of the terminal, but the one that trains decides what happens.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    waiting: queue.SimpleQueue[Any] = queue.SimpleQueue()
    threading.Thread(target=_read, args=(sys.stdin.buffer, waiting.put), daemon=True).start()
    from fedrecon.experiment.reporting import plots

    answers = sys.stdout.buffer
    while True:
        folder, curves = waiting.get()
        failure = None
        try:
            plots.write(folder, [curves])
        except Exception as error:
            failure = _described(error)
        pickle.dump(failure, answers)
        answers.flush()


def _read(requests: IO[bytes], put: Callable[[Any], None]) -> None:
    """Reads requests, and ends the process at once when the other end of the pipe is closed.

    A thread does that, so that a process which draws does not outlive the one that asked for it.
    """
    try:
        while True:
            put(pickle.load(requests))
    finally:
        os._exit(0)


def _described(error: Exception) -> str:
    return f"{error.strerror}" if isinstance(error, OSError) and error.strerror else f"{error}"
