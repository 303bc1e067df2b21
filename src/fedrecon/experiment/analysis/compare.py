"""Compares several runs by the content of their folders: figures, tables, and the report page."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from fedrecon import _safe_text as safe_text
from fedrecon._files import write_atomically
from fedrecon.errors import RunError
from fedrecon.experiment.analysis.audits import audit_table, labelled_audits
from fedrecon.experiment.analysis.comparability import comparable, warnings
from fedrecon.experiment.analysis.comparison import cost, differences, quality
from fedrecon.experiment.analysis.runs import Method, Run, labels, methods, seed_folders
from fedrecon.experiment.analysis.targets import Target
from fedrecon.experiment.analysis.webpage import page
from fedrecon.experiment.console.screen import rich_table
from fedrecon.experiment.reporting import tables
from fedrecon.experiment.reporting.client_files import clients_of
from fedrecon.experiment.storage.metrics_log import TRAINING
from fedrecon.experiment.storage.run_folder import PLOTS

PAGE = "comparison.md"


def compare_runs(
    runs: Sequence[Path], out: Path, screen: Console, targets: Sequence[Target] = ()
) -> list[tables.ReportTable]:
    """Compares runs: prints tables, and writes them with the figures.

    Args:
        runs: The folders of finished runs; a folder of several seeds is one method. The others are compared
            with the first.
        out: The folder that gets `comparison.md`, each table as CSV and LaTeX, and `plots`.
        screen: The console that shows the tables.
        targets: Qualities, for each of which the rounds and clients until a run reached it are counted; none
            by default.

    Returns:
        The tables.

    Raises:
        RunError: A folder holds no run, or one that has no result yet.
        SettingError: A target's metric was not recorded.
    """
    compared = methods(runs)
    results, notes = comparison(compared, targets)
    figures = plot_runs(runs, out / PLOTS)
    for text in notes:
        screen.print(f"Note: {text}")
    for table in results:
        screen.print(f"\n{table.title}", style="bold")
        screen.print(rich_table(table.text(), sum(column.shown is None for column in table.columns[:5])))
    tables.write(out, results)
    title = safe_text.markdown(", ".join(method.label for method in compared))
    lines = [f"# {title}", "", *(f"- {safe_text.markdown(text)}" for text in notes)]
    lines += ["", *map(tables.section, results)]
    lines += [f"![{p.stem}]({PLOTS}/{p.name})" for p in figures if p.suffix == ".png"]
    write_atomically(out / PAGE, "\n".join(lines) + "\n")
    screen.print(f"\nPage:    {out / PAGE}")
    screen.print(f"Tables:  {', '.join(f'{table.name}.csv, {table.name}.tex' for table in results)}")
    return results


def report_runs(runs: Sequence[Path], out: Path, targets: Sequence[Target] = ()) -> Path:
    """Writes the report page of runs, in HTML.

    Args:
        runs: The folders of finished runs, as for `compare_runs`.
        out: The path of the page.
        targets: Qualities, as for `compare_runs`; none by default.

    Returns:
        The path of the page.

    Raises:
        RunError: A folder holds no run, or one that has no result yet.
        SettingError: A target's metric was not recorded.
    """
    compared = methods(runs)
    out.parent.mkdir(parents=True, exist_ok=True)
    results, notes = comparison(compared, targets)
    audits = list(labelled_audits(compared))
    figures = {}
    if audits:
        # The import of matplotlib takes a second.
        from fedrecon.experiment.analysis.audit_figures import embedded_figure

        results.append(audit_table(audits))
        figures[results[-1].name] = embedded_figure(audits)
    write_atomically(out, page(compared, results, notes, figures))
    return out


def comparison(
    compared: Sequence[Method], targets: Sequence[Target] = ()
) -> tuple[list[tables.ReportTable], list[str]]:
    """The tables of methods, and warnings that their reader must see first.

    Args:
        compared: The methods, at least one; the others are compared with the first.
        targets: Qualities, as for `compare_runs`; none by default.
    """
    results = [quality(compared), cost(compared, targets)]
    paired = differences(compared, comparable)
    return [*results, paired] if paired.rows else results, warnings(compared)


def plot_runs(runs: Sequence[Path], out: Path | None = None) -> list[Path]:
    """Draws runs, finished or not; those of several seeds in one colour.

    Args:
        runs: The folders of the runs.
        out: The folder of the figures; by default `plots` in the folder of a single run, and for several
            runs `plots` in the working directory.

    Returns:
        The paths of the files.

    Raises:
        RunError: A folder holds no run, or one without an evaluation.
    """
    # The import of matplotlib takes a second.
    from fedrecon.experiment.reporting import plots

    names = labels([(_name(run), run) for run in runs])
    curves = [
        _curves(x, name) for run, name in zip(runs, names, strict=True) for x in seed_folders(run) or [run]
    ]
    target = out or (runs[0] / PLOTS if len(runs) == 1 else Path(PLOTS))
    target.parent.mkdir(parents=True, exist_ok=True)
    return [target / path.name for path in plots.write(target, curves)]


def _curves(path: Path, label: str) -> Any:
    from fedrecon.experiment.reporting.figure_data import Curves

    run = Run(path)
    records = run.records
    if not any(row.protocol != TRAINING for row in records):
        raise RunError(f"{path}: a run must have reached an evaluation to be drawn, this one has not")
    files = sorted(path.glob("clients-*.parquet"))
    return Curves(label, records, {clients_of(p): _metrics(run.table(p)) for p in files})


def _metrics(table: dict[str, Any]) -> dict[str, Any]:
    return {name: values for name, values in table.items() if name not in ("client", "weight")}


def _name(path: Path) -> str:
    """The name of a run, or of the first of its seeds; the folder's name if the settings have none."""
    try:
        return str(Run((seed_folders(path) or [path])[0]).config.get("name", path.name))
    except RunError:
        return path.name
