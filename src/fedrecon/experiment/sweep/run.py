"""Runs the trials of a sweep, one after the other or several at the same time."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from fedrecon.errors import RunError
from fedrecon.evaluation._metric_names import label_of
from fedrecon.experiment.config import Config
from fedrecon.experiment.console.progress import duration
from fedrecon.experiment.reporting.figure_process import FigureProcess
from fedrecon.experiment.sweep.search import BEST, PAGE, Sweep, number_of
from fedrecon.experiment.sweep.shared_work import SharedWork
from fedrecon.experiment.sweep.space import Dimension
from fedrecon.experiment.sweep.trial import FAILED, INTERRUPTED, STOPPED, Outcome, run_trial
from fedrecon.experiment.sweep.workers import Task, Workers, figures_drawn

if TYPE_CHECKING:
    from optuna.trial import Trial


def sweep(
    config: Config,
    space: Sequence[Dimension],
    out: Path,
    screen: Console,
    trials: int,
    jobs: int = 1,
    metric: str | None = None,
    prune: bool = False,
) -> bool:
    """Runs trials until a sweep has a given number of them, and writes the best configuration.

    Args:
        config: The configuration of the experiment whose settings are tuned.
        space: The settings that are tuned, and their values.
        out: The folder of the sweep.
        screen: The console that shows the progress.
        trials: The number of trials, those of earlier calls included.
        jobs: The number of processes that run trials at the same time; by default 1, this process.
        metric: The metric to tune, see `Sweep`; None, the default, leaves the choice to the sweep.
        prune: Whether bad trials are stopped early; False by default.

    Returns:
        Whether all trials were run; False after Ctrl-C.

    Raises:
        ValueError: A setting does not fit the data or there is no such metric (a `SettingError`), or the
            folder cannot be written or belongs to another sweep (a `RunError`).
    """
    opened = Sweep(config, space, out, metric, prune)
    try:
        before = len(opened.trials())
        goal = f"{label_of(opened.metric)} on the validation clients"
        screen.print(f"{config.name}: {trials} trials ({before} there), {goal}, folder {out}")
        left = trials - before
        try:
            if jobs == 1:
                finished = _in_turn(opened, left, screen)
            else:
                finished = _in_processes(opened, left, screen, jobs)
        except KeyboardInterrupt:
            finished = False
        opened.write()
    finally:
        opened.close()
    best = opened.best()
    if config.privacy.on:
        count = len(opened.trials())
        screen.print(f"{count} private trials on the same clients are {count} releases: epsilons add up.")
    if not finished:
        screen.print(f"Interrupted; {len(opened.trials())} trials are kept, the same command goes on.")
    if best is not None:
        screen.print(f"Best: trial {number_of(best)}, {label_of(opened.metric)} {best.value:.4f}")
        screen.print(f"Now, with the test clients: fedrecon run {out / BEST}")
    elif finished:
        raise RunError(f"{out}: no trial could be measured; {PAGE} says why")
    return finished


def _in_turn(opened: Sweep, count: int, screen: Console) -> bool:
    """Runs trials in this process, one after the other; returns False after Ctrl-C."""
    with FigureProcess() as figures:
        shared = SharedWork(figures)
        for _ in range(count):
            trial, config, folder = opened.ask()

            def watch(round: int, value: float, trial: "Trial" = trial) -> bool:
                return opened.watch(trial, round, value)

            try:
                outcome = run_trial(config, folder, opened.metric, watch, trial.params, shared)
            except KeyboardInterrupt:
                outcome = Outcome(INTERRUPTED)
            opened.tell(trial, outcome)
            if outcome.state == INTERRUPTED:
                return False
            _say(opened, trial, outcome, screen)
        note = figures_drawn(figures)
        if note:
            screen.print(f"Note: {note}", markup=False)
    return True


def _in_processes(opened: Sweep, count: int, screen: Console, jobs: int) -> bool:
    """Runs trials in processes of their own, `jobs` at a time; Ctrl-C raises through it."""
    if count <= 0:
        return True
    workers = Workers(min(jobs, count))
    running: dict[int, Any] = {}
    started = 0
    try:
        while started < count or workers.busy():
            while started < count and workers.free():
                trial, config, folder = opened.ask()
                running[trial.number] = trial
                task = Task(config.model_dump(), folder, opened.metric, trial.params)
                workers.start(trial.number, task)
                started += 1
            if not workers.busy():
                raise RunError(f"{opened.out}: all processes of the sweep died")
            for number, outcome in workers.wait(lambda n, r, v: opened.watch(running[n], r, v)):
                trial = running.pop(number)
                opened.tell(trial, outcome)
                _say(opened, trial, outcome, screen)
        for note in workers.finish():
            screen.print(f"Note: {note}", markup=False)
    finally:
        workers.close()
        for trial in running.values():
            opened.tell(trial, Outcome(INTERRUPTED))
    return True


def _say(opened: Sweep, trial: "Trial", outcome: Outcome, screen: Console) -> None:
    """Prints a line about a trial that ended."""
    best = opened.best()
    done = f"trial {number_of(trial)}"
    what = f"{label_of(opened.metric)} {outcome.value:.4f}"
    if outcome.state == STOPPED:
        what += f", stopped after round {outcome.rounds}"
    elif outcome.state == FAILED:
        what = f"failed: {outcome.message}"
    chosen = "  ".join(f"{name.removeprefix('algorithm.')}={_shown(x)}" for name, x in trial.params.items())
    so_far = "" if best is None else f"  best {best.value:.4f} (trial {number_of(best)})"
    took = f"  {duration(outcome.seconds)}" if outcome.seconds else ""
    screen.print(f"{done}: {what}{took}{so_far}  {chosen}", soft_wrap=True)


def _shown(value: object) -> str:
    return "" if value is None else f"{value:.6g}" if isinstance(value, float) else str(value)
