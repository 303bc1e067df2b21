"""Names reach screens, figures, files and tables as they were given, and do nothing there."""

import csv
import io
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedrecon import _safe_text as safe_text
from fedrecon.experiment.cli.runs import fresh_folder
from fedrecon.experiment.console.screen import Screen
from fedrecon.experiment.reporting.client_files import clients_file, clients_of
from fedrecon.experiment.reporting.figure_data import Curves
from fedrecon.experiment.reporting.plots import write
from fedrecon.experiment.reporting.tables import Column, ReportTable, latex, section, to_csv
from fedrecon.experiment.storage.metrics_log import Records, Row, read

NAMES = [
    *("plain", "price_$ and cost_$", "$\\frac$", "_base", "__", "日本語", "é" * 300, "", " "),
    *("new/users", "../x", "..", ".hidden", "a\\b", "con.", "x ", "%2F"),
    *("exp[adam]", "exp[/sgd]", "[red]x[/red]", ":smile:", "\x1b[31mred\x1b]0;title\x07", "\x9b31m", "\x00"),
    *("a\nb", "a\tb\r", "\u202eabc", "\u2028", "\ud800"),
    *("=1+1", "+1", "-1", "@SUM(A1)", "'=1"),
    *(
        "<script>alert(1)</script>",
        "&lt;",
        "a|b",
        "`code`",
        "``",
        "[x](javascript:alert(1))",
        "![i](http://x)",
    ),
    *("# head", "1. one", "*b*", "~~s~~", "100% & _x_ {y} ^ \\z"),
]


@pytest.mark.parametrize("name", NAMES)
def test_a_screen_prints_a_name_as_it_is_and_obeys_nothing_in_it(name):
    file = io.StringIO()
    Screen(file=file, force_terminal=True, color_system="truecolor", width=2000, highlight=False).print(
        f"<{name}>"
    )
    shown = file.getvalue()
    assert "\x1b" not in shown and "\x9b" not in shown and "\x07" not in shown and "\u202e" not in shown
    if name.isprintable():
        assert shown == f"<{name}>\n"


@given(st.text())
def test_file_names_stay_in_their_folder_and_give_the_name_back(text):
    safe = safe_text.file_name(text)
    assert Path(safe).name == safe and safe not in (".", "..") and not set(safe) & set('/\\:*?"<>|\n\t\0')
    assert len(safe.encode()) <= 120
    if text and len(safe.encode()) < 100:
        assert safe_text.name_of_file(safe) == text


def test_plain_names_of_files_are_as_before():
    assert clients_file("test") == "clients-test.parquet"
    assert clients_file("seen test") == "clients-test-standard_eval.parquet"
    assert clients_file("new/users") == "clients-new%2Fusers.parquet"
    for name in ("test", "seen test", "validation", "new/users", "%2F", "日本語", ".x"):
        assert clients_of(Path(clients_file(name))) == name


@pytest.mark.parametrize("name", NAMES)
def test_the_folder_of_a_run_is_in_its_parent(tmp_path, name):
    folder = fresh_folder(tmp_path, name)
    folder.mkdir()
    assert folder.resolve().parent == tmp_path.resolve()


@given(st.text(st.characters(codec="utf-8")))
def test_cells_are_no_formulas_and_give_their_text_back(text):
    cell = safe_text.csv_cell(text)
    assert not cell.startswith(("=", "+", "-", "@", "\t", "\r")) or float(cell) <= 0
    assert safe_text.from_csv_cell(cell) == text
    assert safe_text.csv_cells(pa.array([text, None])).to_pylist() == [cell, None]


@pytest.mark.parametrize("text", ["-5", "-0", "-12.50", "-9223372036854775808"])
def test_negative_numbers_are_no_formulas(text):
    assert safe_text.csv_cell(text) == text and safe_text.from_csv_cell(text) == text


