"""The tables of a comparison of methods: quality, cost, and paired differences with their significance."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from fedrecon.core._costs import COSTS
from fedrecon.data._table_ids import alike
from fedrecon.evaluation._metric_names import direction_of, label_of, shown_first, worst_decile
from fedrecon.experiment.analysis.runs import Method, Run, has_several_seeds
from fedrecon.experiment.analysis.significance import paired_t_test
from fedrecon.experiment.analysis.targets import Target, cells_until, recorded_set
from fedrecon.experiment.reporting.baselines import BASELINES, label_of_baseline
from fedrecon.experiment.reporting.tables import Cell, Column, ReportTable, Spread, size
from fedrecon.experiment.storage.metrics_log import WEIGHTINGS
from fedrecon.privacy._ledger import rounded_up

FOUR = "{:.4f}".format
SIGNED = "{:+.4f}".format
WHOLE = "{:,.0f}".format
ONE = "{:,.1f}".format


def quality(methods: Sequence[Method]) -> ReportTable:
    """The table of the final metrics of every method, by set of clients and protocol."""
    rows: list[tuple[Cell, ...]] = []
    for split, protocol in evaluated_sets(methods):
        evaluations = {m.label: _evaluations(m, split, protocol) for m in methods}
        metrics = shown_first(n for runs in evaluations.values() for run in runs for n in run["examples"])
        for metric in metrics:
            for method in methods:
                runs = evaluations[method.label]
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
                of = len(runs), _evaluated_clients(runs)
                rows.append((split, protocol, label_of(metric), method.label, *of, *over, worst))
            rows += _baselines(methods, split, protocol, metric)
    columns = (
        *map(Column, ("clients", "protocol", "metric", "method")),
        Column("seeds", WHOLE),
        Column("evaluated clients"),
        Column("over examples", FOUR),
        Column("over clients", FOUR),
        Column("worst decile", FOUR),
    )
    spread, summed = "", ""
    if has_several_seeds(methods):
        spread, summed = "Mean ± standard deviation over the seeds. ", "; summed over the seeds"
    note = (
        f"{spread}Clients without a query example are asked for and not evaluated{summed}. A tenth of the"
        " clients fares worse than the worst decile."
    )
    return ReportTable("quality", "Quality", columns, tuple(rows), note)


def _baselines(
    methods: Sequence[Method], split: str, protocol: str, metric: str
) -> Iterator[tuple[Cell, ...]]:
    """A row for each baseline of the first method that has some: what predictors that cost nothing reach."""
    for method in methods:
        of_runs = [run.result[split].get(BASELINES, {}) for run in method.runs if split in run.result]
        first = of_runs[0] if of_runs else {}
        names = [name for name in first if all(protocol in x.get(name, {}) for x in of_runs)]
        for name in names:
            runs = [x[name][protocol] for x in of_runs]
            if all(metric in run["examples"] for run in runs):
                over = [Spread.of([_number(run[w].get(metric)) for run in runs]) for w in WEIGHTINGS]
                label = label_of_baseline(name)
                yield split, protocol, label_of(metric), label, len(runs), None, *over, None
        if names:
            return


def _evaluated_clients(runs: Sequence[Mapping[str, Any]]) -> str | None:
    """`"38 of 40"`, summed over the runs; None where one is of before clients were counted."""
    names = ("evaluated_clients", "asked_clients")
    if any(name not in run for run in runs for name in names):
        return None
    return " of ".join(f"{sum(run[name] for run in runs):,}" for name in names)


def cost(methods: Sequence[Method], targets: Sequence[Target] = ()) -> ReportTable:
    """The table of what every method took, and of the rounds and clients until it reached each target.

    Args:
        methods: The methods, at least one.
        targets: Qualities of the clients that are evaluated while training; none by default.

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
    ledgers = [[run.privacy for run in method.runs if run.privacy is not None] for method in methods]
    if any(ledgers):
        columns += [Column("epsilon", rounded_up), Column("delta", "{:g}".format)]
        for row, of_runs in zip(rows, ledgers, strict=True):
            row.append(max((ledger.epsilon for ledger in of_runs), default=None))
            row.append(max((ledger.delta for ledger in of_runs), default=None))
    raw = [max(run.result.get("raw_data_bytes") or 0 for run in method.runs) for method in methods]
    if any(raw):
        columns.append(Column("raw data", size))
        for row, examples in zip(rows, raw, strict=True):
            row.append(examples or None)
    for target in targets:
        name = recorded_set(methods, target.metric)
        aim = f"{label_of(target.metric)} {target.value:g}{'' if name == 'validation' else f', {name}'}"
        columns += [Column(f"rounds to {aim}", WHOLE), Column(f"clients to {aim}", WHOLE)]
        for method, row in zip(methods, rows, strict=True):
            row += cells_until(method, name, target)
    note = (
        "Down, up: bytes per client and round if only the rows it touches are sent; dense: whole tables; raw"
        " data: all examples, which left the clients before the first round. Gradient steps, solves of linear"
        " systems and example passes (an example counts whenever it is gone through): of a client in a round."
        " In centralised training mini-batches stand where others have clients."
    )
    if any(ledgers):
        note += (
            " Epsilon, delta: of what one run has released so far, for each client; the largest of the seeds."
            " Several runs on the same clients release more together. Methods without them are not private."
        )
    return ReportTable("cost", "Cost", tuple(columns), tuple(map(tuple, rows)), note)


