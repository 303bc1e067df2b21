"""Runs as one page of HTML that needs nothing but itself: tables, curves, clients, settings, commands."""

import json
import math
import re
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from html import escape
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np

from fedrecon.evaluation._metric_names import label_of, shown_first
from fedrecon.experiment.analysis.comparison import evaluated_sets
from fedrecon.experiment.analysis.runs import Method, Run
from fedrecon.experiment.reporting.tables import ReportTable
from fedrecon.experiment.storage.metrics_log import TRAINING, WEIGHTINGS

FOLDER = "page"
BINS = 40


def page(methods: Sequence[Method], tables: Sequence[ReportTable], notes: Sequence[str] = ()) -> str:
    """The page of some methods.

    Args:
        methods: At least one.
        tables: Those of `comparing.comparison`, or others.
        notes: What the reader must be told first.
    """
    title = ", ".join(method.label for method in methods)
    places = {method.label: number for number, method in enumerate(methods)}
    parts = [*((table.title, table.name, _table(table, places)) for table in tables)]
    parts += [
        ("Settings", "settings", _settings(methods)),
        ("How to reproduce", "reproduce", _origins(methods)),
    ]
    data = {"methods": list(places), "curves": list(_curves(methods)), "clients": list(_clients(methods))}
    charts = [(name.capitalize(), name) for name in ("curves", "clients") if data[name]]
    links = [*charts, *((head, anchor) for head, anchor, _ in parts)]
    filled = {
        "title": escape(title),
        "about": escape(_about(methods)),
        "contents": " ".join(f'<a href="#{escape(to)}">{escape(head)}</a>' for head, to in links),
        "notes": "\n".join(f'<p class="note">{escape(note)}</p>' for note in notes),
        "sections": "\n".join(
            f'<section id="{escape(anchor)}">\n<h2>{escape(head)}</h2>\n{content}\n</section>'
            for head, anchor, content in parts
        ),
        "data": _json(data),
        "css": _file("page.css"),
        "js": _file("page.js"),
    }
    # In one pass, so that nothing filled in is taken for a place to fill.
    return re.sub(r"\{\{(\w+)\}\}", lambda found: filled[found[1]], _file("page.html"))


def _about(methods: Sequence[Method]) -> str:
    runs = sum(len(method.runs) for method in methods)
    days = sorted({str(run.environment.get("started", ""))[:10] for m in methods for run in m.runs})
    when = days[0] if len(days) == 1 else f"{days[0]} to {days[-1]}"
    return f"{len(methods)} methods, {runs} runs, made {when}" if runs > 1 else f"A run of {when}"


def _table(table: ReportTable, places: Mapping[str, int]) -> str:
    """A table; cells that name a method get its colour."""
    kinds = ["number" if column.shown else "word" for column in table.columns]
    method = next((i for i, column in enumerate(table.columns) if column.name == "method"), None)
    head, *body = table.text()
    lines = ['<div class="wide"><table>', "<thead><tr>"]
    lines += [f'<th scope="col" class="{k}">{escape(x)}</th>' for k, x in zip(kinds, head, strict=True)]
    lines += ["</tr></thead>", "<tbody>"]
    before: list[str] | None = None
    for row in body:
        group = row[:method]
        lines.append("<tr>" if before is None or group == before else '<tr class="group">')
        before = group
        for number, (kind, text) in enumerate(zip(kinds, row, strict=True)):
            mark = f' data-method="{places[text]}"' if number == method and text in places else ""
            lines.append(f'<td class="{kind}"{mark}>{escape(text)}</td>')
        lines.append("</tr>")
    lines.append("</tbody></table></div>")
    return "\n".join([*lines, *([f'<p class="quiet">{escape(table.note)}</p>'] if table.note else [])])


def _settings(methods: Sequence[Method]) -> str:
    """Every setting of every method; those in which they differ stand out."""
    configs = [_shared(method.runs) for method in methods]
    names = dict.fromkeys(name for config in configs for name in config)
    lines = []
    if len(methods) > 1:
        lines.append('<p><button type="button" id="all-settings" hidden>Show all settings</button></p>')
    lines += ['<div class="wide"><table class="settings">', '<thead><tr><th scope="col">setting</th>']
    lines += [f'<th scope="col" data-method="{i}">{escape(m.label)}</th>' for i, m in enumerate(methods)]
    lines += ["</tr></thead>", "<tbody>"]
    for name in names:
        values = [config.get(name, "") for config in configs]
        kind = "differs" if len(set(values)) > 1 else "same"
        cells = "".join(f"<td>{escape(value)}</td>" for value in values)
        lines.append(f'<tr class="{kind}"><th scope="row">{escape(name)}</th>{cells}</tr>')
    return "\n".join([*lines, "</tbody></table></div>"])


