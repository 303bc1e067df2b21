"""What the description of an exported file says of the run."""

import io
import json
import shutil

import numpy as np
import pytest
from rich.console import Console

from fedrecon.experiment.config import load
from fedrecon.experiment.serving import exported_run
from fedrecon.experiment.serving.export import Wanted, export_run
from fedrecon.experiment.serving.exported_run import privacy_of
from fedrecon.experiment.settings.sections import SettingError
from fedrecon.experiment.storage.digests import seal
from fedrecon.experiment.tasks._spec import task_spec
from fedrecon.experiment.training.run_experiment import run_experiment
from fedrecon.export._session import Session


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
        (["task=movielens", "data.path=somewhere/ml-25m.zip"], {"rating": (0.5, 5.0)}),
        (["task=movielens", "data.path=somewhere/ratings.csv"], {"rating": (0.5, 5.0)}),
        (["task=ratings", "data.path=ml-100k/u.data"], {"rating": (0.5, 5.0)}),
        (["task=movielens", "data.path=books.arrow"], {}),  # of any scale, as RecBole's files are
        (["task=ratings", "data.path=book-crossing.inter"], {}),
        (["task=movielens", "data.scale=[0, 10]"], {"rating": (0.0, 10.0)}),
        (["task=movielens", "data.columns.client=user", "data.columns.item=film"], {}),
        (["task=synthetic_ratings"], {"rating": (1.0, 5.0)}),
        (["task=next_word"], {}),
    ):
        config = load(overrides=settings)
        assert task_spec(config.task).public_ranges(config) == wanted


def test_a_run_whose_data_are_gone_is_exported_from_its_folder(ratings, tmp_path):
    """Random inputs alone are checked then, and what needs the training clients is refused."""
    pytest.importorskip("onnxruntime", reason="needs the extra export")
    data = shutil.copytree(ratings, tmp_path / "ml-tiny")
    settings = [x.replace("global_bias = 3.0", 'global_bias = "mean"') for x in SMALL]
    config, silent = load(overrides=[f"data.path={data}", *settings]), Console(quiet=True)
    run = tmp_path / "run"
    run_experiment(config, run, silent)
    export_run(run, config, tmp_path / "with", silent, Wanted())
    shutil.rmtree(data)
    shown = io.StringIO()
    export_run(run, config, tmp_path / "without", Console(file=shown, width=1000), Wanted())
    assert "the run's data cannot be read" in shown.getvalue() and str(data) in shown.getvalue()
    both = [json.loads((tmp_path / name / "model.json").read_text()) for name in ("with", "without")]
    assert [one["checks"]["users"] for one in both] == [0, 0]  # the run has no test clients
    # Ratings were all 3; without them the range is that of the format. The cap tells the longest history.
    assert [one["inputs"][1]["range"] for one in both] == [[3, 3], [0.5, 5]]
    assert both[0]["support_max"] == both[1]["support_max"] == 12
    support = {"item": np.array([0, 1]), "rating": np.array([3.0, 3.0])}
    scores = [Session(tmp_path / name)(support)["prediction"] for name in ("with", "without")]
    np.testing.assert_array_equal(*scores)
    with pytest.raises(SettingError, match="--with update: the run's training clients must be there"):
        export_run(run, config, tmp_path / "update", silent, Wanted(update=True))
    config = load(overrides=[f"data.path={data}", *settings, "data.cap=none"])
    with pytest.raises(SettingError, match="--support-max must be given where there are no test clients"):
        export_run(run, config, tmp_path / "update", silent, Wanted())
    (run / "vocabularies.json").unlink()
    with pytest.raises(ValueError, match=r"vocabularies\.json"):
        export_run(run, config, tmp_path / "update", silent, Wanted(support_max=3))
    assert not (tmp_path / "update").exists()


def test_the_round_of_an_export_is_that_of_its_parameters(ratings, tmp_path, monkeypatch):
    """A run that selects an earlier round has its parameters, in a state of the last round."""
    pytest.importorskip("onnxruntime", reason="needs the extra export")
    restore = exported_run.restore_parameters
    monkeypatch.setattr(exported_run, "restore_parameters", lambda run, spec: (0, *restore(run, spec)[1:]))
    model, _ = described(ratings, tmp_path, SMALL, support_max=4)
    assert model["round"] == 0 < int(json.loads((tmp_path / "run" / "result.json").read_text())["rounds"])
