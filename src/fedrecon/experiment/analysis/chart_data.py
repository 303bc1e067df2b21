"""The numbers that the charts of the report page draw: metrics by round, and their distributions."""

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from fedrecon.evaluation._metric_names import label_of, shown_first
from fedrecon.experiment.analysis.comparison import evaluated_sets
from fedrecon.experiment.analysis.runs import Method, Run
from fedrecon.experiment.storage.metrics_log import TRAINING, WEIGHTINGS

# The number of bins of a distribution.
BINS = 40


def curves(methods: Sequence[Method]) -> Iterator[dict[str, Any]]:
    """Every metric by round, of each run, with the bytes and the seconds that it took up to that round.

    Args:
        methods: The methods, at least one.

    Yields:
        For each metric `title` for the menu, `name` for the axis, and `series` with an entry for each run.
    """
    rows = [r for m in methods for run in m.runs for r in run.records if r.protocol != TRAINING]
    rows = [r for r in rows if r.split != "test"]
    kinds = list(dict.fromkeys((r.split, r.protocol) for r in rows))
    for split, protocol in kinds:
        here = [r for r in rows if (r.split, r.protocol) == (split, protocol)]
        for metric in shown_first(r.metric for r in here):
            for weighting in WEIGHTINGS:
                series = [
                    {"method": number, **points}
                    for number, method in enumerate(methods)
                    for run in method.runs
                    if (points := _series(run, split, protocol, metric, weighting))["rounds"]
                ]
                if series:
                    title = f"{label_of(metric)} over {weighting}, {split} clients, {protocol}"
                    yield {"title": title, "name": f"{label_of(metric)}, {split} clients", "series": series}
    spent = [
        {"method": number, **points}
        for number, method in enumerate(methods)
        for run in method.runs
        if (points := _series(run, "train", TRAINING, "epsilon", "total"))["rounds"]
    ]
    if spent:
        yield {"title": "epsilon of the releases so far", "name": "epsilon", "series": spent}


def _series(run: Run, split: str, protocol: str, metric: str, weighting: str) -> dict[str, list[float]]:
    wanted = (split, protocol, weighting, metric)
    values = {r.round: r.value for r in run.records if r[1:5] == wanted and math.isfinite(r.value)}
    seconds = run.records.series("train", "seconds", "total")
    sent = _sent(run)
    rounds = [r for r in sorted(values) if r in seconds and r in sent]
    return {
        "rounds": [float(r) for r in rounds],
        "bytes": [sent[r] for r in rounds],
        "seconds": [round(seconds[r], 3) for r in rounds],
        "values": [_short(values[r]) for r in rounds],
    }


def _sent(run: Run) -> dict[int, float]:
    """Bytes that clients sent and received up to each round, that round included."""
    total, sent = 0.0, {}
    up = run.records.series("train", "bytes_up", "total")
    for number, down in run.records.series("train", "bytes_down", "total").items():
        total += down + up.get(number, 0.0)
        sent[number] = total
    return sent


def clients(methods: Sequence[Method]) -> Iterator[dict[str, Any]]:
    """The distribution of every metric over the clients of each method, in bins that the methods share.

    Args:
        methods: The methods, at least one.

    Yields:
        For each metric `title` for the menu, `name` for the axis, the `edges` of the bins, and `series` with
        the shares of the clients in each bin for each method.
    """
    for split, protocol in evaluated_sets(methods):
        tables = [[run.clients(split, protocol) for run in method.runs] for method in methods]
        present = [table for of_method in tables for table in of_method if table is not None]
        names = (name for table in present for name in table if name not in ("client", "weight"))
        for metric in shown_first(names):
            values = [_pool(of_method, metric) for of_method in tables]
            everything = np.concatenate(values)
            if not everything.size:
                continue
            edges = _edges(everything)
            series = [
                {"method": number, "shares": _shares(of_method, edges)}
                for number, of_method in enumerate(values)
                if of_method.size
            ]
            title = f"{label_of(metric)}, {split} clients, {protocol}"
            edges_shown = [_short(x) for x in edges.tolist()]
            yield {"title": title, "name": label_of(metric), "edges": edges_shown, "series": series}


def _pool(tables: Iterable[Any], metric: str) -> np.ndarray:
    """A metric of the clients of all seeds, where it is a number."""
    of_seeds = [np.asarray(t[metric], np.float64) for t in tables if t is not None and metric in t]
    values = np.concatenate([np.empty(0), *of_seeds])
    return values[np.isfinite(values)]


def _edges(values: np.ndarray) -> np.ndarray:
    """The edges of the bins. Values beyond the outer quantiles are few, and share the outermost bins."""
    low, high = (float(np.quantile(values, q)) for q in (0.002, 0.998))
    if high <= low:
        low, high = low - 0.5, low + 0.5
    return np.linspace(low, high, BINS + 1)


def _shares(values: np.ndarray, edges: np.ndarray) -> list[float]:
    counts, _ = np.histogram(np.clip(values, edges[0], edges[-1]), edges)
    return [_short(x) for x in (counts / values.size).tolist()]


def _short(value: float) -> float:
    """Six significant digits, which is more than a screen shows."""
    return float(f"{value:.6g}")
