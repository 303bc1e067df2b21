"""Experiments beside each other, each in a process of its own."""

import json
import math
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from fedrecon.experiment.console.progress import duration
from fedrecon.experiment.distributed.signals import Interrupt
from fedrecon.experiment.reporting.tables import Spread
from fedrecon.experiment.storage.run_folder import RESULT

_LAST = 15  # lines of a log that are shown where a command failed


def command(
    experiment: Path, out: Path, data: str, seeds: int = 1, settings: Sequence[str] = ()
) -> list[str]:
    """`fedrecon run` of an experiment, with several seeds if that many are asked for.

    Args:
        experiment: Its file.
        out: The run folder, or that of all seeds.
        data: Where the data are.
        seeds: How many, from the experiment's own on.
        settings: `NAME=VALUE`.
    """
    words = [sys.executable, "-m", "fedrecon", "run", str(experiment), "--data", data, "--out", str(out)]
    for text in settings:
        words += ["--set", text]
    return [*words, "--seeds", str(seeds)] if seeds > 1 else words


def run_side_by_side(commands: Mapping[Path, Sequence[str]], jobs: int, screen: Console) -> int:
    """Runs commands, so many at once, in their order.

    Ctrl-C is passed on to those that run, and no further one is started; so it is after one that failed.

    Args:
        commands: By the folder of each, beside which `log_of` gets what it prints.
        jobs: How many at once.
        screen: Where starts and ends are told.

    Returns:
        0, or the exit status of the first command that failed, or 130 after Ctrl-C.
    """
    waiting, running, failed = list(commands.items()), dict[Any, tuple[Path, float]](), 0
    with Interrupt() as interrupt:
        while running or (waiting and not failed):
            while waiting and len(running) < jobs and not failed:
                folder, words = waiting.pop(0)
                folder.parent.mkdir(parents=True, exist_ok=True)
                with open(log_of(folder), "a", encoding="utf-8") as log:
                    # In a session of its own, so that Ctrl-C reaches it once.
                    process = subprocess.Popen(words, stdout=log, stderr=log, start_new_session=True)
                running[process] = folder, time.monotonic()
                screen.print(f"{folder.name}: started, {log_of(folder)}", markup=False)
            time.sleep(0.1)
            if interrupt.asked and failed != 130:
                failed = 130
                for process in running:
                    process.send_signal(signal.SIGINT)
            for process in [p for p in running if p.poll() is not None]:
                folder, started = running.pop(process)
                screen.print(_ended(folder, process.returncode, time.monotonic() - started), markup=False)
                failed = failed or process.returncode
    return failed


def log_of(folder: Path) -> Path:
    """Where a command's output goes: beside its folder, since a new run wants an empty one."""
    return folder.with_name(f"{folder.name}.log")


def measured(folder: Path, split: str, protocol: str, metric: str) -> Spread:
    """A final metric over examples, of a run or of all its seeds; NaN where one of them diverged."""
    result = json.loads((folder / RESULT).read_text(encoding="utf-8"))
    found = result[split][protocol]["examples"][metric]
    values = found["values"] if isinstance(found, dict) else [found]
    return Spread.of([math.nan if value is None else value for value in values])


def _ended(folder: Path, status: int, seconds: float) -> str:
    if not status:
        return f"{folder.name}: done in {duration(seconds)}"
    lines = log_of(folder).read_text(encoding="utf-8").splitlines()[-_LAST:]
    return "\n".join([f"{folder.name}: ended with status {status}; the same command goes on", *lines])