def _cost(method: Method, name: str) -> Spread | None:
    """What a client computes in a round, by an entry of `COSTS`; None where an older run did not count it."""
    counts = [run.result.get("work_per_client_and_round") for run in method.runs]
    if not all(counts):
        return None
    return Spread.of([count[name] for count in counts if count])


def differences(methods: Sequence[Method], comparable: Callable[[Run, Run, str, str], bool]) -> ReportTable:
    """The table of every method's paired differences from the first, over seeds and over clients.

    Args:
        methods: The methods, at least one.
        comparable: Tells whether two runs evaluated the same clients in the same way; takes the two runs,
            the split and the protocol.
    """
    rows: list[tuple[Cell, ...]] = []
    first = methods[0]
    for split, protocol in evaluated_sets(methods):
        for method in methods[1:]:
            pairs = [
                (first.run_of(seed), method.run_of(seed)) for seed in first.seeds if seed in method.seeds
            ]
            pairs = [(a, b) for a, b in pairs if comparable(a, b, split, protocol)]
            for metric, over, changes in _changes(pairs, split, protocol):
                test = paired_t_test(changes)
                numbers = (test.pairs, test.mean, test.error, test.low, test.high, test.p)
                gains = _gains(metric, changes)
                rows.append((split, protocol, label_of(metric), method.label, over, *numbers, gains))
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
    return ReportTable("differences", f"Differences from {first.label}", columns, tuple(rows), note)


def evaluated_sets(methods: Sequence[Method]) -> list[tuple[str, str]]:
    """Splits and protocols of the final evaluations of any run; those of the test clients come first."""
    pairs = dict.fromkeys((s, p) for m in methods for run in m.runs for s, p, _ in run.evaluations())
    return sorted(pairs, key=lambda pair: pair[0] != "test")


def client_differences(
    pairs: Sequence[tuple[Run, Run]], split: str, protocol: str, metric: str
) -> np.ndarray:
    """The difference of a metric, second run minus first, of each client that both runs of a pair scored.

    Args:
        pairs: Pairs of runs, one of each method, under the same seed.
        split: The split of the clients.
        protocol: The protocol of the evaluation.
        metric: The name of the metric.

    Returns:
        A difference for each client, `[clients]`; the mean over the pairs that scored the client.
    """
    sums: dict[str, list[float]] = {}
    for a, b in pairs:
        one, two = a.clients(split, protocol), b.clients(split, protocol)
        if one is None or two is None or metric not in one or metric not in two:
            continue
        ids, others = alike(one["client"], two["client"])
        if ids != others or not np.array_equal(one["weight"], two["weight"]):
            # The clients were not scored on the same examples.
            continue
        change = two[metric] - one[metric]
        for client, value in zip(map(str, ids), change.tolist(), strict=True):
            if math.isfinite(value):
                sums.setdefault(client, []).append(value)
    return np.array([math.fsum(values) / len(values) for values in sums.values()])


def _gains(metric: str, changes: Sequence[float]) -> float | None:
    """The share of pairs in which the second run is better; None where the metric's direction is unknown."""
    direction = direction_of(metric)
    if direction is None:
        return None
    return sum(direction.better(x, 0.0) for x in changes) / len(changes)


def _changes(
    pairs: Sequence[tuple[Run, Run]], split: str, protocol: str
) -> Iterator[tuple[str, str, list[float]]]:
    """Metric, `"seeds"` or `"clients"`, and the differences of the metric over these."""
    evaluations = [(_evaluation(a, split, protocol), _evaluation(b, split, protocol)) for a, b in pairs]
    both = [(x["examples"], y["examples"]) for x, y in evaluations if x is not None and y is not None]
    for metric in shown_first(name for x, y in both for name in x if name in y):
        changes = [_number(y[metric]) - _number(x[metric]) for x, y in both if metric in x and metric in y]
        changes = [x for x in changes if math.isfinite(x)]
        if changes:
            yield metric, "seeds", changes
        clients = client_differences(pairs, split, protocol, metric)
        if clients.size:
            yield metric, "clients", clients.tolist()


def _evaluations(method: Method, split: str, protocol: str) -> list[Any]:
    return [x for x in (_evaluation(run, split, protocol) for run in method.runs) if x is not None]


def _evaluation(run: Run, split: str, protocol: str) -> Any:
    """The final evaluation of a run under a protocol; None if there is none."""
    return next((metrics for s, p, metrics in run.evaluations() if (s, p) == (split, protocol)), None)


def _cohort(run: Run) -> float:
    """The mean number of clients in a round."""
    cohorts = run.records.series("train", "clients", "total")
    return math.fsum(cohorts.values()) / len(cohorts) if cohorts else math.nan


def _number(value: float | None) -> float:
    """A number of `result.json`; null there is a number that was not finite, and becomes NaN."""
    return math.nan if value is None else float(value)


def _probability(p: float) -> str:
    return "< 0.0001" if p < 1e-4 else f"{p:.4f}"
