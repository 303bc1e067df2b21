"""Selection of the parameters with which a run ends: the last ones, or those of the best evaluation."""

from collections.abc import Iterable
from dataclasses import dataclass

from fedrecon.evaluation._metric_names import Direction, direction_of, label_of, shown_first

FORMS = "'final', 'best', 'best:METRIC' or 'best:METRIC:max' (or ':min')"


@dataclass(frozen=True)
class Criterion:
    """A metric with the direction in which it is better.

    Attributes:
        metric: The name of the metric that decides.
        direction: The direction in which the metric is better.
    """

    metric: str
    direction: Direction

    def __str__(self) -> str:
        """The criterion as a setting has it: `"rmse:min"`."""
        return f"{self.metric}:{self.direction.value}"

    @property
    def words(self) -> str:
        """The criterion as part of a sentence: `"RMSE, lower is better"`."""
        return f"{label_of(self.metric)}, {self.direction.words}"

    @staticmethod
    def parse(text: str) -> "tuple[str, Direction | None]":
        """Metric and direction of `"METRIC:max"` or `"METRIC:min"`; the direction of `"METRIC"` is None."""
        for direction in Direction:
            if text.endswith(f":{direction.value}"):
                return text.removesuffix(f":{direction.value}"), direction
        return text, None


def criterion(text: str | None, measured: Iterable[str], name: str, prefix: str = "") -> Criterion:
    """The metric to select or tune by.

    Args:
        text: The value of the setting: `"METRIC"`, or `"METRIC:max"` or `"METRIC:min"` for a metric whose
            direction is not in the table of metrics; None for the measured metric that is shown first.
        measured: The names of the metrics that are measured.
        name: The name of the parameter or option, for messages.
        prefix: The text before the metric in the setting's value, for messages; `""` by default.

    Raises:
        ValueError: No metric is measured, the metric is not among those measured, or its direction is
            unknown.
    """
    names = list(measured)
    if not names:
        raise ValueError(f"{name} needs a metric, but the model or scoring measures none")
    metric, given = Criterion.parse(text) if text else (shown_first(names)[0], None)
    if metric not in names:
        raise ValueError(f"{name} must be one of {', '.join(sorted(names))}, got {metric!r}")
    direction = given or direction_of(metric)
    if direction is None:
        raise ValueError(
            f"{name}: it is not known whether more {metric} is better or worse; say it: "
            f"{prefix}{metric}:max or {prefix}{metric}:min"
        )
    return Criterion(metric, direction)


def is_selection(select: str) -> bool:
    """Whether a value of `select` has one of the `FORMS`."""
    kind, colon, criterion = select.partition(":")
    return select == "final" or (kind == "best" and (not colon or Criterion.parse(criterion)[0] != ""))


def metric_in(select: str) -> str | None:
    """The part of a value of `select` that names a metric, such as `"METRIC:max"`; None if it names none."""
    return select.partition(":")[2] or None
