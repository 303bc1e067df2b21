"""The result of an evaluation: each client's means of all metrics, and summaries over the clients."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from fedrecon._safe_text import counted
from fedrecon.core._mean import Mean
from fedrecon.evaluation._metric_names import DERIVED


def evaluated_of(evaluated: int, asked: int) -> str:
    """The text `"2 of 10 clients"`, or `"10 clients"` if all were evaluated."""
    return counted(asked, "client") if evaluated == asked else f"{evaluated:,} of {counted(asked, 'client')}"


class Evaluation:
    """Each client's means of all metrics, and summaries over the clients.

    Attributes:
        ids: The clients' names, `[client]`.
        per_client: The sums `(total, weight)` of each metric by its name, both float64 `[client]`. A client
            without a test example has weight 0.
        asked_clients: The number of clients that were to be evaluated.
        evaluated_clients: The number of clients with a test example for at least one metric.
    """

    def __init__(self, ids: np.ndarray, per_client: Mapping[str, Mean]):
        self.ids, self.per_client = ids, dict(per_client)

    def __repr__(self) -> str:
        shown = ", ".join(f"{name} {value:.4f}" for name, value in self.over_examples().items())
        return f"Evaluation({evaluated_of(self.evaluated_clients, self.asked_clients)}, {shown})"

    @property
    def asked_clients(self) -> int:
        return len(self.ids)

    @property
    def evaluated_clients(self) -> int:
        weights = [np.asarray(weight) > 0 for _, weight in self.per_client.values()]
        return int(np.count_nonzero(np.any(weights, 0))) if weights else 0

    def problems(self, name: str) -> list[str]:
        """Texts for the user about an evaluation without a finite metric; none if all is well.

        Args:
            name: The name of the set of clients, for the texts.
        """
        values = self.over_examples().values()
        if not values or any(math.isfinite(x) for x in values):
            return []
        if not self.evaluated_clients:
            return [
                f"none of the {self.asked_clients:,} clients of {name!r} was evaluated: the evaluation's "
                f"split leaves them no query example; another split, or a smaller batch size of it, may"
            ]
        return [f"no metric of {name!r} is a finite number"]

    def over_examples(self) -> dict[str, float]:
        """Metrics over all test examples: a client counts by its number of test examples."""
        pooled = {}
        for name, (total, weight) in self.per_client.items():
            pooled[name] = float(np.sum(total) / np.sum(weight)) if np.sum(weight) else float("nan")
        return _with_derived(pooled)

    def over_clients(self) -> dict[str, float]:
        """Metrics of each client, averaged over the clients that have a test example."""
        return {n: float(np.mean(v)) if v.size else float("nan") for n, v in self._tested().items()}

    def values(self) -> dict[str, np.ndarray]:
        """Each client's metrics by name, `[client]`; NaN for a client without a test example."""
        with np.errstate(invalid="ignore", divide="ignore"):
            means = {
                name: np.asarray(total) / np.asarray(weight)
                for name, (total, weight) in self.per_client.items()
            }
            return _with_derived(means)

    def distribution(self) -> dict[str, dict[str, float]]:
        """Deciles of each metric over the clients that have a test example, `"p0"` to `"p100"`.

        All deciles of a metric are NaN if it is NaN for one of these clients.
        """
        deciles = range(0, 101, 10)
        quantiles_of = {}
        for name, known in self._tested().items():
            with np.errstate(invalid="ignore"):  # a quantile between two infinities warns, and is NaN
                quantiles = np.quantile(known, [d / 100 for d in deciles]) if known.size else [math.nan] * 11
            quantiles_of[name] = {f"p{d}": float(q) for d, q in zip(deciles, quantiles, strict=True)}
        return quantiles_of

    def _tested(self) -> dict[str, np.ndarray]:
        """The metrics of the clients that have a test example for them, those that diverged included."""
        weights = {name: np.asarray(weight) for name, (_, weight) in self.per_client.items()}
        weights |= {name: weights[source] for name, (source, _) in DERIVED.items() if source in weights}
        return {name: values[weights[name] > 0] for name, values in self.values().items()}

    def summary(self) -> dict[str, Any]:
        """All summaries as JSON values.

        Returns:
            `"examples"`, `"clients"` and `"distribution"` as the methods return them, and the numbers
            `"evaluated_clients"` and `"asked_clients"`.
        """
        return {
            "evaluated_clients": self.evaluated_clients,
            "asked_clients": self.asked_clients,
            "examples": self.over_examples(),
            "clients": self.over_clients(),
            "distribution": self.distribution(),
        }

    def table(self) -> dict[str, np.ndarray]:
        """Columns with the clients' names, their numbers of test examples, and each metric."""
        weights = [weight for _, weight in self.per_client.values()]
        counts = weights[0] if weights else np.zeros(len(self.ids))
        return {"client": self.ids, "weight": np.asarray(counts), **self.values()}


def _with_derived(metrics: dict[str, Any]) -> dict[str, Any]:
    derived = {name: f(metrics[source]) for name, (source, f) in DERIVED.items() if source in metrics}
    return {**metrics, **{k: v if isinstance(v, np.ndarray) else float(v) for k, v in derived.items()}}
