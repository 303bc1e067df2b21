"""Runs trials in processes of their own."""

import multiprocessing
import multiprocessing.connection
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

from fedrecon.errors import RunError
from fedrecon.experiment.reporting.figure_process import FigureProcess
from fedrecon.experiment.sweep.shared_work import SharedWork
from fedrecon.experiment.sweep.trial import FAILED, Outcome, run_trial


class Task(NamedTuple):
    """A trial that a worker runs.

    Attributes:
        values: The settings of the configuration as nested tables.
        out: The run folder of the trial.
        metric: The name of the metric to measure.
        tuned: The values of the tuned settings, by their dotted names.
    """

    values: dict[str, Any]
    out: Path
    metric: str
    tuned: dict[str, Any]


class Workers:
    """Processes that run trials, each one at a time.

    Args:
        count: The number of processes.
    """

    def __init__(self, count: int):
        # A fork of a process that runs JAX can hang, since JAX has threads.
        context = multiprocessing.get_context("spawn")
        self._idle: list[Connection] = []
        self._busy: dict[Connection, Any] = {}
        self._processes = []
        for _ in range(count):
            here, there = context.Pipe()
            process = context.Process(target=_work, args=(there,), daemon=True)
            process.start()
            there.close()
            self._processes.append(process)
            self._idle.append(here)

    def free(self) -> bool:
        """Whether a worker is idle."""
        return bool(self._idle)

    def busy(self) -> bool:
        """Whether a worker runs a trial."""
        return bool(self._busy)

    def start(self, key: Any, task: Task) -> None:
        """Gives a trial to an idle worker.

        Args:
            key: Any value that identifies the trial for the caller.
            task: The trial.
        """
        worker = self._idle.pop()
        worker.send(task)
        self._busy[worker] = key

    def wait(self, watch: Callable[[Any, int, float], bool]) -> list[tuple[Any, Outcome]]:
        """Waits until a worker has evaluated its trial or ended it, or has died.

        Args:
            watch: Decides from the key of a trial, a round and the value of the metric after it whether the
                trial is stopped.

        Returns:
            The keys of the trials that ended, each with its outcome.
        """
        ended = []
        for worker in multiprocessing.connection.wait(list(self._busy)):
            assert isinstance(worker, Connection)
            try:
                news = worker.recv()
            except (EOFError, OSError):
                ended.append((self._busy.pop(worker), Outcome(FAILED, message="its process died")))
                continue
            if isinstance(news, Outcome):
                ended.append((self._busy.pop(worker), news))
                self._idle.append(worker)
            else:
                worker.send(watch(self._busy[worker], *news))
        return ended

    def finish(self) -> list[str]:
        """Ends the processes when they are idle and the figures of their trials are drawn.

        Returns:
            Sentences about figures that could not be drawn.
        """
        notes = []
        for worker in self._idle:
            with suppress(OSError):  # the process may have been killed since its last trial
                worker.send(None)
        for worker in self._idle:
            with suppress(EOFError, OSError):
                notes.append(worker.recv())
        for process in self._processes:
            process.join()
        return [note for note in notes if note]

    def close(self) -> None:
        """Ends the processes. Trials that they were running can be resumed from their last checkpoints."""
        for process in self._processes:
            process.terminate()
        for process in self._processes:
            process.join()


def figures_drawn(figures: FigureProcess) -> str:
    """Waits for figures; returns a sentence about those that could not be drawn, `""` for none."""
    try:
        figures.wait()
    except RunError as error:
        return str(error)
    return ""


def _work(boss: Connection) -> None:
    """The main function of a worker: runs the trials that it receives, until the pipe is closed."""
    import signal

    from fedrecon.experiment.config import resolve
    from fedrecon.experiment.storage.compilation_cache import use_compilation_cache

    # Ctrl-C reaches all processes of the terminal, but only the main one decides what happens.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    use_compilation_cache()

    def watch(round: int, value: float) -> bool:
        boss.send((round, value))
        return bool(boss.recv())

    with FigureProcess() as figures:
        shared = SharedWork(figures)
        while True:
            try:
                task: Task | None = boss.recv()
            except EOFError:
                return
            if task is None:
                boss.send(figures_drawn(figures))
                return
            try:
                values = resolve(task.values, "sweep")
                outcome = run_trial(values, task.out, task.metric, watch, task.tuned, shared)
            except Exception as error:
                outcome = Outcome(FAILED, message=f"{type(error).__name__}: {error}")
            boss.send(outcome)
