"""What the description of an exported file says of the run."""

import json

import pytest
from rich.console import Console

from fedrecon.experiment.config import load
from fedrecon.experiment.serving.export import Wanted, export_run, privacy_of
from fedrecon.experiment.settings.sections import SettingError
from fedrecon.experiment.storage.digests import seal
from fedrecon.experiment.tasks._spec import task_spec
from fedrecon.experiment.training.run_experiment import run_experiment


def test_the_claim_of_privacy_is_the_ledger_that_the_run_recorded(tmp_path):
    assert privacy_of(tmp_path) == {"differential_privacy": False}
    result = tmp_path / "result.json"
    result.write_text(json.dumps(seal({"rounds": 1})))
    assert privacy_of(tmp_path) == {"differential_privacy": False}
    result.write_text(json.dumps(seal({"rounds": 1, "privacy": {"epsilon": 3.98, "delta": 1e-5}})))
    assert privacy_of(tmp_path) == {"differential_privacy": True, "epsilon": 3.98, "delta": 1e-5}


SMALL = [
    "task=movielens",
    "model={factors = 2, global_bias = 3.0, user_penalty = 1.0}",
    "algorithm.client_weight=uniform",
    "training.rounds=1",
    "evaluation.every=1",
    "training.sampling=everyone",
    "data.fractions={train = 1.0, validation = 0.0, test = 0.0}",
    "data.cap=12",
]
PRIVATE = [*SMALL, "privacy.epsilon=4.0", "privacy.delta=0.01", "privacy.clip=1.0"]


@pytest.fixture(scope="module")
def ratings(tmp_path_factory):
    """Six people who gave two films three stars each, and a list of three films."""
    folder = tmp_path_factory.mktemp("ratings")
    lines = [f"{user}::{item}::3::978300760\n" for user in range(1, 7) for item in (10, 30)]
    (folder / "ratings.dat").write_text("".join(lines))
    movies = ["10::A (1995)::Drama\n", "20::B (1996)::Comedy\n", "30::C (1997)::Drama\n"]
    (folder / "movies.dat").write_text("".join(movies))
    return folder


def described(ratings, tmp_path, settings, **wanted):
    """The descriptions of an export of a run with these settings."""
    pytest.importorskip("onnxruntime", reason="needs the extra export")
    config, silent = load(overrides=[f"data.path={ratings}", *settings]), Console(quiet=True)
    run_experiment(config, tmp_path / "run", silent)
    export_run(tmp_path / "run", config, tmp_path / "out", silent, Wanted(update=True, **wanted))
    return [json.loads((tmp_path / "out" / name).read_text()) for name in ("model.json", "update.json")]


@pytest.mark.parametrize(
    ("settings", "ends", "examples"),
    [
        (SMALL, [3.0, 3.0], 2),
        (PRIVATE, [0.5, 5.0], 12),
        ([*PRIVATE, "data.scale=[1.0, 5.0]"], [1.0, 5.0], 12),
    ],
    ids=["plain", "private", "private with a scale"],
)
def test_a_private_run_is_described_by_public_numbers_alone(ratings, tmp_path, settings, ends, examples):
    model, update = described(ratings, tmp_path, settings, support_max=4)
    for description in (model, update):
        ranges = {entry["name"]: entry.get("range") for entry in description["inputs"]}
        assert ranges["rating"] == ends and ranges["item"][0] == 0
    assert update["examples_max"] == examples


def test_an_update_of_a_private_run_needs_a_public_bound_on_examples(ratings, tmp_path):
    with pytest.raises(SettingError, match=r"data\.cap must bound the examples of a client of a private run"):
        described(ratings, tmp_path, [*PRIVATE, "data.cap=none"], support_max=4)
    assert not (tmp_path / "out").exists()


def test_public_ranges_come_from_settings():
    for settings, wanted in (
        (["task=movielens"], {"rating": (1.0, 5.0)}),
        (["task=movielens", "data.path=somewhere"], {"rating": (0.5, 5.0)}),
        (["task=movielens", "data.scale=[0, 10]"], {"rating": (0.0, 10.0)}),
        (["task=movielens", "data.columns.client=user", "data.columns.item=film"], {}),
        (["task=synthetic_ratings"], {"rating": (1.0, 5.0)}),
        (["task=next_word"], {}),
    ):
        config = load(overrides=settings)
        assert task_spec(config.task).public_ranges(config) == wanted
