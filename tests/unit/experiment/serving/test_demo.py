"""Which runs `fedrecon demo` shows side by side."""

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from fedrecon.data._clients import Clients
from fedrecon.experiment.config import Config, resolve
from fedrecon.experiment.serving.demo import _check_pair, _have_one_scale, _labels, write_demo
from fedrecon.experiment.serving.export import Wanted
from fedrecon.experiment.settings.sections import SettingError
from fedrecon.export._graph.program import ExportError

RATING = {"name": "rating", "range": [1.0, 5.0]}


def exported(folder: Path, inputs: list[Any], ids: list[Any]) -> Path:
    folder.mkdir()
    item = {"name": "item", "items": len(ids)}
    (folder / "model.json").write_text(json.dumps({"format": 1, "inputs": [item, *inputs]}))
    (folder / "vocabularies.json").write_text(json.dumps({"item": ids}))
    return folder


@pytest.mark.parametrize(
    ("inputs", "ids", "message"),
    [
        ([{"name": "rating", "range": [0.5, 5.0]}], [1, 2], "the first run has 1 to 5, the other 0.5 to 5"),
        ([], [1, 2], "the first run has 1 to 5, the other none"),
        ([RATING], [7, 8], "none of its 2 ids is among the 3 of the first"),
    ],
)
def test_pairs_that_do_not_go_together(tmp_path, inputs, ids, message):
    first = exported(tmp_path / "first", [RATING], [1, 2, 3])
    with pytest.raises(SettingError, match=f"--other must .*{message}"):
        _check_pair(first, exported(tmp_path / "other", inputs, ids), False)


def test_a_pair_with_some_items_in_common(tmp_path):
    first = exported(tmp_path / "first", [RATING], [1, 2, 3])
    _check_pair(first, exported(tmp_path / "other", [RATING], ["3", "4"]), False)  # ids are compared as text


@pytest.mark.parametrize(
    "rating",
    [{"name": "rating", "range": [0.5, 5.0]}, {"name": "rating", "range": [2.0, 5.0]}, {"name": "rating"}],
)
def test_ends_of_ratings_on_one_scale_may_differ(tmp_path, rating):
    """Those of a private run are the scale's, those of another run what its clients happened to rate."""
    first = exported(tmp_path / "first", [RATING], [1, 2, 3])
    _check_pair(first, exported(tmp_path / "other", [rating], [1, 2, 3]), True)


@pytest.mark.parametrize(
    ("inputs", "other"), [([], "none"), ([{"name": "rating", "range": [5.0, 9.0]}], "5 to 9")]
)
def test_no_common_rating_on_one_scale_is_refused(tmp_path, inputs, other):
    first = exported(tmp_path / "first", [RATING], [1, 2, 3])
    with pytest.raises(SettingError, match=f"the first run has 1 to 5, the other {other}"):
        _check_pair(first, exported(tmp_path / "other", inputs, [1, 2, 3]), True)


def test_runs_without_items_are_refused(tmp_path):
    folder = exported(tmp_path / "first", [RATING], [1])
    description = {"format": 1, "inputs": [{"name": "pixels"}]}
    (folder / "model.json").write_text(json.dumps(description))
    with pytest.raises(ExportError, match="the page shows items that are recommended, or next words"):
        _check_pair(folder, folder, True)


OWN = {"path": "a.csv", "columns": {"client": "user", "item": "book", "rating": "stars"}}


@pytest.mark.parametrize(
    ("task", "first", "second", "one_scale"),
    [
        ("movielens", {"path": "ratings.dat"}, {"path": "u.data"}, True),
        ("movielens", OWN, OWN, True),
        ("movielens", OWN, OWN | {"path": "b.csv"}, False),
        ("movielens", OWN | {"scale": [1.0, 10.0]}, OWN | {"path": "b.csv", "scale": [1.0, 10.0]}, True),
        ("movielens", OWN | {"scale": [1.0, 10.0]}, {"path": "ratings.dat"}, False),
        ("movielens", {"path": "a.arrow"}, {"path": "b.arrow"}, False),
        ("synthetic_ratings", {"clients": 20}, {"clients": 30}, True),
    ],
)
def test_settings_and_formats_tell_whether_runs_rate_on_one_scale(task, first, second, one_scale):
    configs = [resolve({"task": task, "data": data}, "test") for data in (first, second)]
    assert _have_one_scale(*configs) is one_scale


def test_a_client_file_is_held_to_no_scale(tmp_path):
    columns = {"item": np.zeros(2, np.int32), "rating": np.ones(2, np.float32)}
    paths = [str(tmp_path / name) for name in ("a.arrow", "b.arrow")]
    for path in paths:
        Clients.from_columns(["x"], [0, 2], columns).write(path)
    configs = [resolve({"task": "movielens", "data": {"path": path}}, "test") for path in paths]
    assert not _have_one_scale(*configs)


def test_runs_of_other_tasks_are_refused_before_anything_is_exported(tmp_path):
    ratings, words = Config(task="synthetic_ratings"), Config(task="next_word")
    screen = Console(file=io.StringIO())
    for runs, message in (
        (
            [(Path("a"), ratings), (Path("b"), Config(task="movielens"))],
            "as the first run is, got 'movielens'",
        ),
        ([(Path("a"), ratings), (Path("b"), words)], "next-word runs are shown one at a time"),
    ):
        with pytest.raises(SettingError, match=message):
            write_demo(runs, tmp_path, screen, Wanted())
    assert list(tmp_path.iterdir()) == []


def test_runs_are_named_by_their_folders_and_by_whole_paths_where_these_are_the_same():
    config = Config(task="synthetic_ratings")
    assert _labels([(Path("x/one"), config), (Path("y/two"), config)]) == ["one", "two"]
    assert _labels([(Path("x/one"), config), (Path("y/one"), config)]) == ["x/one", "y/one"]
