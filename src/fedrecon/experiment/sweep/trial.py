"""A trial of a sweep: trains a configuration and measures it on the validation clients."""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from fedrecon._files import remove
from fedrecon.evaluation._selection import Criterion, criterion, metric_in
from fedrecon.experiment.config import Config, override
from fedrecon.experiment.settings.sections import SettingError, flat
from fedrecon.experiment.storage.metrics_log import Row, place
from fedrecon.experiment.storage.run_folder import CHECKPOINTS, CLIENT_STATES
from fedrecon.experiment.sweep.shared_work import SharedWork
from fedrecon.experiment.tasks._task import Task
from fedrecon.experiment.training.build import spec_of, task_of
from fedrecon.experiment.training.evaluation_rows import Evaluated
from fedrecon.experiment.training.run import run
from fedrecon.experiment.training.run_spec import RunSpec

DONE, STOPPED, FAILED, INTERRUPTED = "done", "stopped", "failed", "interrupted"

# Decides from a round and the value of the metric after it whether a trial is stopped.
Watch = Callable[[int, float], bool]


class Outcome(NamedTuple):
    """How a trial ended.

    Attributes:
        state: `DONE`; `STOPPED`, by its watch; `FAILED`; or `INTERRUPTED`, by Ctrl-C.
        value: The metric's mean over the validation clients' examples; NaN, the default, where it failed.
        rounds: Rounds that were done; 0 by default.
        seconds: Seconds that the trial took in this process; 0 by default.
        message: The reason of a failure; `""` by default.
    """

    state: str
    value: float = math.nan
    rounds: int = 0
    seconds: float = 0.0
    message: str = ""


# Raised by the callback of a run to end it; it is no error, so its name does not end in "Error".
class _Stop(Exception):  # noqa: N818
    pass


def without_test(config: Config) -> Config:
    """The configuration without test clients, if its task has a setting for their share."""
    cut: dict[str, Any] = {"fractions": {"test": 0.0}}
    settings = flat(config.model_dump())
    for where, data in (("data", cut), ("data.protocol", {"protocol": cut})):
        if f"{where}.fractions.test" in settings:
            config = override(config, {"data": data})
    return config


def spec_without_test(config: Config, build: Callable[[Config], Task] | None = None) -> tuple[Task, RunSpec]:
    """The task and the run of a configuration, without test clients.

    Args:
        config: The configuration.
        build: Builds the task; None, the default, to build it from its data.

    Raises:
        SettingError: There are no validation clients.
    """
    config = without_test(config)
    task = (build or task_of)(config)
    held_out = {name: clients for name, clients in task.held_out.items() if name != "test"}
    task = replace(task, test=None, held_out=held_out, notes={})
    spec = spec_of(config, task)
    if not spec.while_training():
        raise SettingError("a sweep needs validation clients, but the experiment has none")
    return task, spec


def run_trial(
    config: Config,
    out: Path,
    metric: str,
    watch: Watch,
    tuned: Mapping[str, Any] | None = None,
    shared: SharedWork | None = None,
) -> Outcome:
    """Trains a configuration, or goes on with it, and measures it.

    Args:
        config: The configuration; its `evaluation.select` decides between the final and the best evaluation.
        out: The run folder; its checkpoints are removed when the trial is done.
        metric: The name of the metric, which is a mean over the examples of the first validation clients.
        watch: Is called after every evaluation, and decides whether the trial is stopped.
        tuned: The values of the tuned settings, by their dotted names; None, the default, for none.
        shared: What earlier trials left, which this one uses and adds to; None, the default, for nothing.
    """
    shared, tuned = shared or SharedWork(), tuned or {}
    values: dict[int, float] = {}
    first_time = True

    def watch_evaluation(evaluated: Evaluated) -> None:
        metrics = next(iter(evaluated.evaluations.values())).over_examples()
        judge(evaluated.round, evaluated.rounds, metrics)

    def judge(round: int, rounds: int, metrics: Mapping[str, float]) -> None:
        if round in values:
            return
        values[round] = metrics[metric]
        # A metric that is no number does not become one again.
        broken = not math.isfinite(values[round])
        if round < rounds and (broken or watch(round, values[round])):
            raise _Stop

    def judge_earlier(rows: Sequence[Row]) -> None:
        """Judges the evaluations before the checkpoint that a trial goes on from: those of the first rows."""
        nonlocal first_time
        if not first_time:
            return
        first_time = False
        earlier: dict[int, dict[str, float]] = {}
        for row in rows:
            if (row.split, row.protocol, row.weighting) == (*place(decided_by), "examples"):
                earlier.setdefault(row.round, {})[row.metric] = row.value
        for round, metrics in earlier.items():
            judge(round, config.training.rounds, metrics)

    state, started, diverged = DONE, time.monotonic(), None
    try:
        _, spec = spec_without_test(config, lambda config: shared.task_of(config, tuned))
        decided_by = spec.while_training()[0]
        with shared.used(tuned):
            result = run(
                spec,
                out=out,
                callbacks=[watch_evaluation],
                listener=judge_earlier,
                title=config.name,
                figures=shared.figures,
            )
        if result.interrupted:
            return Outcome(INTERRUPTED)
        rounds, diverged = result.rounds, result.divergence
        value = next(iter(result.evaluations.values())).over_examples()[metric]
        if spec.criterion is not None:
            # From the records and not from `values`, which lacks evaluations before an interruption.
            name = next(iter(result.evaluations))
            value = result.records.series(name, metric)[result.selected_round]
    except _Stop:
        rounds, value = max(values), values[max(values)]
        state = STOPPED
    except (ValueError, ArithmeticError) as error:
        return Outcome(FAILED, message=str(error))
    except OSError:
        # A full disk stops all trials; the sweep goes on when there is room again.
        raise
    # A trial that runs out of memory, or whose settings break something, must not end the others.
    except Exception as error:
        return Outcome(FAILED, message=f"{type(error).__name__}: {error}")
    seconds = time.monotonic() - started
    for name in (CHECKPOINTS, CLIENT_STATES):
        if (out / name).exists():
            remove(out / name)
    if diverged is not None:
        return Outcome(FAILED, math.nan, rounds, seconds, f"it diverged: {diverged}")
    if not math.isfinite(value):
        return Outcome(FAILED, value, rounds, seconds, f"{metric} is {value} after round {rounds}")
    return Outcome(state, value, rounds, seconds)


def metric_of(spec: RunSpec, wanted: str | None) -> Criterion:
    """The metric to tune, and which way it is better.

    Args:
        spec: The run, whose validation clients must have the metric.
        wanted: `"METRIC"`, `"METRIC:max"` or `"METRIC:min"`; None for the metric that selects the best round
            of a trial, or else for the first in the table of metrics.

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
