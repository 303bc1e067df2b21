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
    is closed then. Where this process has loaded Matplotlib already, or no other can be started, figures are
    drawn here.

    Used as a context, it waits for the figures at the end, unless an exception leaves it.
    """

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._here = "matplotlib" in sys.modules
        self._left = 0
        self._lock = threading.Lock()

    def __enter__(self) -> "FigureProcess":
        return self

    def __exit__(self, kind: object, *rest: object) -> None:
        try:
            if kind is None:
                self.wait()
        finally:
            self.close()

    def prepare(self) -> None:
        """Starts the process; may be called from any thread."""
        with self._lock:
            if self._here or self._process is not None:
                return
            # The other process must import the same library, wherever this one found it.
            program = f"import sys; sys.path[:] = {sys.path!r}; from {__name__} import serve; serve()"
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
        if self._process is None:
            super().draw(folder, curves)
            return
        assert self._process.stdin is not None
        try:
            pickle.dump((folder.absolute(), curves), self._process.stdin)
            self._process.stdin.flush()
        except OSError:  # the process has ended, for instance by a kill
            self.close()
            self._here = True
            super().draw(folder, curves)
            return
        self._left += 1

    def wait(self) -> None:
        """Waits until all figures are on the disk.

        Raises:
            RunError: The process ended before it had drawn them.
            OSError: They cannot be written, or whatever else drawing raised.
        """
        while self._left:
            assert self._process is not None
            assert self._process.stdout is not None
            self._left -= 1
            try:
                error = pickle.load(self._process.stdout)
            except EOFError:
                self._left = 0
                raise RunError(
                    "the process that draws the figures ended early; `fedrecon plot RUN` draws them"
                ) from None
            if error is not None:
                raise error

    def close(self) -> None:
        """Ends the process; figures that are not drawn then are left out."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            for pipe in (self._process.stdin, self._process.stdout):
                assert pipe is not None
                with suppress(OSError):  # what is left in the buffer has nobody to read it
                    pipe.close()
            self._process, self._left = None, 0


def serve() -> None:
    """The main function of the process: draws what it is asked for, until the pipe of requests is closed."""
    # Ctrl-C reaches all processes of the terminal, but the one that trains decides what happens.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    waiting: queue.SimpleQueue[Any] = queue.SimpleQueue()
    threading.Thread(target=_read, args=(sys.stdin.buffer, waiting.put), daemon=True).start()
    answers = sys.stdout.buffer
    from fedrecon.experiment.reporting import plots

    while True:
        folder, curves = waiting.get()
        error = None
        try:
            plots.write(folder, [curves])
        except Exception as raised:
            error = _portable(raised)
        pickle.dump(error, answers)
        answers.flush()


def _read(requests: IO[bytes], put: Any) -> None:
    """Reads requests, and ends the process at once when the other end of the pipe is closed.

    A thread does that, so that a process which draws does not outlive the one that asked for it.
    """
    while True:
        try:
            put(pickle.load(requests))
        except (EOFError, pickle.UnpicklingError):
            os._exit(0)


def _portable(error: Exception) -> Exception:
    """An error that can be sent to another process: itself, or else one with its text."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return RunError(f"the figures cannot be drawn: {type(error).__name__}: {error}")
    return error
