"""The one table of metrics: how they are written, which way is better, and which of them is read first.

Everything that shows, compares, selects or tunes by metrics reads this table.
"""

import enum
import functools
import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any


class Direction(enum.Enum):
    """Which way a metric is better; the values are what a user writes, as in `"best:acc:max"`."""

    LOWER = "min"
    HIGHER = "max"

    def better(self, value: float, than: float) -> bool:
        """Whether a value is better than another; nothing is better or worse than what is not a number."""
        return value > than if self is Direction.HIGHER else value < than

    def reaches(self, value: float, target: float) -> bool:
        """Whether a value is at least as good as a target."""
        return value >= target if self is Direction.HIGHER else value <= target

    def loss(self, value: float) -> float:
        """The value with the sign by which the lowest is the best, for sorting."""
        return -value if self is Direction.HIGHER else value

    @property
    def worst(self) -> float:
        """The value that is worse than any other."""
        return -math.inf if self is Direction.HIGHER else math.inf

    @property
    def worst_decile(self) -> str:
        """Which decile of the distribution over clients a tenth of them fares worse than."""
        return "p10" if self is Direction.HIGHER else "p90"

    @property
    def words(self) -> str:
        """As a sentence has it: `"lower is better"`."""
        return "higher is better" if self is Direction.HIGHER else "lower is better"


@dataclass(frozen=True)
class Metric:
    """What is known of a metric.

    Attributes:
        name: The name by which models and scorings report the metric, in lower case, without qualifiers and
            without an `@K`.
        label: The label of the metric in tables and figures.
        direction: The direction in which the metric is better.
        source: The mean that it is a function of and says in a better unit, which is then not shown beside
            it; None where a model or scoring measures it itself.
        function: The function that derives the metric from the mean of `source`, of one client or pooled;
            None without a source.
    """

    name: str
    label: str
    direction: Direction
    source: str | None = None
    function: Callable[[Any], Any] | None = None


# The settings of an experiment read the table, and must not wait for NumPy.
def _square_root(x: Any) -> Any:
    import numpy as np

    return np.sqrt(x)


def _exponential(x: Any) -> Any:
    import numpy as np

    return np.exp(x)


# In order of preference: what a person reads first, what decides which round is the best, what a sweep tunes.
# Metrics that are read after `PREFERRED` follow in the order in which they were measured.
METRICS = (
    Metric("rmse", "RMSE", Direction.LOWER, source="mse", function=_square_root),
    Metric("accuracy", "accuracy", Direction.HIGHER),
    Metric("perplexity", "perplexity", Direction.LOWER, source="cross_entropy", function=_exponential),
    Metric("mse", "MSE", Direction.LOWER),
    Metric("mae", "MAE", Direction.LOWER),
    Metric("cross_entropy", "cross_entropy", Direction.LOWER),
    Metric("error", "error", Direction.LOWER),
    Metric("loss", "loss", Direction.LOWER),
    Metric("hr", "HR", Direction.HIGHER),
    Metric("hit_rate", "hit_rate", Direction.HIGHER),
    Metric("ndcg", "NDCG", Direction.HIGHER),
    Metric("recall", "recall", Direction.HIGHER),
    Metric("recall_min", "recall_min", Direction.HIGHER),
    Metric("precision", "precision", Direction.HIGHER),
    Metric("map", "MAP", Direction.HIGHER),
    Metric("mrr", "MRR", Direction.HIGHER),
    Metric("auc", "AUC", Direction.HIGHER),
    Metric("f1", "F1", Direction.HIGHER),
    Metric("gain", "gain", Direction.HIGHER),
)
PREFERRED = ("rmse", "accuracy", "perplexity")

# Which examples a metric is taken over, or how it is averaged: parts of a name, before or after that of the
# table, that do not change which way is better. Any other part may do so (`error_reduction`): a name with
# one is not known.
_BEFORE = r"(?:(?:sampled|train|val|validation|test|mean|macro|micro|weighted|top|\d+)_)*"
_AFTER = r"(?:_(?:no_oov|no_end|restricted|after_oov))*"
_NAME = re.compile(
    rf"({_BEFORE})({'|'.join(sorted((m.name for m in METRICS), key=len, reverse=True))})({_AFTER})(@\d+)?",
    re.IGNORECASE,
)
_BY_NAME = {metric.name: metric for metric in METRICS}

# What is reported beside the means that a model or scoring measures: the name of a mean and a function of it.
_SUFFIXES = ("", "_restricted", "_restricted_after_oov")
DERIVED: Mapping[str, tuple[str, Callable[[Any], Any]]] = {
    metric.name + suffix: (metric.source + suffix, metric.function)
    for metric in METRICS
    if metric.source is not None and metric.function is not None
    for suffix in (_SUFFIXES if metric.name == "perplexity" else ("",))
}
_SAID_BETTER = {source: name for name, (source, _) in DERIVED.items()}


@functools.cache
def find(metric: str) -> Metric | None:
    """The entry of a metric by its name, in any case; None where the table does not know it.

    A name may have an `@K`, and qualifiers that say over what the metric is taken: `sampled_ndcg@10`,
    `accuracy_no_oov`, `top_3_accuracy`.
    """
    matched = _NAME.fullmatch(metric)
    return None if matched is None else _BY_NAME[matched[2].lower()]


def direction_of(metric: str) -> Direction | None:
    """Which way a metric is better; None where the table does not know it, which callers must not guess."""
    entry = find(metric)
    return None if entry is None else entry.direction


def label_of(metric: str) -> str:
    """A metric's name for readers: `"RMSE"`, `"HR@10"`, `"sampled HR@10"`, `"accuracy"`."""
    matched = _NAME.fullmatch(metric)
    if matched is None:
        return metric
    before, name, after, at = matched.groups()
    label = _BY_NAME[name.lower()].label
    if label == name:  # what is written as it is called stays so: `top_3_accuracy`
        return metric
    return before.replace("_", " ") + label + after + (at or "")


def by_preference(metrics: Iterable[str]) -> list[str]:
    """Metrics in the order in which a person reads them."""
    names = list(dict.fromkeys(metrics))
    return [m for m in PREFERRED if m in names] + [m for m in names if m not in PREFERRED]


def shown_first(metrics: Iterable[str]) -> list[str]:
    """Metrics in the order in which a person reads them, those left out that another says better.

    A derived metric says its mean in a better unit, and any other metric says more than the loss.
    """
    names = list(dict.fromkeys(metrics))
    better = {name for name in names if _SAID_BETTER.get(name) in names}
    return by_preference(m for m in names if m not in better and not (m == "loss" and names[1:]))


def worst_decile(metric: str) -> str | None:
    """Which decile of the distribution over clients a tenth of them fares worse than; None if unknown."""
    direction = direction_of(metric)
    return None if direction is None else direction.worst_decile
