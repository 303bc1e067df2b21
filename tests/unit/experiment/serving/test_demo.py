"""Which runs `fedrecon demo` shows side by side."""

import io
import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from fedrecon.experiment.config import Config
from fedrecon.experiment.serving.demo import _check_pair, _labels, write_demo
from fedrecon.experiment.serving.export import Wanted
from fedrecon.experiment.settings.sections import SettingError

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
        _check_pair(first, exported(tmp_path / "other", inputs, ids))


def test_a_pair_with_some_items_in_common(tmp_path):
    first = exported(tmp_path / "first", [RATING], [1, 2, 3])
    _check_pair(first, exported(tmp_path / "other", [RATING], ["3", "4"]))  # ids are compared as text


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