def _shared(runs: Sequence[Run]) -> dict[str, str]:
    """The settings of the seeds of a method; the values of those that differ one after the other."""
    names = dict.fromkeys(name for run in runs for name in run.config)
    values = {name: dict.fromkeys(_toml(run.config.get(name)) for run in runs) for name in names}
    return {name: ", ".join(found) for name, found in values.items()}


def _origins(methods: Sequence[Method]) -> str:
    """Command, versions, revision and seed of every run."""
    lines = []
    for number, method in enumerate(methods):
        lines.append(f'<h3 data-method="{number}">{escape(method.label)}</h3>')
        commands = dict.fromkeys(command(run.environment.get("command", [])) for run in method.runs)
        lines += [f"<pre>{escape(text)}</pre>" for text in commands]
        for run in method.runs:
            facts = "".join(f"<dt>{escape(k)}</dt><dd>{escape(v)}</dd>" for k, v in _facts(run))
            lines.append(f"<dl>{facts}</dl>")
    return "\n".join(lines)


def command(arguments: Sequence[str]) -> str:
    """A process' arguments as what to type."""
    if not arguments:
        return ""
    program, *rest = arguments
    name = Path(program).name
    return shlex.join(
        ["fedrecon", *rest] if name in ("__main__.py", "fedrecon") else ["python", program, *rest]
    )


def _facts(run: Run) -> Iterator[tuple[str, str]]:
    found = run.environment
    git = found.get("git") or {}
    yield "folder", str(run.path)
    yield "seed", str(run.seed)
    yield "started", str(found.get("started", ""))
    if git:
        yield "git revision", str(git.get("revision", "")) + (", changed since" if git.get("changed") else "")
    packages = found.get("packages") or {}
    yield "versions", ", ".join(f"{k} {v}" for k, v in {"python": found.get("python"), **packages}.items())
    devices = ", ".join(found.get("devices") or ())
    yield "machine", f"{found.get('system', '')}, {found.get('cpus', '?')} CPUs, {devices}"


def _curves(methods: Sequence[Method]) -> Iterator[dict[str, Any]]:
    """Every metric by round, of each run, with the bytes and seconds that it took to get there."""
    rows = [r for m in methods for run in m.runs for r in run.records if r.protocol != TRAINING]
    rows = [r for r in rows if r.split != "test"]
    kinds = list(dict.fromkeys((r.split, r.protocol) for r in rows))
    for split, protocol in kinds:
        here = [r for r in rows if (r.split, r.protocol) == (split, protocol)]
        for metric in shown_first(r.metric for r in here):
            for weighting in WEIGHTINGS:
                series = [
                    {"method": number, **found}
                    for number, method in enumerate(methods)
                    for run in method.runs
                    if (found := _series(run, split, protocol, metric, weighting))["rounds"]
                ]
                if series:
                    title = f"{label_of(metric)} over {weighting}, {split} clients, {protocol}"
                    yield {"title": title, "name": f"{label_of(metric)}, {split} clients", "series": series}


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
    """Bytes sent up to each round."""
    total, found = 0.0, {}
    up = run.records.series("train", "bytes_up", "total")
    for number, down in run.records.series("train", "bytes_down", "total").items():
        total += down + up.get(number, 0.0)
        found[number] = total
    return found


def _clients(methods: Sequence[Method]) -> Iterator[dict[str, Any]]:
    """How every metric is distributed over the clients of each method, in shared bins."""
    for split, protocol in evaluated_sets(methods):
        tables = [[run.clients(split, protocol) for run in method.runs] for method in methods]
        present = [table for found in tables for table in found if table is not None]
        names = (name for table in present for name in table if name not in ("client", "weight"))
        for metric in shown_first(names):
            values = [_pooled(found, metric) for found in tables]
            everything = np.concatenate(values)
            if not everything.size:
                continue
            edges = _edges(everything)
            series = [
                {"method": number, "shares": _shares(found, edges)}
                for number, found in enumerate(values)
                if found.size
            ]
            title = f"{label_of(metric)}, {split} clients, {protocol}"
            edges_shown = [_short(x) for x in edges.tolist()]
            yield {"title": title, "name": label_of(metric), "edges": edges_shown, "series": series}


def _pooled(tables: Iterable[Any], metric: str) -> np.ndarray:
    """A metric of the clients of all seeds, where it is a number."""
    found = [np.asarray(t[metric], np.float64) for t in tables if t is not None and metric in t]
    values = np.concatenate([np.empty(0), *found])
    return values[np.isfinite(values)]


def _edges(values: np.ndarray) -> np.ndarray:
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


def _toml(value: object) -> str:
    """A setting as in an experiment file."""
    if value is None:
        return "not set"
    return json.dumps(value, ensure_ascii=False, default=str)


def _json(values: object) -> str:
    """JSON that no HTML parser takes for markup."""
    text = json.dumps(values, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _file(name: str) -> str:
    return (resources.files(__package__) / FOLDER / name).read_text(encoding="utf-8").strip()
