"""Which files a description is made of."""

import gzip
import json

import numpy as np
import pytest

from fedrecon.errors import DataError
from fedrecon.experiment.cli.commands.describe import describe_data, describe_table, labels
from fedrecon.experiment.cli.main import main

OWN = "when,person,film,stars\n1,ann,x,4\n2,ann,y,3.5\n3,bob,y,3.5\n"


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def test_ratings_with_columns_of_ones_own(tmp_path):
    path = tmp_path / "own.csv"
    path.write_text(OWN)
    columns = {"client": "person", "item": "film", "rating": "stars", "time": "when"}
    shown = describe_data(str(path), [f"data.columns.{name}={column}" for name, column in columns.items()])
    assert "clients               2" in shown and "item                  2 known, 2 used" in shown
    with pytest.raises(
        DataError, match=r"own\.csv, line 1: must have a column 'userId' .*data\.columns\.client"
    ):
        describe_data(str(path))
    packed = tmp_path / "own.csv.gz"
    packed.write_bytes(gzip.compress(OWN.encode()))
    for file in (path, packed):
        with pytest.raises(DataError, match=rf"{file.name}: is not Parquet; .* --item must be given, too"):
            describe_table(str(file), "person")


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


def test_the_command_takes_settings_and_the_short_options(tmp_path, capsys):
    path = tmp_path / "own.csv"
    path.write_text(OWN)
    columns = ["data.columns.client=person", "data.columns.item=film", "data.columns.rating=stars"]
    assert main(["describe", str(path), *(x for text in columns for x in ("--set", text))]) == 0
    by_settings = capsys.readouterr().out
    assert "item                  2 known, 2 used" in by_settings and "time" not in by_settings
    assert main(["describe", str(path), "--client", "person", "--item", "film", "--rating", "stars"]) == 0
    assert capsys.readouterr().out == by_settings


def test_interactions_without_ratings(tmp_path):
    path = tmp_path / "plays.tsv"
    path.write_text("ann\tx\nann\ty\nann\tx\nbob\ty\n")
    shown = describe_data(str(path), ["data.columns.client=1", "data.columns.item=2"])
    assert "examples              4" in shown and "2 known, 2 used; 1 duplicate: the client" in shown
    assert "read as a tab-separated table with client = field 1, item = field 2" in shown
    path = tmp_path / "own.inter"
    path.write_text("user_id:token\titem_id:token\na\tx\nb\ty\n")
    assert "clients               2" in describe_data(str(path))


def test_duplicates_are_counted(tmp_path):
    path = tmp_path / "ratings.csv"
    path.write_text("userId,movieId,rating\n1,2,3.5\n1,2,4\n1,2,4\n2,2,1\n2,3,1\n")
    assert "2 known, 2 used; 2 duplicates: the client has" in describe_data(str(path))
    path.write_text("userId,movieId,rating\n1,2,3.5\n1,2,4\n2,2,1\n")
    assert "; 1 duplicate: the client has an example of it before" in describe_data(str(path))
    path.write_text("userId,movieId,rating\n1,2,3.5\n2,2,1\n")
    assert "duplicate:" not in describe_data(str(path))


def test_words_are_counted_without_the_padding(tmp_path):
    path = tmp_path / "texts.jsonl"
    path.write_text(json.dumps({"client": "ann", "text": ["one two three", "two"]}) + "\n")
    assert "token                 3 known, 3 used" in describe_data(str(path))
    pieces = describe_data(str(path), ["task=next_word", "data.tokenizer=pieces"])
    assert "clients               1" in pieces


def test_labels_of_different_values_differ():
    times = [1700000001, 1700000002, 1700086400]
    assert labels(np.array(times)) == [str(time) for time in times]
    assert labels(np.array([0.5, 1.0, 4.0], np.float32)) == ["0.5", "1", "4"]
    close = labels(np.array([0.1234567, 0.1234568]))
    assert close == ["0.1234567", "0.1234568"]
    assert labels(np.array([1e-9, 2e20])) == ["1e-09", "2e+20"]


def test_how_a_file_is_read_is_stated(tmp_path):
    path = tmp_path / "own.inter"
    path.write_text("user_id:token\titem_id:token\trating:float\na\tx\t3\nb\ty\t4.5\n")
    shown = describe_data(str(path))
    columns = "client = 'user_id:token', item = 'item_id:token', rating = 'rating:float'"
    assert shown.startswith(f"{path}\nread as RecBole's interactions with {columns}\n")


def test_lines_of_json_are_texts_or_ratings_by_what_they_hold(tmp_path):
    path = tmp_path / "reviews.jsonl"
    path.write_text('{"user_id": "a", "asin": "b", "rating": 5.0, "text": "good"}\n')
    with pytest.raises(
        DataError, match=r"reviews\.jsonl, line 1: must have a column 'userId' .* it has 'user_id'"
    ):
        describe_data(str(path))


def test_ratings_of_0_may_stand_for_none(tmp_path):
    path = tmp_path / "books.csv"
    path.write_text("user;book;points\n1;a;0\n1;b;7\n2;a;0\n2;b;10\n")
    columns = [f"data.columns.{role}={name}" for role, name in (("client", "user"), ("item", "book"))]
    columns.append("data.columns.rating=points")
    shown = describe_data(str(path), columns)
    assert shown.endswith("2 of the ratings are 0: if 0 stands for not rated, data.unrated=0 leaves them out")
    rated = describe_data(str(path), [*columns, "data.unrated=0"])
    assert "examples              2" in rated and "not rated" not in rated
    assert (
        "a semicolon-separated table with client = 'user', item = 'book', rating = 'points'; a rating"
        in rated
    )
