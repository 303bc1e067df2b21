"""The one table of metrics: their labels, the direction in which each is better, and their order.

All code that shows, compares, selects or tunes by metrics reads this table.
"""

import enum
import functools
import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any


class Direction(enum.Enum):
    """The direction in which a metric is better; the values are those of settings, as in `"best:acc:max"`."""

    LOWER = "min"
    HIGHER = "max"

    def better(self, value: float, than: float) -> bool:
        """Whether a value is better than another; False if one of them is NaN."""
        return value > than if self is Direction.HIGHER else value < than

    def reaches(self, value: float, target: float) -> bool:
        """Whether a value is at least as good as a target."""
        return value >= target if self is Direction.HIGHER else value <= target

    def loss(self, value: float) -> float:
        """The value with such a sign that lower is better, for sorting."""
        return -value if self is Direction.HIGHER else value

    @property
    def worst(self) -> float:
        """The value that is worse than any other."""
        return -math.inf if self is Direction.HIGHER else math.inf

    @property
    def worst_decile(self) -> str:
        """The decile of the distribution over clients beyond which the worst tenth of them lies."""
        return "p10" if self is Direction.HIGHER else "p90"

    @property
    def words(self) -> str:
        """The direction as part of a sentence: `"lower is better"`."""
        return "higher is better" if self is Direction.HIGHER else "lower is better"


@dataclass(frozen=True)
class Metric:
    """The entry of a metric in the table.

    Attributes:
        name: The name by which models and scorings report the metric, in lower case, without qualifiers and
            without an `@K`.
        label: The label of the metric in tables and figures.
        direction: The direction in which the metric is better.
        source: The name of the mean from which the metric is derived; that mean is not shown beside it, since
            the metric has the better unit. None, the default, for a metric that is measured itself.
        function: The function that derives the metric from the mean of `source`, of one client or pooled;
            None, the default, without a source.
    """

    name: str
    label: str
    direction: Direction
    source: str | None = None
    function: Callable[[Any], Any] | None = None


# NumPy is imported in the functions: the settings of an experiment read the table, and must not wait for it.
def _square_root(x: Any) -> Any:
    import numpy as np

    return np.sqrt(x)


def _exponential(x: Any) -> Any:
    import numpy as np

    return np.exp(x)


# `PREFERRED` is the order of preference, which decides what is shown first, by what the best round is
# selected, and what a sweep tunes. Metrics after those follow in the order in which they were measured.
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

# Qualifiers, before or after a name of the table, which say over what examples a metric is taken or how it is
# averaged, and do not change its direction. Any other part of a name may change it (`error_reduction`), so
# that such a name is unknown.
_BEFORE = r"(?:(?:sampled|train|val|validation|test|mean|macro|micro|weighted|top|\d+)_)*"
_AFTER = r"(?:_(?:no_oov|no_end|restricted|after_oov|own_word))*"
_NAME = re.compile(
    rf"({_BEFORE})({'|'.join(sorted((m.name for m in METRICS), key=len, reverse=True))})({_AFTER})(@\d+)?",
    re.IGNORECASE,
)
_BY_NAME = {metric.name: metric for metric in METRICS}

# Metrics that are derived from the means that a model or scoring measures, with the mean and the function.
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
    """The entry of a metric by its name, in upper or lower case; None if the table does not have it.

    A name may have an `@K`, and qualifiers that say over what examples the metric is taken:
    `sampled_ndcg@10`, `accuracy_no_oov`, `top_3_accuracy`.
    """
    matched = _NAME.fullmatch(metric)
    return None if matched is None else _BY_NAME[matched[2].lower()]


def direction_of(metric: str) -> Direction | None:
    """The direction in which a metric is better; None if it is unknown, and callers must not guess it."""
    entry = find(metric)
    return None if entry is None else entry.direction


def label_of(metric: str) -> str:
    """A metric's name for readers: `"RMSE"`, `"HR@10"`, `"sampled HR@10"`, `"accuracy"`."""
    matched = _NAME.fullmatch(metric)
    if matched is None:
        return metric
    before, name, after, at = matched.groups()
    label = _BY_NAME[name.lower()].label
    if label == name:  # a metric whose label is its name keeps its underscores: `top_3_accuracy`
        return metric
    return before.replace("_", " ") + label + after + (at or "")


def by_preference(metrics: Iterable[str]) -> list[str]:
    """Metrics in the order in which they are shown: those of `PREFERRED` first."""
    names = list(dict.fromkeys(metrics))
    return [m for m in PREFERRED if m in names] + [m for m in names if m not in PREFERRED]


def shown_first(metrics: Iterable[str]) -> list[str]:
    """Metrics in the order in which they are shown, without those that another one replaces.

    A derived metric replaces the mean from which it is derived, and any other metric replaces the loss.
    """
    names = list(dict.fromkeys(metrics))
    better = {name for name in names if _SAID_BETTER.get(name) in names}
    return by_preference(m for m in names if m not in better and not (m == "loss" and names[1:]))


def worst_decile(metric: str) -> str | None:
    """The decile beyond which the worst tenth of the clients lies; None for a metric of unknown direction."""
    direction = direction_of(metric)
    return None if direction is None else direction.worst_decile
