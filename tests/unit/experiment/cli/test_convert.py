"""`fedrecon convert` as its user calls it."""

import pytest

from fedrecon.data._clients import Clients
from fedrecon.datasets.ratings._prepare import prepare
from fedrecon.experiment.cli.commands.convert import columns_of
from fedrecon.experiment.cli.main import main
from fedrecon.experiment.settings.sections import SettingError

RATINGS = "7,10,4.5,3\n7,20,1,1\n2,10,3,2\n"
NAMED = ["--client", "u", "--item", "i", "--rating", "r", "--time", "t"]


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "named.csv").write_text("u,i,r,t\n" + RATINGS)
    (tmp_path / "bare.csv").write_text(RATINGS)
    return tmp_path


def test_a_client_file_is_written_and_described(here, capsys):
    assert main(["convert", "named.csv", "--out", "a.arrow", *NAMED]) == 0
    shown = capsys.readouterr().out
    assert "2 clients, 3 ratings of 2 items in" in shown and "peak memory" in shown
    assert shown.endswith("Clients: a.arrow\n")
    clients = Clients.open("a.arrow")
    assert clients.ids.tolist() == [2, 7] and clients[7]["item"].tolist() == [1, 0]
    columns = {"client": "u", "item": "i", "rating": "r", "time": "t"}
    prepare("named.csv", columns=columns, cache="cache").write("wanted.arrow")
    assert main(["convert", "named.csv", "--out", "b.arrow", *NAMED, "--order", "file"]) == 0
    assert (here / "b.arrow").read_bytes() == (here / "wanted.arrow").read_bytes()


def test_columns_may_be_positions(here, capsys):
    asked = ["--client", "1", "--item", "2", "--duplicates", "all", "--cap", "3"]
    assert main(["convert", "bare.csv", "bare.csv", "--out", "a.arrow", *asked]) == 0
    assert Clients.open("a.arrow").num_examples.tolist() == [2, 3]
    assert columns_of({"client": "1", "item": "2", "rating": None}) == {"client": 1, "item": 2}
    assert columns_of({"client": "1", "item": "b"}) == {"client": "1", "item": "b"}
    assert columns_of({"client": None, "item": None}) is None
    with pytest.raises(SettingError, match="--item must name the item column"):
        columns_of({"client": "1", "item": None})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["named.csv", "--out", "named.csv", *NAMED], "--out: named.csv is there already; remove it"),
        (["none.csv", "--out", "a.arrow", *NAMED], "none.csv: no such rating file"),
        (["named.csv", "--out", "a.arrow", *NAMED, "--cap", "0"], "cap must be a whole number of at least 1"),
        (["named.csv", "--out", "nowhere/a.arrow", *NAMED], "nowhere"),
        (
            ["bare.csv", "bare.csv", "--out", "a.arrow", "--client", "1", "--item", "2"],
            "once, but did already",
        ),
    ],
)
def test_mistakes_are_named_and_leave_no_file(here, capsys, arguments, message):
    assert main(["convert", *arguments]) in (1, 2)
    assert message in capsys.readouterr().err
    assert sorted(path.name for path in here.iterdir()) == ["bare.csv", "named.csv"]
