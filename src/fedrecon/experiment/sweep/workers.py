"""Trials in processes of their own."""

import multiprocessing
import multiprocessing.connection
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

from fedrecon.experiment.sweep.trial import FAILED, Outcome, run_trial


class Task(NamedTuple):
    """What a worker does.

    Attributes:
        values: The configuration's, nested.
        out: The run folder.
        metric: To measure.
    """

    values: dict[str, Any]
    out: Path
    metric: str


class Workers:
    """Processes that run trials, one each at a time, as many as are asked for.

    Args:
        count: How many.
    """

    def __init__(self, count: int):
        context = multiprocessing.get_context("spawn")  # a fork of a process that runs JAX hangs
        self._idle: list[Connection] = []
        self._busy: dict[Connection, Any] = {}
        self._processes = []
        for _ in range(count):
            here, there = context.Pipe()
            process = context.Process(target=_cost, args=(there,), daemon=True)
            process.start()
            there.close()
            self._processes.append(process)
            self._idle.append(here)

    def free(self) -> bool:
        """Whether a worker has nothing to do."""
        return bool(self._idle)

    def busy(self) -> bool:
        """Whether a worker has something to do."""
        return bool(self._busy)

    def start(self, key: Any, task: Task) -> None:
        """Gives a task to a free worker."""
        worker = self._idle.pop()
        worker.send(task)
        self._busy[worker] = key

    def wait(self, watch: Callable[[Any, int, float], bool]) -> list[tuple[Any, Outcome]]:
        """Waits for news.

        Args:
            watch: Asked whether to stop the task of a key, after a round, at which its metric was this.

        Returns:
            The keys of the tasks that ended, and how.
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

    def close(self) -> None:
        """Ends the processes: what they were working on goes on from its last checkpoint another time."""
        for process in self._processes:
            process.terminate()
        for process in self._processes:
            process.join()


def _cost(boss: Connection) -> None:
    import signal

    from fedrecon.experiment.config import resolve
    from fedrecon.experiment.storage.compilation_cache import use_compilation_cache

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes; the first one decides
    use_compilation_cache()

    def watch(round: int, value: float) -> bool:
        boss.send((round, value))
        return bool(boss.recv())

    while True:
        try:
            task: Task = boss.recv()
        except EOFError:
            return
        try:
            outcome = run_trial(resolve(task.values, "sweep"), task.out, task.metric, watch)
        except Exception as error:
            outcome = Outcome(FAILED, message=f"{type(error).__name__}: {error}")
        boss.send(outcome)
