import json
import re
from html.parser import HTMLParser

import pyarrow.parquet
import pytest
from tests.folders import write_run

from fedrecon.experiment.analysis.compare import comparison, report_runs
from fedrecon.experiment.analysis.runs import methods
from fedrecon.experiment.analysis.webpage import command, page

# The folders of these tests are written by hand, without digests.
pytestmark = pytest.mark.filterwarnings("ignore::fedrecon.errors.UncheckedWarning")

VOID = {"meta", "link", "br"}
WICKED = "</script><img src=x onerror=alert(1)>{{js}}\u2028&amp;'\""


class Read(HTMLParser):
    """A page's elements, the text in each, and whether they are closed in order."""

    def __init__(self, text):
        super().__init__()
        self.open, self.elements = [], []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attributes):
        self.elements.append([tag, dict(attributes), ""])
        if tag not in VOID:
            self.open.append(self.elements[-1])

    def handle_endtag(self, tag):
        assert self.open.pop()[0] == tag

    def handle_data(self, data):
        if self.open:
            self.open[-1][2] += data

    def all(self, tag, **attributes):
        return [
            (found, text)
            for name, found, text in self.elements
            if name == tag and all(found.get(k) == v for k, v in attributes.items())
        ]

    def data(self):
        ((_, text),) = self.all("script", id="data")
        return json.loads(text)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    home = tmp_path_factory.mktemp("runs")
    for name, level in (("old", 0.9), ("new", 0.8)):
        for seed in range(2):
            write_run(
                home / name / f"seed-{seed}", name, level, seed, model={"factors": len(name), "k": level}
            )
    return home


@pytest.fixture(scope="module")
def read(folders, tmp_path_factory):
    """The page of two methods."""
    path = report_runs(
        [folders / "old", folders / "new"], tmp_path_factory.mktemp("out") / "deep" / "page.html"
    )
    found = Read(path.read_text(encoding="utf-8"))
    assert found.open == []
    return found


def test_nothing_is_fetched(read):
    for tag, attributes, text in read.elements:
        assert tag not in ("iframe", "object", "embed", "base", "img")
        for name in ("src", "href", "action", "data"):
            assert attributes.get(name, "#").startswith(("#", "data:,")), (tag, attributes)
        assert not any(name.startswith("on") for name in attributes)
        # The name of a namespace is no address that anybody visits.
        foreign = re.findall(r"\w+://[^\s\"']+|@import|url\(", text)
        assert set(foreign) <= {"http://www.w3.org/2000/svg"}
    ((policy, _),) = read.all("meta", **{"http-equiv": "Content-Security-Policy"})
    assert policy["content"].startswith("default-src 'none'")


def test_curves_are_those_of_the_records(read, folders):
    data = read.data()
    assert data["methods"] == ["old", "new"]
    (curve,) = [
        c for c in data["curves"] if c["title"] == "RMSE over examples, validation clients, recon_eval"
    ]
    series = [s for s in curve["series"] if s["method"] == 1]
    assert len(series) == 2
    assert series[0] == {
        "method": 1,
        "rounds": [5.0, 10.0],
        "bytes": [5 * 3e4, 10 * 3e4],
        "seconds": [2.5, 5.0],
        "values": [1.0, 0.9],
    }


def test_clients_are_counted(read, folders):
    (found,) = [c for c in read.data()["clients"] if c["title"] == "RMSE, test clients, recon_eval"]
    for number, name in enumerate(("old", "new")):
        tables = [
            pyarrow.parquet.read_table(folders / name / f"seed-{i}" / "clients-test.parquet") for i in (0, 1)
        ]
        values = [x for table in tables for x in table["rmse"].to_pylist()]
        (series,) = [s for s in found["series"] if s["method"] == number]
        assert sum(series["shares"]) == pytest.approx(1, abs=1e-4)
        middle = len(series["shares"]) // 2
        below = sum(x < found["edges"][middle] for x in values) / len(values)
        assert sum(series["shares"][:middle]) == pytest.approx(below, abs=1e-3)


def test_tables_settings_and_commands_are_there(read, folders):
    (quality, cost, differences), _ = comparison(methods([folders / "old", folders / "new"]))
    cells = [text for _, text in read.all("td")]
    for table in (quality, cost, differences):
        for row in table.text()[1:]:
            assert all(text in cells for text in row)
    marked = [a for a, text in read.all("td") if text == "new"]
    assert marked and all(a["data-method"] == "1" for a in marked)

    kinds, names = read.all("tr"), [text for _, text in read.all("th", scope="row")]
    kinds = [a["class"] for a, _ in kinds if a.get("class") in ("differs", "same")]
    assert dict(zip(names, kinds, strict=True)) == {
        "name": "differs",
        "task": "same",
        "seed": "same",
        "data.kind": "same",
        "model.factors": "same",
        "model.k": "differs",
    }
    assert "0.8" in cells
    assert [text for _, text in read.all("pre")] == ["fedrecon run made.toml"] * 2
    facts = [text for _, text in read.all("dd")]
    assert "0123abc" in facts
    assert "python 3.12.1, fedrecon 0.1.0" in facts
    assert facts.count("1") == 2  # the second seed of each


def test_what_runs_are_called_is_text_and_no_markup(tmp_path):
    folder = write_run(tmp_path / "run", WICKED, note=WICKED)
    environment = json.loads((folder / "environment.json").read_text())
    (folder / "environment.json").write_text(
        json.dumps({**environment, "system": WICKED, "command": [WICKED]})
    )
    compared = methods([folder])
    found = Read(page(compared, comparison(compared)[0], [WICKED]))
    assert found.open == []
    assert found.all("img") == []
    assert len(found.all("script")) == 2
    assert found.all("h1")[0][1] == found.all("title")[0][1] == WICKED
    assert found.all("p", **{"class": "note"})[0][1] == WICKED
    assert found.data()["methods"] == [WICKED]
    assert json.loads([text for _, text in found.all("td") if "onerror" in text][-1]) == WICKED


def test_a_single_run_has_no_differences_to_show(folders):
    compared = methods([folders / "old" / "seed-0"])
    found = Read(page(compared, comparison(compared)[0]))
    assert [text for _, text in found.all("h2")] == [
        "Curves",
        "Clients",
        "Quality",
        "Cost",
        "Settings",
        "How to reproduce",
    ]
    assert found.all("button") == []


def test_commands_are_what_one_types():
    assert (
        command(["/lib/fedrecon/__main__.py", "run", "--set", "name=a b"]) == "fedrecon run --set 'name=a b'"
    )
    assert command(["/usr/bin/fedrecon", "run"]) == "fedrecon run"
    assert command(["mine.py", "3"]) == "python mine.py 3"
    assert command([]) == ""
