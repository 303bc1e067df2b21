"""Records of rounds: rows of training metrics, evaluated rounds, and the best evaluation."""

import math
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from fedrecon.evaluation._evaluation import Evaluation
from fedrecon.evaluation._metric_names import DERIVED
from fedrecon.experiment.storage.metrics_log import COUNTS, TRAINING, Row, rows
from fedrecon.simulation._round import Round


class Evaluated(NamedTuple):
    """An evaluated round, as callbacks receive it.

    Attributes:
        round: The number of rounds done.
        rounds: The number of rounds of the whole run.
        state: The server's state after the round.
        training: Means of the training loss and metrics over the query examples since the last evaluation.
        evaluations: Evaluations by the name of the set of clients.
        seconds: Seconds since the run began, those of earlier processes included.
    """

    round: int
    rounds: int
    state: Any
    training: dict[str, float]
    evaluations: dict[str, Evaluation]
    seconds: float


class Best(NamedTuple):
    """The best evaluation so far.

    Attributes:
        round: The number of rounds done before the evaluation.
        metric: The name of the metric that decides which evaluation is the best.
        value: The value of that metric, the mean over examples.
        global_params: The parameters after that round.
        client_states_mark: The mark by which the store of client states goes back to that round; None, the
            default, for a stateless algorithm.
    """

    round: int
    metric: str
    value: float
    global_params: Any
    client_states_mark: Mapping[str, Any] | None = None

    def to_info(self) -> dict[str, Any]:
        """The JSON values in a checkpoint's `info.json`; the parameters are among its arrays."""
        return {
            "round": self.round,
            "metric": self.metric,
            "value": self.value,
            "kept": self.client_states_mark,
        }

    @classmethod
    def from_info(cls, info: Mapping[str, Any], global_params: Any) -> "Best":
        """The best evaluation that a checkpoint holds.

        Args:
            info: The JSON values that `to_info` returned when it was saved.
            global_params: The parameters among the arrays of the checkpoint.
        """
        return cls(info["round"], info["metric"], info["value"], global_params, info.get("kept"))


def metric_rows(number: int, means: Mapping[str, tuple[float, float]]) -> Iterator[Row]:
    """The rows of the training metrics of a round.

    Args:
        number: The number of the round.
        means: The training metrics of the round by their names, each as (total, weight).
    """
    for name, (total, weight) in means.items():
        if name in COUNTS:
            yield Row(number, "train", TRAINING, "total", name, total)
        else:
            value = mean_of(total, weight)
            derived = {other: float(f(value)) for other, (source, f) in DERIVED.items() if source == name}
            yield from rows(number, "train", TRAINING, {"examples": {name: value, **derived}})


def size_rows(round: Round) -> Iterator[Row]:
    """The rows of a training round about the size of its cohort and the bytes that it exchanges."""
    for name in ("clients", "bytes_down", "bytes_up", "dense_bytes_down", "dense_bytes_up"):
        yield Row(round.number, "train", TRAINING, "total", name, float(getattr(round, name)))


def mean_of(total: float, weight: float) -> float:
    """A mean from its total and weight; NaN where the weight is 0."""
    return total / weight if weight else math.nan
