"""The report page: runs as one file of HTML, with tables, curves, clients, settings and commands.

This module collects what the page shows. `page/page.html` lays it out, a template of Jinja that escapes all
text; `page/page.js` draws the charts from the numbers of `chart_data`.
"""

import json
import shlex
from collections.abc import Iterator, Mapping, Sequence
from importlib import resources
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from fedrecon.experiment.analysis import chart_data
from fedrecon.experiment.analysis.runs import Method, Run, has_several_seeds
from fedrecon.experiment.reporting.tables import ReportTable

FOLDER = "page"


class _Cell(NamedTuple):
    """A cell of a table on the page.

    Attributes:
        kind: The class of the cell: `"number"` or `"word"`.
        text: The text of the cell.
        method: The number of the method that it names, whose colour marks it; None, the default, if it names
            none.
    """

    kind: str
    text: str
    method: int | None = None


class _Row(NamedTuple):
    """A row of a table on the page.

    Attributes:
        begins_group: Whether a line separates it from the row above.
        cells: The cells of the row.
    """

    begins_group: bool
    cells: list[_Cell]


def page(
    methods: Sequence[Method],
    tables: Sequence[ReportTable],
    notes: Sequence[str] = (),
    figures: Mapping[str, str] = MappingProxyType({}),
) -> str:
    """The report page of some methods.

    Args:
        methods: The methods, at least one.
        tables: The tables to show, for instance those of `comparison`.
        notes: Warnings that the reader must see first; none by default.
        figures: Addresses of images that hold their own data, by the name of the table that each stands
            above; none by default.
    """
    # The import takes a tenth of a second, and only the command `report` needs it.
    import jinja2

    # Every value is escaped by default. A name that the template has and this function lacks is an error.
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    numbers = {method.label: number for number, method in enumerate(methods)}
    data = {
        "methods": list(numbers),
        "curves": list(chart_data.curves(methods)),
        "clients": list(chart_data.clients(methods)),
    }
    return environment.from_string(_read("page.html")).render(
        title=", ".join(method.label for method in methods),
        about=_about(methods),
        charts=[name for name in ("curves", "clients") if data[name]],
        notes=notes,
        tables=[
            {
                "name": table.name,
                "title": table.title,
                "note": table.note,
                "figure": figures.get(table.name),
                **_cells(table, numbers),
            }
            for table in tables
        ],
        methods=[method.label for method in methods],
        several_seeds=has_several_seeds(methods),
        settings=_settings(methods),
        origins=[_origin(method) for method in methods],
        data=_json(data),
        css=_read("page.css"),
        js=_read("page.js"),
    )


def _about(methods: Sequence[Method]) -> str:
    runs = sum(len(method.runs) for method in methods)
    days = sorted({str(run.environment.get("started", ""))[:10] for m in methods for run in m.runs})
    when = days[0] if len(days) == 1 else f"{days[0]} to {days[-1]}"
    return f"{len(methods)} methods, {runs} runs, made {when}" if runs > 1 else f"A run of {when}"


def _cells(table: ReportTable, numbers: Mapping[str, int]) -> dict[str, Any]:
    """The head and the rows of a table; a group of rows differs only in the columns from the method on."""
    kinds = ["number" if column.shown else "word" for column in table.columns]
    method = next((i for i, column in enumerate(table.columns) if column.name == "method"), None)
    head, *body = table.text()
    rows = []
    before: list[str] | None = None
    for row in body:
        group = row[:method]
        cells = [
            _Cell(kind, text, numbers.get(text) if i == method else None)
            for i, (kind, text) in enumerate(zip(kinds, row, strict=True))
        ]
        rows.append(_Row(before is not None and group != before, cells))
        before = group
    return {"head": [_Cell(kind, text) for kind, text in zip(kinds, head, strict=True)], "rows": rows}


def _settings(methods: Sequence[Method]) -> list[dict[str, Any]]:
    """Name and values of every setting of any method, and whether the methods differ in it."""
    configs = [_shared(method.runs) for method in methods]
    names = dict.fromkeys(name for config in configs for name in config)
    values = {name: [config.get(name, "") for config in configs] for name in names}
    return [{"name": name, "values": x, "differs": len(set(x)) > 1} for name, x in values.items()]


def _shared(runs: Sequence[Run]) -> dict[str, str]:
    """The settings of a method; where its seeds differ, all their values one after the other."""
    names = dict.fromkeys(name for run in runs for name in run.config)
    values = {name: dict.fromkeys(_toml(run.config.get(name)) for run in runs) for name in names}
    return {name: ", ".join(texts) for name, texts in values.items()}


def _origin(method: Method) -> dict[str, Any]:
    """How to make the runs of a method again: their commands, and facts about each run."""
    commands = dict.fromkeys(command(run.environment.get("command", [])) for run in method.runs)
    return {"label": method.label, "commands": list(commands), "runs": [list(_facts(r)) for r in method.runs]}


def command(arguments: Sequence[str]) -> str:
    """The command line that starts a process with these arguments; `""` if there are none."""
    if not arguments:
        return ""
    program, *rest = arguments
    name = Path(program).name
    return shlex.join(
        ["fedrecon", *rest] if name in ("__main__.py", "fedrecon") else ["python", program, *rest]
    )


def _facts(run: Run) -> Iterator[tuple[str, str]]:
    """Names and texts of facts about a run: its folder, seed, time, revision, versions and machine."""
    origin = run.environment
    git = origin.get("git") or {}
    yield "folder", str(run.path)
    yield "seed", str(run.seed)
    yield "started", str(origin.get("started", ""))
    if run.privacy is not None:
        yield "privacy of each client", str(run.privacy)
    if git:
        yield "git revision", str(git.get("revision", "")) + (", changed since" if git.get("changed") else "")
    packages = origin.get("packages") or {}
    yield "versions", ", ".join(f"{k} {v}" for k, v in {"python": origin.get("python"), **packages}.items())
    devices = ", ".join(origin.get("devices") or ())
    yield "machine", f"{origin.get('system', '')}, {origin.get('cpus', '?')} CPUs, {devices}"


def _toml(value: object) -> str:
    """The value of a setting as in an experiment file."""
    if value is None:
        return "not set"
    return json.dumps(value, ensure_ascii=False, default=str)


def _json(values: object) -> str:
    """JSON in which no HTML parser sees markup, so that the template need not escape it."""
    text = json.dumps(values, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _read(name: str) -> str:
    return (resources.files(__package__) / FOLDER / name).read_text(encoding="utf-8").strip()
