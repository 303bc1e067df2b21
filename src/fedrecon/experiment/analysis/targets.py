"""The targets of a comparison: qualities, and the rounds and clients that runs took to reach them."""

import math
from collections.abc import Sequence
from itertools import accumulate
from typing import NamedTuple

from fedrecon.evaluation._metric_names import Direction, direction_of
from fedrecon.evaluation._selection import Criterion
from fedrecon.experiment.analysis.runs import Method, Run
from fedrecon.experiment.reporting.tables import Cell, Spread
from fedrecon.experiment.settings.sections import SettingError
from fedrecon.experiment.storage.metrics_log import TRAINING, name_of


class Target(NamedTuple):
    """A quality that runs should reach.

    Attributes:
        metric: The name of the metric, for instance `"rmse"`.
        value: The value, which a run has reached when the metric's mean over examples is at least as good.
        direction: Whether higher or lower values of the metric are better.
    """

    metric: str
    value: float
    direction: Direction

    @classmethod
    def parse(cls, text: str) -> "Target":
        """Reads a target as the command line takes it.

        Args:
            text: For instance `"rmse=0.93"`; or `"acc:max=0.7"` for a metric that the table of metrics lacks.

        Raises:
            SettingError: The text has another form, or it is unknown which way the metric is better.
        """
        name, _, number = text.partition("=")
        try:
            value = float(number)
        except ValueError:
            value = math.nan
        if not name or not math.isfinite(value):
            raise SettingError(f"--target takes METRIC=VALUE, for instance rmse=0.93, got {text!r}")
        metric, given = Criterion.parse(name)
        direction = given or direction_of(metric)
        if direction is None:
            raise SettingError(
                f"--target: it is not known whether more {metric} is better or worse; say it: "
                f"{metric}:max={number} or {metric}:min={number}"
            )
        return cls(metric, value, direction)

    def is_met_by(self, value: float) -> bool:
        """Whether a value of the metric is at least as good as the target."""
        return self.direction.reaches(value, self.value)


def first_reach(run: Run, name: str, target: Target) -> tuple[float, float] | None:
    """When a run first reached a target.

    Args:
        run: The run.
        name: The name of the set of clients whose metric is compared with the target.
        target: The target.

    Returns:
        The round, and the number of clients that had taken part up to it, each counted once a round; None if
        the run did not reach the target.
    """
    cohorts = run.records.series("train", "clients", "total")
    clients = dict(zip(cohorts, accumulate(cohorts.values()), strict=True))
    for round, value in sorted(run.records.series(name, target.metric).items()):
        if target.is_met_by(value):
            return float(round), clients.get(round, math.nan)
    return None


def cells_until(method: Method, name: str, target: Target) -> list[Cell]:
    """Two cells: the rounds, and the clients, until the runs of a method reached a target."""
    if not all(run.records.series(name, target.metric) for run in method.runs):
        return ["not measured"] * 2
    reaches = [first_reach(run, name, target) for run in method.runs]
    reached = [reach for reach in reaches if reach is not None]
    if len(reached) == len(reaches):
        return [Spread.of([rounds for rounds, _ in reached]), Spread.of([clients for _, clients in reached])]
    return [f"{len(reached)} of {len(reaches)} seeds" if len(reaches) > 1 else "not reached"] * 2


def recorded_set(methods: Sequence[Method], metric: str) -> str:
    """The name of the set of clients for which a metric was recorded while training."""
    rows = [r for m in methods for run in m.runs for r in run.records if r.protocol != TRAINING]
    names = dict.fromkeys(name_of(*r[1:3]) for r in rows if r.metric == metric and r.split != "test")
    if not names:
        recorded = ", ".join(sorted({r.metric for r in rows}))
        raise SettingError(f"--target: no run recorded {metric} while training, only {recorded}")
    return "validation" if "validation" in names else next(iter(names))
