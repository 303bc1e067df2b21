"""The script of the report page, run by Node on a small stand-in for a browser's DOM (`page_dom.js`)."""

import json
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import pytest
from tests.folders import write_run

from fedrecon.experiment.analysis.compare import report_runs

NODE = shutil.which("node")
pytestmark = [
    pytest.mark.skipif(NODE is None, reason="there is no Node to run the page's script"),
    # The folders of these tests are written by hand, without digests.
    pytest.mark.filterwarnings("ignore::fedrecon.errors.UncheckedWarning"),
]
VOID = {"meta", "link", "br"}


class Tree(HTMLParser):
    """A page as nested [name, attributes, children]."""

    def __init__(self, text):
        super().__init__()
        self.root = ["document", {}, []]
        self.open = [self.root]
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attributes):
        node = [tag, dict(attributes), []]
        self.open[-1][2].append(node)
        if tag not in VOID:
            self.open.append(node)

    def handle_endtag(self, tag):
        assert self.open.pop()[0] == tag

    def handle_data(self, data):
        self.open[-1][2].append(data)


def scripts(node):
    """The texts of a page's scripts, without its data."""
    name, attributes, children = node
    if name == "script":
        return [] if "id" in attributes else ["".join(children)]
    return [text for child in children if isinstance(child, list) for text in scripts(child)]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    home = tmp_path_factory.mktemp("runs")
    for name, level in (("old", 0.9), ("new", 0.8)):
        for seed in range(2):
            write_run(home / name / f"seed-{seed}", name, level + 0.01 * seed, seed, model={"k": level})
    return home


@pytest.fixture(scope="module")
def use(folders, tmp_path_factory):
    """Takes the names of runs and a user's steps, and returns what the page shows before and after each."""
    out = tmp_path_factory.mktemp("out")

    def use(names, *steps):
        path = report_runs([folders / name for name in names], out / "page.html")
        page = Tree(path.read_text(encoding="utf-8")).root
        (script,) = scripts(page)
        program = Path(__file__).with_name("page_dom.js")
        done = subprocess.run(
            [NODE, str(program)],
            input=json.dumps({"page": page, "script": script, "steps": steps}),
            capture_output=True,
            text=True,
            encoding="utf-8",
            timeout=60,
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    return use


def xs(line):
    """The x of each point of a line, in pixels."""
    return [float(point.split(",")[0].lstrip("ML")) for point in line[1].split("L")]


def test_both_charts_are_drawn(use):
    (state,) = use(["old", "new"])
    for chart in (state["curves"], state["clients"]):
        assert not chart["hidden"]
        assert [style for style, _ in chart["lines"]] == ["stroke: var(--m0)", "stroke: var(--m1)"]
        assert chart["message"] == [] and chart["tip"] is None
    assert state["curves"]["bands"] == 2, "the seeds of a method differ"
    assert "rounds" in state["curves"]["texts"] and "RMSE, validation clients" in state["curves"]["texts"]
    assert state["legend"] == [["old", "true"], ["new", "true"]]
    assert state["unmarked"] == 0, "all that names a method has its colour"


def test_a_method_is_hidden_and_shown_again(use):
    _, hidden, none, resized, shown = use(
        ["old", "new"], ["press", 0], ["press", 1], ["resize"], ["press", 1]
    )
    assert hidden["legend"] == [["old", "false"], ["new", "true"]]
    for chart in ("curves", "clients"):
        assert [style for style, _ in hidden[chart]["lines"]] == ["stroke: var(--m1)"]
        assert none[chart]["lines"] == resized[chart]["lines"] == []
        assert none[chart]["message"][0].startswith("Nothing to show")
    assert shown["curves"] == hidden["curves"]


def test_curves_by_rounds_bytes_and_seconds(use):
    by_rounds, by_bytes, by_seconds = use(["old"], ["choose", "curves", 1, 1], ["choose", "curves", 1, 2])
    assert by_rounds["curves"]["menus"][-3:] == ["rounds", "bytes sent", "seconds"]
    assert "kB sent by and to clients" in by_bytes["curves"]["texts"]
    assert "seconds" in by_seconds["curves"]["texts"]
    # All three grow evenly in these runs, so the line is the same and the axis another one.
    assert by_rounds["curves"]["lines"] == by_bytes["curves"]["lines"] == by_seconds["curves"]["lines"]
    (line,) = by_rounds["curves"]["lines"]
    assert xs(line) == [64, 800 - 16], "the first and the last round are at the edges"


def test_the_tip_tells_the_values_of_the_nearest_round(use):
    _, first, last, left = use(
        ["old", "new"], ["point", "curves", 0], ["point", "curves", 799], ["leave", "curves"]
    )
    assert first["curves"]["tip"][0] == "5 rounds" and last["curves"]["tip"][0] == "10 rounds"
    methods = [text.split(":")[0] for text in last["curves"]["tip"][1:]]
    assert methods == ["old", "new"]
    assert all(" ± 0.00" in text for text in last["curves"]["tip"][1:])
    assert left["curves"]["tip"] is None


def test_clients_as_distribution_and_cumulative(use):
    distribution, cumulative = use(["new"], ["choose", "clients", 1, 1])
    (steps,), (line,) = distribution["clients"]["lines"], cumulative["clients"]["lines"]
    assert "H" in steps[1] and "H" not in line[1]
    heights = [float(point.split(",")[1]) for point in line[1].split("L")]
    assert heights == sorted(heights, reverse=True), "a cumulative share never falls"
    assert "% of the clients" in distribution["clients"]["texts"]
    assert "% of the clients have at most this" in cumulative["clients"]["texts"]


def test_settings_are_shown_in_full_on_demand(use):
    few, full, again = use(["old", "new"], ["toggle"], ["toggle"])
    assert few["few"] and few["toggle"] == [False, "Show all settings"]
    assert not full["few"] and full["toggle"] == [False, "Show only what differs"]
    assert again["few"] and again["toggle"] == few["toggle"]


def test_a_single_run_has_no_settings_to_hide(use):
    (state,) = use(["old/seed-0"])
    assert state["toggle"] is None and not state["few"]
    assert state["curves"]["bands"] == 0
