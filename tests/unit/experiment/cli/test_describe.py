"""Which files a description is made of."""

import json

import pytest

from fedrecon.errors import DataError
from fedrecon.experiment.cli.commands.describe import describe_data

OWN = "when,person,film,stars\n1,ann,x,4\n2,ann,y,3.5\n3,bob,y,3.5\n"


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def test_ratings_with_columns_of_ones_own(tmp_path):
    path = tmp_path / "own.csv"
    path.write_text(OWN)
    columns = {"client": "person", "item": "film", "rating": "stars", "time": "when"}
    shown = describe_data(str(path), columns)
    assert "clients               2" in shown and "item                  2 known, 2 used" in shown
    with pytest.raises(
        DataError, match=r"own\.csv, line 1: must have a column 'userId' .*data\.columns\.client"
    ):
        describe_data(str(path))
    with pytest.raises(DataError, match=r"own\.csv: ratings with columns of your own need --item"):
        describe_data(str(path), {"client": "person"})


def test_texts_by_client(tmp_path):
    path = tmp_path / "texts.jsonl"
    path.write_text(json.dumps({"client": "ann", "text": ["the court", "so", "it was"]}) + "\n")
    shown = describe_data(str(path))
    assert "clients               1" in shown and "examples              3" in shown
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "ann.txt").write_text("the court\nso\n")
    assert "examples              2" in describe_data(str(folder))


def test_a_folder_of_ratings_may_hold_a_text(tmp_path):
    (tmp_path / "README.txt").write_text("what it is\n")
    (tmp_path / "ratings.csv").write_text("userId,movieId,rating\n1,2,3.5\n")
    assert "rating" in describe_data(str(tmp_path))
