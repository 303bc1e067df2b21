"""Runs the trials of a sweep, one after the other or in several processes at the same time."""

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from fedrecon._safe_text import counted
from fedrecon.errors import RunError
from fedrecon.evaluation._metric_names import label_of
from fedrecon.experiment.config import Config
from fedrecon.experiment.sweep.search import BEST, PAGE, Sweep, number_of
from fedrecon.experiment.sweep.sequence import run_in_turn
from fedrecon.experiment.sweep.space import Dimension
from fedrecon.experiment.sweep.workers import FAULT, Search, Workers


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

    Several calls, in processes of one host or of several, may work on one folder. Each begins trials until
    there are as many, those that run elsewhere included, and ends with its own last trial.

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
        Whether all trials were run or are running elsewhere; False after Ctrl-C.

    Raises:
        ValueError: A setting does not fit the data or there is no such metric (a `SettingError`), or the
            folder cannot be written or belongs to another sweep, or processes died with trials that are to
            go on (a `RunError`).
    """
    opened = Sweep(config, space, out, metric, prune)
    try:
        before = len(opened.trials())
        goal = f"{label_of(opened.metric)} on the validation clients"
        screen.print(f"{config.name}: {trials} trials ({before} there), {goal}, folder {out}")
        try:
            if jobs == 1:
                finished = run_in_turn(opened, trials, screen)
            else:
                search = Search(config.model_dump(), tuple(space), out, trials, str(opened.tuned), prune)
                finished = _in_processes(opened, search, min(jobs, trials - before), screen)
        except KeyboardInterrupt:
            finished = False
            opened.give_up(opened.worker.name)  # a trial that was asked for right then
        opened.write()
        elsewhere, lost = opened.unfinished()
    finally:
        opened.close()
    if elsewhere:
        screen.print(f"Running in other processes: {counted(elsewhere, 'trial')} of this sweep.")
    best = opened.best()
    if config.privacy.on:
        count = len(opened.trials())
        screen.print(f"{count} private trials on the same clients are {count} releases: epsilons add up.")
    if not finished:
        screen.print(f"Interrupted; {len(opened.trials())} trials are kept, the same command goes on.")
    if best is not None:
        screen.print(f"Best: trial {number_of(best)}, {label_of(opened.metric)} {best.value:.4f}")
        screen.print(f"Now, with the test clients: fedrecon run {out / BEST}")
    elif finished and not elsewhere and not lost:
        raise RunError(f"{out}: no trial could be measured; {PAGE} says why")
    if finished and lost:
        raise RunError(
            f"{out}: processes died that ran {counted(lost, 'trial')}; the same command goes on with them"
        )
    return finished


def _in_processes(opened: Sweep, search: Search, count: int, screen: Console) -> bool:
    """Runs trials in processes of their own; Ctrl-C raises through it.

    Args:
        opened: The sweep.
        search: The sweep, of which each process runs trials.
        count: The number of processes.
        screen: The console that shows the progress.
    """
    workers = Workers(search, max(count, 0))
    ended: list[int] = []
    try:
        for name, status in workers.ends():
            ended.append(status)
            # What ended with a message had a fault that is not its trial's: the trial is to go on.
            for number in opened.give_up(name, None if status == FAULT else "its process died"):
                if status != FAULT:
                    screen.print(f"trial {number}: failed: its process died")
    finally:
        workers.close()
        for name in workers.names:
            opened.give_up(name)
    if FAULT in ended:
        raise RunError(f"{opened.out}: a process of the sweep had an error, which it printed")
    if ended and all(ended) and len(opened.trials()) < search.trials:
        raise RunError(f"{opened.out}: all processes of the sweep died")
    return True
