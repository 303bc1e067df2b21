"""What is told of rounds: their rows, their evaluations, and which of them is the best."""

import math
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from fedrecon.evaluation._evaluate import Evaluation
from fedrecon.evaluation._metric_names import DERIVED
from fedrecon.experiment.storage.metrics_log import COUNTS, TRAINING, Row, rows
from fedrecon.simulation._round import Round


class Evaluated(NamedTuple):
    """What callbacks get after each evaluated round.

    Attributes:
        round: Rounds done.
        rounds: Rounds asked for.
        state: The server's state.
        training: Means of the loss and of the metrics over the query examples since the last evaluation.
        evaluations: By the name of their clients' split.
        seconds: Since the run began.
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
        round: Rounds done.
        metric: What it was the best in, and `value` its value over examples.
        value: That value.
        global_params: The parameters.
        client_states_mark: The mark by which the store of client states goes back to that round; None for a
            stateless algorithm, and where only the last round will be asked for.
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
        """The best evaluation of a checkpoint, from its `info.json` and its arrays."""
        return cls(info["round"], info["metric"], info["value"], global_params, info.get("kept"))


def training_rows(round: Round, means: Mapping[str, tuple[float, float]]) -> Iterator[Row]:
    """The rows of a training round.

    Args:
        round: As the simulation gave it.
        means: Its metrics, each as (total, weight).
    """
    number = round.number
    for name, (total, weight) in means.items():
        if name in COUNTS:
            yield Row(number, "train", TRAINING, "total", name, total)
        else:
            value = mean_of(total, weight)
            more = {other: float(f(value)) for other, (source, f) in DERIVED.items() if source == name}
            yield from rows(number, "train", TRAINING, {"examples": {name: value, **more}})
    for name in ("clients", "bytes_down", "bytes_up", "dense_bytes_down", "dense_bytes_up"):
        yield Row(number, "train", TRAINING, "total", name, float(getattr(round, name)))


def mean_of(total: float, weight: float) -> float:
    """A mean, not a number where nothing has weight."""
    return total / weight if weight else math.nan
