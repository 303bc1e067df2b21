"""Runs trials of a sweep in one process, one after the other."""

from typing import TYPE_CHECKING

from rich.console import Console

from fedrecon.errors import RunError
from fedrecon.evaluation._metric_names import label_of
from fedrecon.experiment.console.progress import duration
from fedrecon.experiment.reporting.figure_process import FigureProcess
from fedrecon.experiment.sweep.search import Sweep, number_of
from fedrecon.experiment.sweep.shared_work import SharedWork
from fedrecon.experiment.sweep.trial import FAILED, INTERRUPTED, STOPPED, Outcome, run_trial

if TYPE_CHECKING:
    from optuna.trial import Trial


def in_turn(opened: Sweep, trials: int, screen: Console) -> bool:
    """Runs trials in this process, one after the other, until there are as many; False after Ctrl-C."""
    with FigureProcess() as figures:
        shared = SharedWork(figures)
        while (asked := opened.ask(trials)) is not None:
            trial, config, folder = asked

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
        try:
            figures.wait()
        except RunError as error:
            screen.print(f"Note: {error}", markup=False)
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
