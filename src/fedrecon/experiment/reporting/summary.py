"""What a run writes at its end: `result.json`, `summary.md`, and tables of the clients' metrics."""

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, cast

from fedrecon import _safe_text as safe_text
from fedrecon.core._costs import COSTS
from fedrecon.data._arrow_bridge import to_arrow
from fedrecon.evaluation._evaluation import Evaluation, evaluated_of
from fedrecon.evaluation._metric_names import by_preference
from fedrecon.evaluation._selection import Criterion, metric_in
from fedrecon.experiment.reporting.baselines import BASELINES, baseline_values, label_of_baseline
from fedrecon.experiment.reporting.result import Result
from fedrecon.experiment.reporting.tables import markdown, size
from fedrecon.experiment.reporting.training_warnings import all_warnings
from fedrecon.experiment.storage.digests import finite, seal
from fedrecon.experiment.storage.metrics_log import PROTOCOLS, Records, name_of, place

# Metrics that a table has in columns; if there are more, each gets a row.
_COLUMNS = 6


def result_values(result: Result) -> dict[str, Any]:
    """The run's numbers: final metrics by split, protocol and weighting, and what they cost.

    A split has the numbers of its evaluated and asked clients, too, summed over its protocols, whose clients
    are different ones.
    """
    private = {} if result.privacy is None else {"privacy": result.privacy.values()}
    counts = ("evaluated_clients", "asked_clients")
    baselines = baseline_values(result.baselines)
    return {
        **{
            split: {
                **protocols,
                **{n: sum(x[n] for x in protocols.values()) for n in counts},
                **({BASELINES: baselines[split]} if split in baselines else {}),
            }
            for split, protocols in result.metrics.items()
        },
        **private,
        "rounds": result.rounds,
        "selected_round": result.selected_round,
        "selected_by": result.selected_by,
        "finished": not result.interrupted,
        "diverged": result.diverged,
        "seconds": dict(result.seconds),
        "peak_memory_bytes": result.peak_memory,
        "device_memory_bytes": result.device_memory,
        "compilations": result.compilations,
        "bytes_per_client_and_round": bytes_per_client(result.records),
        "raw_data_bytes": result.raw_data,
        "work_per_client_and_round": work_per_client(result.records),
        "resumed_from": result.resumed_from,
        "recomputed_rounds": result.recomputed,
    }


def bytes_per_client(records: Records) -> dict[str, float]:
    """Mean bytes that a client receives and sends in a round, and those if whole tables were sent."""
    names = ("down", "up", "dense_down", "dense_up")
    return {name: _per_client(records, _column(name)) for name in names}


def work_per_client(records: Records) -> dict[str, float]:
    """What a client computes in a round, on average: see `fedrecon.core._costs.COSTS`."""
    return {name: _per_client(records, name) for name in COSTS}


def dumps(values: Any) -> str:
    """Strict JSON with its digest: numbers that are not finite, which it lacks, become null."""
    return json.dumps(seal(finite(values)), indent=2) + "\n"


def table(values: Mapping[str, Any], shown: Callable[[Any], str] = "{:.4f}".format) -> list[list[str]]:
    """The metrics of a result as rows of text, the first of which is the header.

    There is a row for each set of clients and weighting; or for each metric, if these are too many for
    columns.

    Args:
        values: The values that `result_values` returns.
        shown: Turns a metric's value into text; four decimals by default.
    """
    splits = dict(evaluations_of(values))
    names = by_preference(m for v in splits.values() for m in v["examples"])
    lines = [["clients", "weighted by", *names]]
    for name, metrics in splits.items():
        split, protocol = place(name)
        baselines = values[split].get(BASELINES, {})
        rows = [(name + _clients(metrics), metrics)]
        rows += [
            (f"{name}: {label_of_baseline(baseline)}", protocols[protocol])
            for baseline, protocols in baselines.items()
            if protocol in protocols
        ]
        for label, means in rows:
            for weighting in ("examples", "clients"):
                cells = (shown(means[weighting][m]) if m in means[weighting] else "" for m in names)
                lines.append([label, weighting, *cells])
    if len(names) <= _COLUMNS:
        return lines
    head, *metrics = map(list, zip(*lines, strict=True))
    merged = [
        f"{split}, by {weighting}" for split, weighting in zip(head[1:], metrics.pop(0)[1:], strict=True)
    ]
    return [["metric", *merged], *metrics]


