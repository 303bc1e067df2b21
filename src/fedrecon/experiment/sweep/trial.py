"""One trial of a sweep: trains a configuration and measures it on the validation clients."""

import math
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from fedrecon._files import remove
from fedrecon.evaluation._selection import Criterion, criterion, metric_in
from fedrecon.experiment.config import Config, override
from fedrecon.experiment.settings.sections import SettingError, flat
from fedrecon.experiment.storage.run_folder import CHECKPOINTS, CLIENT_STATES
from fedrecon.experiment.tasks._task import Task
from fedrecon.experiment.training.build import spec_of, task_of
from fedrecon.experiment.training.evaluation_rows import Evaluated
from fedrecon.experiment.training.run_spec import RunSpec
from fedrecon.experiment.training.train import run

DONE, STOPPED, FAILED, INTERRUPTED = "done", "stopped", "failed", "interrupted"

# Whether a trial is to be stopped, after this round, at which its metric was this.
Watch = Callable[[int, float], bool]


class Outcome(NamedTuple):
    """How a trial ended.

    Attributes:
        state: `DONE`; `STOPPED` by its watch; `FAILED`; `INTERRUPTED` by Ctrl-C.
        value: Of the metric over the validation clients' examples; NaN where it failed.
        rounds: Rounds done.
        seconds: It took in this process.
        message: Why it failed.
    """

    state: str
    value: float = math.nan
    rounds: int = 0
    seconds: float = 0.0
    message: str = ""


class _Stop(Exception):  # noqa: N818 - a wish, not an error
    pass


def without_test(config: Config) -> Config:
    """The configuration without a share of the clients for the test, where its task has such a share."""
    cut: dict[str, Any] = {"fractions": {"test": 0.0}}
    known = flat(config.model_dump())
    for where, data in (("data", cut), ("data.protocol", {"protocol": cut})):
        if f"{where}.fractions.test" in known:
            config = override(config, {"data": data})
    return config


def job_without_test(config: Config) -> tuple[Task, RunSpec]:
    """The task and the job of a configuration, of which the test clients are no part.

    Raises:
        SettingError: There are no validation clients.
    """
    config = without_test(config)
    task = task_of(config)
    held_out = {name: clients for name, clients in task.held_out.items() if name != "test"}
    task = replace(task, test=None, held_out=held_out, notes={})
    spec = spec_of(config, task)
    if not spec.while_training():
        raise SettingError("a sweep needs validation clients, but the experiment has none")
    return task, spec


def run_trial(config: Config, out: Path, metric: str, watch: Watch) -> Outcome:
    """Trains a configuration, or goes on with it, and measures it.

    Args:
        config: Whose `evaluation.select` decides between the final and the best evaluation.
        out: Its run folder; once it is done, it has no checkpoints any more.
        metric: Of the first validation clients, over examples.
        watch: Told of every evaluation.
    """
    values: dict[int, float] = {}
    decisive: dict[int, float] = {}  # of the metric that selects the best round, which may be another one
    selected: Criterion | None = None

    def evaluated(report: Evaluated) -> None:
        metrics = next(iter(report.evaluations.values())).over_examples()
        values[report.round] = metrics[metric]
        if selected is not None:
            decisive[report.round] = metrics[selected.metric]
        # What is no number now will be none later.
        broken = not math.isfinite(values[report.round])
        if report.round < report.rounds and (broken or watch(report.round, values[report.round])):
            raise _Stop

    state, started = DONE, time.monotonic()
    try:
        _, spec = job_without_test(config)
        selected = spec.criterion
        result = run(spec, out=out, callbacks=[evaluated], title=config.name)
        if result.interrupted:
            return Outcome(INTERRUPTED)
        rounds = result.rounds
        found = next(iter(result.evaluations.values())).over_examples()[metric]
        # A trial that was interrupted and goes on has recorded its earlier evaluations.
        name = next(iter(result.evaluations))
        if selected is not None:
            found = result.records.series(name, metric)[result.selected_round]
    except _Stop:
        rounds, found = max(values), values[max(values)]
        if math.isfinite(found):
            state = STOPPED
        elif selected is not None:
            finite = {round: x for round, x in decisive.items() if math.isfinite(x)}
            loss = selected.direction.loss
            found = values[min(finite, key=lambda round: loss(finite[round]))] if finite else math.nan
    except (ValueError, ArithmeticError) as error:
        return Outcome(FAILED, message=str(error))
    except OSError:  # a full disk stops all trials, and the sweep goes on when there is room
        raise
    # One trial that runs out of memory, or that a setting breaks, says nothing of the others.
    except Exception as error:
        return Outcome(FAILED, message=f"{type(error).__name__}: {error}")
    seconds = time.monotonic() - started
    for name in (CHECKPOINTS, CLIENT_STATES):
        if (out / name).exists():
            remove(out / name)
    if not math.isfinite(found):
        return Outcome(FAILED, found, rounds, seconds, f"{metric} is {found} after round {rounds}")
    return Outcome(state, found, rounds, seconds)


def metric_of(spec: RunSpec, wanted: str | None) -> Criterion:
    """The metric to tune, and which way it is better.

    Args:
        spec: Whose validation clients have it.
        wanted: `"METRIC"`, `"METRIC:max"` or `"METRIC:min"`; None for what selects the best round of a
            trial, or else for what is read first.

    Raises:
        SettingError: The clients have no such metric or none at all, or it is unknown which way it is better.
    """
    names = spec.metric_names()
    if not names:
        raise SettingError("a sweep needs a metric, but the experiment's scoring measures none")
    try:
        return criterion(wanted or metric_in(spec.select), names, "--metric")
    except ValueError as error:
        raise SettingError(str(error)) from None
