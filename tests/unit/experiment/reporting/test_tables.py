import csv
import io
import math

import numpy as np
import pytest

from fedrecon.experiment.reporting.tables import (
    Column,
    ReportTable,
    Spread,
    latex,
    markdown,
    section,
    to_csv,
    write,
)

TABLE = ReportTable(
    "cost",
    "What it costs",
    (Column("method"), Column("RMSE", "{:.3f}".format), Column("rounds", "{:,.0f}".format)),
    (
        ("a_b | 5%", Spread.of([0.9, 1.0, 1.1]), 1234),
        ("c", Spread.of([0.5]), None),
        ("d", Spread.of([2.0, 2.0]), "not reached"),
        ("e", math.nan, math.nan),
    ),
    "A note.",
)


def test_a_spread_is_mean_and_deviation():
    values = [0.3, 0.9, 0.8, 0.1]
    spread = Spread.of(values)
    assert spread == (pytest.approx(np.mean(values)), pytest.approx(np.std(values, ddof=1)), 4)
    assert math.isnan(Spread.of([1.0]).deviation)


def test_text_shows_what_differs():
    assert TABLE.text() == [
        ["method", "RMSE", "rounds"],
        ["a_b | 5%", "1.000 ± 0.100", "1,234"],
        ["c", "0.500", ""],
        ["d", "2.000", "not reached"],
        ["e", "", ""],
    ]


def test_markdown_keeps_its_columns():
    assert markdown([["a", "b"], ["1", "2"]]) == "| a | b |\n| --- | --- |\n| 1 | 2 |"
    assert "| a_b \\| 5% | 1.000 ± 0.100 | 1,234 |" in markdown(TABLE.text())
    assert section(TABLE).startswith("## What it costs\n\n| method |")
    assert section(TABLE).endswith("\n\nA note.\n")


def test_csv_has_every_digit():
    rows = list(csv.DictReader(io.StringIO(to_csv(TABLE))))
    assert list(rows[0]) == ["method", "RMSE", "RMSE: deviation", "rounds"]
    assert float(rows[0]["RMSE: deviation"]) == Spread.of([0.9, 1.0, 1.1]).deviation
    assert [row["method"] for row in rows] == ["a_b | 5%", "c", "d", "e"]
    assert [row["rounds"] for row in rows] == ["1234", "", "not reached", ""]
    assert rows[1]["RMSE: deviation"] == rows[3]["RMSE"] == ""


def test_latex_escapes_what_it_would_read_as_commands():
    lines = latex(TABLE).splitlines()
    assert lines[:4] == [
        "% What it costs",
        "\\begin{tabular}{lrr}",
        "\\toprule",
        "method & RMSE & rounds \\\\",
    ]
    assert lines[5] == "a\\_b | 5\\% & 1.000 $\\pm$ 0.100 & 1,234 \\\\"
    tricky = ReportTable("t", "A\nB", (Column("x&y"),), (("\\input{/etc/passwd}$^~#",),))
    assert latex(tricky).splitlines()[0] == "% A B"
    assert "x\\&y" in latex(tricky)
    assert "\\textbackslash{}input\\{/etc/passwd\\}\\$\\textasciicircum{}\\textasciitilde{}\\#" in latex(
        tricky
    )


def test_tables_are_written_under_their_names(tmp_path):
    paths = write(tmp_path / "out", [TABLE])
    assert [p.name for p in paths] == ["cost.csv", "cost.tex"]
    assert paths[0].read_text(encoding="utf-8") == to_csv(TABLE)
    assert paths[1].read_text(encoding="utf-8") == latex(TABLE)
