"""What predictors that cost nothing reach, beside a result: in `result.json` and in tables."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from fedrecon.experiment.storage.metrics_log import place

if TYPE_CHECKING:
    from fedrecon.evaluation._evaluation import Evaluation

# The key of a set of clients in `result.json` under which the baselines are.
BASELINES = "baselines"


def baseline_values(baselines: "Mapping[str, Mapping[str, Evaluation]]") -> dict[str, Any]:
    """What baselines reach: `{split: {baseline: {protocol: {"examples": {metric: value}, "clients": …}}}}`.

    Args:
        baselines: The evaluations of the baselines, by the name of the set of clients and of the baseline.
    """
    nested: dict[str, Any] = {}
    for name, evaluations in baselines.items():
        split, protocol = place(name)
        for baseline, evaluation in evaluations.items():
            means = {"examples": evaluation.over_examples(), "clients": evaluation.over_clients()}
            nested.setdefault(split, {}).setdefault(baseline, {})[protocol] = means
    return nested


def label_of_baseline(name: str) -> str:
    """A baseline as tables write it: `"by training mean"`."""
    return f"by {name.replace('_', ' ')}"