@pytest.mark.parametrize("text", ["-", "--5", "-5x", "-5\n", "-.5", "-5.", "-1+1", "-5e3", "-٣", "+5"])
def test_what_only_begins_as_a_number_is_a_formula(text):
    assert safe_text.csv_cell(text) == f"'{text}"
    assert safe_text.csv_cells(pa.array([text])).to_pylist() == [f"'{text}"]


def test_numbers_in_tables_keep_their_signs():
    table = ReportTable("t", "T", (Column("=m"), Column("n", "{}".format)), (("=1+1", -0.5), ("x", -3)))
    assert list(csv.reader(io.StringIO(to_csv(table)))) == [
        ["'=m", "n"],
        ["'=1+1", "-0.5"],
        ["x", "-3"],
    ]


@pytest.mark.parametrize("name", ["=1+1", "'=1", "a,b", 'a"b', "-x", "new/users", "a|b", "日本語"])
def test_the_records_of_a_set_or_metric_of_any_name_are_read_back(tmp_path, name):
    records = Records(tmp_path / "metrics.csv")
    records.restart(0)
    row = Row(1, name, "recon_eval", "examples", name, -0.5)
    records.append([row])
    records.write()
    assert read(records.path) == [row]


@pytest.mark.parametrize("name", NAMES)
def test_markdown_shows_a_name_and_runs_nothing(name):
    text = section(ReportTable("t", name, (Column(name),), ((name,),), name))
    lines = text.splitlines()
    assert len(lines) == 5 + 2 * bool(name)  # a name begins no line of its own
    assert "<" not in text
    assert lines[2].replace("\\\\", "").replace("\\|", "").count("|") == 2
    assert safe_text.markdown("-0.5") == "-0.5"
    assert safe_text.markdown("movielens_1m-paper v1.2 (new)") == "movielens_1m-paper v1.2 (new)"


def test_code_spans_hold_backticks():
    assert safe_text.code("a") == "`a`"
    assert safe_text.code("a`b``c") == "```a`b``c```"
    assert safe_text.code("`a") == "`` `a ``"


@pytest.mark.parametrize("name", NAMES)
def test_latex_rows_end_where_they_should(name):
    text = latex(ReportTable("t", name, (Column(name), Column("x")), ((name, "x"),)))
    assert [x for x in text.splitlines() if x.endswith("\\\\")] == text.splitlines()[3:4] + text.splitlines()[
        5:6
    ]
    assert text.splitlines()[0] == f"% {safe_text.line(name)}"


def records() -> Records:
    made = Records()
    for number in (1, 2):
        made.append(
            Row(number, split, protocol, weighting, metric, 1.0 + number)
            for split, protocol, weighting, metric in (
                ("train", "training", "total", "bytes_up"),
                ("train", "training", "total", "bytes_down"),
                ("train", "training", "total", "seconds"),
                ("validation", "recon_eval", "examples", "rmse"),
            )
        )
    return made


def test_figures_show_every_name(tmp_path):
    runs = [Curves(name, records(), {"test": {"rmse": [1.0, 2.0]}}) for name in NAMES]
    write(tmp_path / "many", runs)
    for file in ("progress", "clients"):
        content = (tmp_path / "many" / f"{file}.svg").read_text(encoding="utf-8")
        shown = {x.text for x in ElementTree.fromstring(content).iter() if x.tag.endswith("}text")}
        for name in NAMES:
            label = safe_text.figure(name)
            assert label in shown or not label, name


@pytest.mark.parametrize("name", [n for n in NAMES if n])
def test_the_figure_of_one_run_has_its_name(tmp_path, name):
    write(tmp_path, [Curves(name, records(), {})])
    content = (tmp_path / "progress.svg").read_text(encoding="utf-8")
    shown = {x.text for x in ElementTree.fromstring(content).iter() if x.tag.endswith("}text")}
    assert safe_text.figure(name) in shown or not safe_text.figure(name)
