"""Processes that run trials of one sweep at the same time.

They share nothing but the study in the sweep's folder, as processes on several hosts do.
"""

import multiprocessing
import multiprocessing.connection
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from threading import Thread
from typing import Any, NamedTuple

from fedrecon.experiment.sweep.shared_study import worker_name
from fedrecon.experiment.sweep.space import Dimension

# The exit status of a process that printed why it ended, such as a full disk.
FAULT = 3


class Search(NamedTuple):
    """A sweep as its processes get it, which open its folder by themselves.

    Attributes:
        values: The settings of the configuration as nested tables.
        space: The settings that are tuned, and their values.
        out: The folder of the sweep.
        trials: The number of trials that it is to have.
        metric: The metric to tune, and which way it is better.
        prune: Whether bad trials are stopped early.
    """

    values: dict[str, Any]
    space: tuple[Dimension, ...]
    out: Path
    trials: int
    metric: str
    prune: bool


class Workers:
    """Processes that run trials until a sweep has as many as it is to have.

    Attributes:
        names: The names of the processes in the study.

    Args:
        search: The sweep, of which each process runs trials.
        count: The number of processes.
    """

    def __init__(self, search: Search, count: int):
        # A fork of a process that runs JAX can hang, since JAX has threads.
        context = multiprocessing.get_context("spawn")
        self.names = [worker_name() for _ in range(count)]
        self._processes = [
            context.Process(target=_work, args=(search, name), daemon=True) for name in self.names
        ]
        for process in self._processes:
            process.start()

    def ends(self) -> Iterator[tuple[str, int]]:
        """The name and exit status of each process when it has ended."""
        left = {process.sentinel: index for index, process in enumerate(self._processes)}
        while left:
            for sentinel in multiprocessing.connection.wait(list(left)):
                assert isinstance(sentinel, int)
                index = left.pop(sentinel)
                process = self._processes[index]
                process.join()
                yield self.names[index], process.exitcode or 0

    def close(self) -> None:
        """Ends the processes. Trials that they were running can be resumed from their last checkpoints."""
        for process in self._processes:
            process.terminate()
        for process in self._processes:
            process.join()


def _work(search: Search, name: str) -> None:
    """The main function of a process."""
    import signal

    from fedrecon.experiment.config import resolve
    from fedrecon.experiment.storage.compilation_cache import use_compilation_cache
    from fedrecon.experiment.sweep.search import Sweep
    from fedrecon.experiment.sweep.sequence import run_in_turn
    from fedrecon.experiment.training.run_experiment import console

    # Ctrl-C reaches all processes of the terminal, but only the main one decides what happens.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    Thread(target=_end_with_parent, daemon=True).start()
    use_compilation_cache()
    screen = console()
    try:
        config = resolve(search.values, "sweep")
        opened = Sweep(config, search.space, search.out, search.metric, search.prune, worker=name)
        try:
            run_in_turn(opened, search.trials, screen)
        finally:
            opened.close()
    except (OSError, ValueError) as error:
        screen.print(f"Error: {error}", markup=False)
        sys.exit(FAULT)


def _end_with_parent() -> None:
    """Ends this process as soon as its parent has ended, however that did."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
