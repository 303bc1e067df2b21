"""Tables of text and numbers, written as Markdown, CSV and LaTeX."""

import csv
import io
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from fedrecon import _safe_text as safe_text
from fedrecon._files import write_atomically


class Spread(NamedTuple):
    """A number that was measured several times.

    Attributes:
        mean: The mean of the measurements.
        deviation: The standard deviation of the sample, over n - 1; NaN for a single measurement.
        times: The number of measurements.
    """

    mean: float
    deviation: float
    times: int

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread":
        """The mean and deviation of at least one number."""
        times = len(values)
        if not all(abs(v) < 1e100 for v in values):  # of runs that diverged; sums would overflow
            return cls(math.nan, math.nan, times)
        mean = math.fsum(values) / times
        squares = math.fsum((v - mean) ** 2 for v in values)
        return cls(mean, math.sqrt(squares / (times - 1)) if times > 1 else math.nan, times)


# A cell is empty if it is None.
Cell = str | int | float | Spread | None


class Column(NamedTuple):
    """A column of a table.

    Attributes:
        name: The head of the column.
        shown: Turns a number of the column into text; None, the default, for a column of words.
    """

    name: str
    shown: Callable[[float], str] | None = None


@dataclass(frozen=True)
class ReportTable:
    """A table for a reader: rows under named columns.

    Attributes:
        name: The stem of the names of its files.
        title: The title above the table.
        columns: The columns, at least one.
        rows: The rows, each with a cell for each column.
        note: A remark below the table; `""`, the default, for none.
    """

    name: str
    title: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[Cell, ...], ...]
    note: str = ""

    def text(self) -> list[list[str]]:
        """The table as rows of text, the first of which is the head."""
        head = [column.name for column in self.columns]
        cells = [[_shown(c, x) for c, x in zip(self.columns, row, strict=True)] for row in self.rows]
        return [head, *cells]


def spread(value: Spread, shown: Callable[[float], str]) -> str:
    """A spread as text: `"0.93 ± 0.01"`; the deviation of a single measurement is left out.

    Args:
        value: The mean and the deviation.
        shown: Turns each of the two numbers into text.
    """
    if math.isnan(value.mean):
        return ""
    # Where all measurements agree, as in the number of rounds, "± 0" is left out.
    differs = not math.isnan(value.deviation) and value.deviation
    return shown(value.mean) + (f" ± {shown(value.deviation)}" if differs else "")


def size(count: int | float | None) -> str:
    """A number of bytes as text: `"1.2 MB"`; `"unknown"` for None."""
    if count is None:
        return "unknown"
    for unit in ("B", "kB", "MB"):
        if abs(count) < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.2f} GB"


def markdown(rows: Sequence[Sequence[str]]) -> str:
    """Rows of text, the first of which is the head, as a Markdown table."""
    head, *body = [[safe_text.markdown(cell) for cell in row] for row in rows]
    lines = [head, ["---"] * len(head), *body]
    return "\n".join("| " + " | ".join(row) + " |" for row in lines)


def to_csv(table: ReportTable) -> str:
    """A table as CSV: numbers with all their digits; a column of spreads has another one of deviations."""
    several = [any(isinstance(row[i], Spread) for row in table.rows) for i in range(len(table.columns))]
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    head: list[str] = []
    for column, spread in zip(table.columns, several, strict=True):
        head += [column.name, f"{column.name}: deviation"] if spread else [column.name]
    writer.writerow(map(safe_text.csv_cell, head))
    for row in table.rows:
        cells: list[str] = []
        for cell, spread in zip(row, several, strict=True):
            if isinstance(cell, Spread):
                cells += [_digits(cell.mean), _digits(cell.deviation)]
            else:
                cells += [_digits(cell)] + [""] * spread
        writer.writerow(cells)
    return file.getvalue()


def latex(table: ReportTable) -> str:
    """A table for LaTeX with the package booktabs."""
    head, *body = table.text()
    align = "".join("l" if column.shown is None else "r" for column in table.columns)
    lines = [f"% {safe_text.latex_comment(table.title)}", f"\\begin{{tabular}}{{{align}}}", "\\toprule"]
    lines += [" & ".join(map(safe_text.latex, head)) + " \\\\", "\\midrule"]
    lines += [" & ".join(map(safe_text.latex, row)) + " \\\\" for row in body]
    return "\n".join([*lines, "\\bottomrule", "\\end{tabular}"]) + "\n"


def section(table: ReportTable) -> str:
    """A section of a Markdown page that holds a table, its title and its note."""
    parts = [f"## {safe_text.markdown(table.title)}", "", markdown(table.text()), ""]
    return "\n".join([*parts, *([safe_text.markdown(table.note), ""] if table.note else [])])


def write(folder: Path, tables: Sequence[ReportTable]) -> list[Path]:
    """Writes each table as CSV and LaTeX, under the table's name.

    Args:
        folder: The folder of the files; it is made where it does not exist.
        tables: The tables, with different names.

    Returns:
        The paths of the files.
    """
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for table in tables:
        for suffix, content in (("csv", to_csv(table)), ("tex", latex(table))):
            paths.append(folder / f"{table.name}.{suffix}")
            write_atomically(paths[-1], content)
    return paths


def _shown(column: Column, cell: Cell) -> str:
    if cell is None or isinstance(cell, str):
        return cell or ""
    shown = column.shown or "{:g}".format
    if not isinstance(cell, Spread):
        return "" if math.isnan(cell) else shown(cell)
    return spread(cell, shown)


def _digits(cell: Cell) -> str:
    if isinstance(cell, float):
        # `repr` is the shortest text that gives the same number back.
        return "" if math.isnan(cell) else repr(float(cell))
    return safe_text.csv_cell(cell) if isinstance(cell, str) else "" if cell is None else str(cell)