def _clients(metrics: Mapping[str, Any]) -> str:
    """`" (2 of 10 clients)"`; nothing for results of before clients were counted."""
    counts = [metrics.get(name) for name in ("evaluated_clients", "asked_clients")]
    if None in counts:
        return ""
    sums = [int(sum(x["values"])) if isinstance(x, Mapping) else int(cast(int, x)) for x in counts]
    return f" ({evaluated_of(sums[0], sums[1])})"


def evaluations_of(values: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """The evaluations among the values of a result, each with the name of its set of clients."""
    for split, protocols in values.items():
        if isinstance(protocols, Mapping):
            for protocol in PROTOCOLS:
                if protocol in protocols:
                    yield name_of(split, protocol), protocols[protocol]


def summary_page(result: Result, title: str, figures: list[Path]) -> str:
    """The content of `summary.md`.

    Args:
        result: The result of the run.
        title: The title of the page.
        figures: Paths of the figures, relative to the run folder; those in PNG are shown.
    """
    values = result_values(result)
    seconds, sent = values["seconds"], values["bytes_per_client_and_round"]
    lines = [f"# {safe_text.markdown(title)}", ""]
    if result.interrupted:
        lines += [f"Interrupted after {result.rounds} of {result.asked} rounds; resume it to go on.", ""]
    if result.evaluations:
        lines += (
            [f"Parameters after round {result.selected_round} for the test clients{reason(result)}.", ""]
            if "test" in values
            else []
        )
        lines += [markdown(table(values)), ""]
    lines += [f"- {text[0].upper()}{text[1:]}." for text in all_warnings(result)]
    if result.privacy is not None:
        lines.append(f"- Privacy of each client: {result.privacy}")
        inputs = ", ".join(f"{name} from {source}" for name, source in result.privacy.public_inputs.items())
        lines.append(f"- Public inputs: {inputs or 'none named'}")
        lines.append(f"- Not covered: {'; '.join(result.privacy.not_covered)}")
    for name, text in result.notes.items():
        lines.append(f"- {safe_text.markdown(name)}: {safe_text.markdown(text)}")
    lines += [
        f"- Algorithm: {safe_text.code(repr(result.algorithm))}",
        f"- Rounds: {result.rounds}",
        f"- Seconds: {seconds['total']:.1f}, of which {seconds['compilation']:.1f} compiling",
        f"- Peak memory: {size(result.peak_memory)}",
        f"- Programs compiled by the rounds: {result.compilations}",
        f"- Sent per client and round: {size(sent['down'])} down, {size(sent['up'])} up"
        f" (whole parameters: {size(sent['dense_down'])} down, {size(sent['dense_up'])} up)",
        f"- Computed per client and round: {describe_work(values)}",
    ]
    if result.raw_data is not None:
        lines.append(f"- Sent before the first round: all examples, {size(result.raw_data)}")
    if result.resumed_from is not None:
        again = f"{result.recomputed} recorded rounds were computed again"
        lines.append(f"- Resumed from round {result.resumed_from}; {again}")
    lines += ["", *(f"![{path.stem}]({path.as_posix()})" for path in figures if path.suffix == ".png")]
    return "\n".join(lines).rstrip() + "\n"


def reason(result: Result) -> str:
    """Why the test clients met the parameters of the selected round, as the end of a sentence."""
    text = metric_in(result.selected_by)
    metric, direction = (None, None) if text is None else Criterion.parse(text)
    if metric is None or direction is None:
        return ""
    return f", the best evaluation by {safe_text.markdown(Criterion(metric, direction).words)}"


def describe_work(values: Mapping[str, Any]) -> str:
    """What a client computes in a round, as text: `"50.0 gradient steps, 150.0 example passes"`.

    Args:
        values: The values that `result_values` returns.
    """
    work = values["work_per_client_and_round"]
    parts = [f"{work[name]:,.1f} {name.replace('_', ' ')}" for name in COSTS if work[name]]
    return ", ".join(parts) or "nothing"


def write_clients(path: Path, evaluation: Evaluation) -> None:
    """Writes the metrics of every client as a Parquet file, whole or not at all."""
    import io

    import pyarrow
    import pyarrow.parquet

    from fedrecon._files import write_atomically

    buffer = io.BytesIO()
    table = pyarrow.table({name: to_arrow(values) for name, values in evaluation.table().items()})
    pyarrow.parquet.write_table(table, buffer)
    write_atomically(path, buffer.getvalue())


def _per_client(records: Records, total: str) -> float:
    clients = sum(records.series("train", "clients", "total").values())
    return sum(records.series("train", total, "total").values()) / clients if clients else 0.0


def _column(name: str) -> str:
    return f"dense_bytes_{name[6:]}" if name.startswith("dense_") else f"bytes_{name}"
