"""Methods side by side: how good they are, what they cost, whether differences are more than chance."""

import math
from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate
from typing import Any, NamedTuple

import numpy as np

from fedrecon.data._table_ids import alike
from fedrecon.evaluation._metric_names import Direction, direction_of, label_of, shown_first, worst_decile
from fedrecon.evaluation._selection import Criterion
from fedrecon.experiment.analysis.runs import Method, Run
from fedrecon.experiment.analysis.significance import paired
from fedrecon.experiment.reporting.summary import size
from fedrecon.experiment.reporting.tables import Cell, Column, Spread, Table
from fedrecon.experiment.settings.sections import SettingError
from fedrecon.experiment.storage.metrics_log import TRAINING, WEIGHTINGS, name_of
from fedrecon.solvers._minibatches import COSTS

FOUR = "{:.4f}".format
SIGNED = "{:+.4f}".format
WHOLE = "{:,.0f}".format
ONE = "{:,.1f}".format


class Target(NamedTuple):
    """A quality to reach.

    Attributes:
        metric: For instance `"rmse"`.
        value: Reached where the metric, over examples, is at least as good.
        direction: Which way the metric is better.
    """

    metric: str
    value: float
    direction: Direction

    @classmethod
    def parse(cls, text: str) -> "Target":
        """From `"rmse=0.93"`, or `"acc:max=0.7"` for a metric that the table of metrics does not know.

        Raises:
            SettingError: It has another form, or it is unknown which way the metric is better.
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

    def reached(self, value: float) -> bool:
        """Whether a value is as good."""
        return self.direction.reaches(value, self.value)


def quality(methods: Sequence[Method]) -> Table:
    """The final metrics of every method under each protocol."""
    rows: list[tuple[Cell, ...]] = []
    for split, protocol in evaluated(methods):
        found = {m.label: _found(m, split, protocol) for m in methods}
        metrics = shown_first(name for runs in found.values() for run in runs for name in run["examples"])
        for metric in metrics:
            for method in methods:
                runs = found[method.label]
                if not runs or any(metric not in run["examples"] for run in runs):
                    continue
                over = [
                    Spread.of([_number(run[weighting].get(metric)) for run in runs])
                    for weighting in WEIGHTINGS
                ]
                decile = worst_decile(metric)
                worst = None
                if decile is not None and all("distribution" in run for run in runs):
                    worst = Spread.of([_number(run["distribution"][metric][decile]) for run in runs])
                rows.append((split, protocol, label_of(metric), method.label, len(runs), *over, worst))
    columns = (
        *map(Column, ("clients", "protocol", "metric", "method")),
        Column("seeds", WHOLE),
        Column("over examples", FOUR),
        Column("over clients", FOUR),
        Column("worst decile", FOUR),
    )
    note = (
        "Mean ± standard deviation over the seeds. A tenth of the clients fares worse than the worst decile."
    )
    return Table("quality", "Quality", columns, tuple(rows), note)


def cost(methods: Sequence[Method], targets: Sequence[Target] = ()) -> Table:
    """What every method took, and how much of it until the validation clients reached a quality.

    Raises:
        SettingError: No run recorded a target's metric.
    """
    columns = [
        Column("method"),
        Column("seeds", WHOLE),
        Column("rounds", WHOLE),
        Column("seconds", "{:,.1f}".format),
        Column("clients per round", "{:,.0f}".format),
        Column("down", size),
        Column("up", size),
        Column("down, dense", size),
        Column("up, dense", size),
    ]
    rows: list[list[Cell]] = []
    for method in methods:
        sent = [run.result["bytes_per_client_and_round"] for run in method.runs]
        rows.append([method.label, len(method.runs)])
        rows[-1].append(Spread.of([float(run.result["rounds"]) for run in method.runs]))
        rows[-1].append(Spread.of([run.result["seconds"]["total"] for run in method.runs]))
        rows[-1].append(Spread.of([_cohort(run) for run in method.runs]))
        rows[-1] += [Spread.of([x[name] for x in sent]) for name in ("down", "up", "dense_down", "dense_up")]
    for name in COSTS:
        taken = [_cost(method, name) for method in methods]
        if any(x is not None and x.mean for x in taken):
            columns.append(Column(name.replace("_", " "), ONE))
            for row, x in zip(rows, taken, strict=True):
                row.append(x)
    raw = [max(run.result.get("raw_data_bytes") or 0 for run in method.runs) for method in methods]
    if any(raw):
        columns.append(Column("raw data", size))
        for row, examples in zip(rows, raw, strict=True):
            row.append(examples or None)
    for target in targets:
        name = _watched(methods, target.metric)
        aim = f"{label_of(target.metric)} {target.value:g}{'' if name == 'validation' else f', {name}'}"
        columns += [Column(f"rounds to {aim}", WHOLE), Column(f"clients to {aim}", WHOLE)]
        for method, row in zip(methods, rows, strict=True):
            if not all(run.records.series(name, target.metric) for run in method.runs):
                row += ["not measured"] * 2
                continue
            found = [first_reached(run, name, target) for run in method.runs]
            known = [x for x in found if x is not None]
            if len(known) < len(found):
                row += [f"{len(known)} of {len(found)} seeds" if len(found) > 1 else "not reached"] * 2
            else:
                row += [Spread.of([x[0] for x in known]), Spread.of([x[1] for x in known])]
    note = (
        "Down, up: bytes per client and round if only the rows it touches are sent; dense: whole tables; raw"
        " data: all examples, which left the clients before the first round. Gradient steps, solves of linear"
        " systems and example passes (an example counts whenever it is gone through): of a client in a round."
        " In centralised training mini-batches stand where others have clients."
    )
    return Table("cost", "Cost", tuple(columns), tuple(map(tuple, rows)), note)


def _cost(method: Method, name: str) -> Spread | None:
    """What a client computes in a round; None for runs of before it was counted."""
    counts = [run.result.get("work_per_client_and_round") for run in method.runs]
    if not all(counts):
        return None
    return Spread.of([found[name] for found in counts if found])


def differences(methods: Sequence[Method], comparable: Callable[[Run, Run, str, str], bool]) -> Table:
    """Every method against the first: paired over shared seeds, and over the clients that both evaluated.

    Args:
        methods: At least one.
        comparable: Whether two runs evaluated the same clients of a split in the same way, under a protocol.
    """
    rows: list[tuple[Cell, ...]] = []
    first = methods[0]
    for split, protocol in evaluated(methods):
        for method in methods[1:]:
            pairs = [
                (first.of_seed(seed), method.of_seed(seed)) for seed in first.seeds if seed in method.seeds
            ]
            pairs = [(a, b) for a, b in pairs if comparable(a, b, split, protocol)]
            for metric, over, changes in _changes(pairs, split, protocol):
                found = paired(changes)
                measured = (found.pairs, found.mean, found.error, found.low, found.high, found.p)
                gains = _gains(metric, changes)
                rows.append((split, protocol, label_of(metric), method.label, over, *measured, gains))
    columns = (
        *map(Column, ("clients", "protocol", "metric", "method", "paired over")),
        Column("pairs", WHOLE),
        Column("difference", SIGNED),
        Column("standard error", FOUR),
        Column("95 % from", SIGNED),
        Column("to", SIGNED),
        Column("p", _probability),
        Column("share that gains", "{:.3f}".format),
    )
    note = (
        "Two-sided paired t-tests, not adjusted for their number. Over seeds: of the metric over examples, a"
        " pair is a seed. Over clients: of the clients' own metrics; a client that several seeds evaluated is"
        " one pair, by its mean difference. The first says how methods differ under new splits and draws, the"
        " second how they differ for clients, given these trained parameters. The share that gains is of the"
        " pairs in which the method is better: of the clients that personalisation serves, if the first is a"
        " global model. A seed or client at which either is no number makes no pair."
    )
    return Table("differences", f"Differences from {first.label}", columns, tuple(rows), note)


def first_reached(run: Run, name: str, target: Target) -> tuple[float, float] | None:
    """The round at which a run first reached a quality, and the clients that had taken part until then."""
    cohorts = run.records.series("train", "clients", "total")
    clients = dict(zip(cohorts, accumulate(cohorts.values()), strict=True))
    for round, value in sorted(run.records.series(name, target.metric).items()):
        if target.reached(value):
            return float(round), clients.get(round, math.nan)
    return None


def evaluated(methods: Sequence[Method]) -> list[tuple[str, str]]:
    """Splits and protocols of the final evaluations of any run; the test clients come first."""
    found = dict.fromkeys((s, p) for m in methods for run in m.runs for s, p, _ in run.evaluations())
    return sorted(found, key=lambda pair: pair[0] != "test")


def client_differences(
    pairs: Sequence[tuple[Run, Run]], split: str, protocol: str, metric: str
) -> np.ndarray:
    """Second minus first of each client that both runs of some pair scored, its mean over the pairs."""
    sums: dict[str, list[float]] = {}
    for a, b in pairs:
        one, two = a.clients(split, protocol), b.clients(split, protocol)
        if one is None or two is None or metric not in one or metric not in two:
            continue
        ids, others = alike(one["client"], two["client"])
        if ids != others or not np.array_equal(one["weight"], two["weight"]):
            continue  # they were not scored on the same examples
        change = two[metric] - one[metric]
        for client, value in zip(map(str, ids), change.tolist(), strict=True):
            if math.isfinite(value):
                sums.setdefault(client, []).append(value)
    return np.array([math.fsum(values) / len(values) for values in sums.values()])


def _gains(metric: str, changes: Sequence[float]) -> float | None:
    """The share of pairs in which the second is better; None where it is not known which way that is."""
    direction = direction_of(metric)
    if direction is None:
        return None
    return sum(direction.better(x, 0.0) for x in changes) / len(changes)


def _changes(
    pairs: Sequence[tuple[Run, Run]], split: str, protocol: str
) -> Iterator[tuple[str, str, list[float]]]:
    found = [(_of(a, split, protocol), _of(b, split, protocol)) for a, b in pairs]
    both = [(x["examples"], y["examples"]) for x, y in found if x is not None and y is not None]
    for metric in shown_first(name for x, y in both for name in x if name in y):
        changes = [_number(y[metric]) - _number(x[metric]) for x, y in both if metric in x and metric in y]
        changes = [x for x in changes if math.isfinite(x)]
        if changes:
            yield metric, "seeds", changes
        clients = client_differences(pairs, split, protocol, metric)
        if clients.size:
            yield metric, "clients", clients.tolist()


def _found(method: Method, split: str, protocol: str) -> list[Any]:
    return [x for x in (_of(run, split, protocol) for run in method.runs) if x is not None]


def _of(run: Run, split: str, protocol: str) -> Any:
    return next((found for s, p, found in run.evaluations() if (s, p) == (split, protocol)), None)


def _watched(methods: Sequence[Method], metric: str) -> str:
    """The clients whose metric by round is recorded."""
    rows = [r for m in methods for run in m.runs for r in run.records if r.protocol != TRAINING]
    names = dict.fromkeys(name_of(*r[1:3]) for r in rows if r.metric == metric and r.split != "test")
    if not names:
        known = ", ".join(sorted({r.metric for r in rows}))
        raise SettingError(f"--target: no run recorded {metric} while training, only {known}")
    return "validation" if "validation" in names else next(iter(names))


def _cohort(run: Run) -> float:
    """Clients of a round, on average."""
    cohorts = run.records.series("train", "clients", "total")
    return math.fsum(cohorts.values()) / len(cohorts) if cohorts else math.nan


def _number(value: float | None) -> float:
    """A number of `result.json`, where one that is not finite is null."""
    return math.nan if value is None else float(value)


def _probability(p: float) -> str:
    return "< 0.0001" if p < 1e-4 else f"{p:.4f}"
