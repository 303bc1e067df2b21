"""One's own ratings: the packaged recipe, its units, its baselines, and a run folder that serves alone."""

import json
import shutil

import numpy as np
import pyarrow.parquet as pq
import pytest

from fedrecon import Clients
from fedrecon.experiment import config as configs
from fedrecon.experiment.cli import runs
from fedrecon.experiment.cli.main import main
from fedrecon.experiment.config import RATINGS, load, override
from fedrecon.experiment.settings.sections import SettingError
from fedrecon.experiment.tasks._spec import task_spec
from fedrecon.experiment.training.build import spec_of, task_of
from fedrecon.experiment.training.run import run

FEW = ("training.rounds=6", "training.clients_per_round=30", "evaluation.every=3", "model.factors=2")


def ratings(scale=1.0, shift=0.0, clients=60):
    """Users with levels of their own rate films of different quality, 1 to 5 times `scale`."""
    random = np.random.default_rng(5)
    quality, rows = random.normal(0, 0.8, 12), []
    for user in range(clients):
        level = random.normal(3, 0.5)
        for film in random.permutation(12)[: random.integers(6, 12)]:
            stars = np.clip(np.rint(level + quality[film] + random.normal(0, 0.5)), 1, 5)
            rows.append(f"{user},film {film},{shift + scale * stars:g}")
    return "user,film,stars\n" + "\n".join(rows) + "\n"


def changed(*overrides):
    return [part for text in overrides for part in ("--set", text)]


COLUMNS = changed("data.columns.client=user", "data.columns.item=film", "data.columns.rating=stars")


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A folder with ratings, a run of the recipe on them, and other users."""
    home = tmp_path_factory.mktemp("ratings")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(home / "cache"))
        (home / "ratings.csv").write_text(ratings())
        (home / "new.csv").write_text(ratings(clients=9))
        arguments = ["--data", str(home / "ratings.csv"), "--out", str(home / "run")]
        assert main(["run", *arguments, *COLUMNS, *changed(*FEW)]) == 0
        yield home


def test_the_recipe_is_chosen_for_ratings(tmp_path, capsys, monkeypatch):
    (tmp_path / "ratings.csv").write_text("userId,movieId,rating\n")
    trained = []
    monkeypatch.setattr(runs, "train", lambda config, *_: trained.append(config) or 0)
    assert main(["run", "--data", str(tmp_path / "ratings.csv"), "--out", str(tmp_path / "out")]) == 0
    first = capsys.readouterr().out.splitlines()[0]
    assert first.startswith("ratings.toml: the packaged recipe for one's own ratings, since no experiment is")
    assert (trained[0].task, trained[0].name) == ("ratings", "ratings")


@pytest.mark.parametrize(
    ("data", "overrides", "packaged"),
    [
        (None, (), configs.DEFAULT),
        ("ratings.parquet", (), RATINGS),
        ("texts.jsonl", (), configs.DEFAULT),
        ("plays.sqlite", (), configs.DEFAULT),
        ("ratings.csv", ("task=movielens",), configs.DEFAULT),
        ("texts.jsonl", ("data.columns.client=user",), RATINGS),
    ],
)
def test_texts_and_named_tasks_keep_their_experiment(data, overrides, packaged):
    assert runs.packaged_for(None, data, overrides) == packaged
    assert runs.packaged_for("mine.toml", data, overrides) == configs.DEFAULT


def test_client_files_and_folders_are_told_by_what_they_hold(tmp_path):
    one = {"item": np.zeros(1, np.int32), "rating": np.ones(1, np.float32)}
    Clients.from_arrays({1: one}).write(tmp_path / "ratings.arrow")
    Clients.from_arrays({1: {"word": np.zeros(1, np.int32)}}).write(tmp_path / "words.arrow")
    assert runs.holds_ratings(tmp_path / "ratings.arrow")
    assert not runs.holds_ratings(tmp_path / "words.arrow")
    (tmp_path / "plays").mkdir()
    (tmp_path / "plays" / "hamlet.txt").write_text("to be\n")
    assert not runs.holds_ratings(tmp_path / "plays")
    (tmp_path / "plays" / "ratings.csv").write_text("userId,movieId,rating\n")
    assert runs.holds_ratings(tmp_path / "plays")


def test_baselines_stand_beside_the_result(home):
    test = json.loads((home / "run" / "result.json").read_text())["test"]
    assert list(test["baselines"]) == ["client_mean", "training_mean"]
    for protocols in test["baselines"].values():
        assert set(protocols) == {"recon_eval"}
        assert set(protocols["recon_eval"]) == {"examples", "clients"}
        assert set(protocols["recon_eval"]["examples"]) == {"mse", "rmse", "accuracy"}
    rmse = {name: x["recon_eval"]["examples"]["rmse"] for name, x in test["baselines"].items()}
    # Films explain half of the variance, and users' levels a fifth.
    assert test["recon_eval"]["examples"]["rmse"] < rmse["client_mean"] < rmse["training_mean"]
    assert (
        f"test: by client mean | examples | {rmse['client_mean']:.4f}"
        in (home / "run" / "summary.md").read_text()
    )


def test_baselines_are_rows_of_a_comparison(home, capsys):
    assert main(["compare", str(home / "run"), "--out", str(home / "comparison")]) == 0
    assert "by client mean" in capsys.readouterr().out
    assert "test,recon_eval,RMSE,by training mean,1,," in (home / "comparison" / "quality.csv").read_text()


@pytest.mark.parametrize("command", ["personalize", "evaluate"])
def test_a_run_folder_alone_serves(home, tmp_path, command):
    """Nothing of the training is there: neither its data nor the cache of converted files."""

    def serve(run, out):
        arguments = ["--top", "3", "--out", str(out)] if command == "personalize" else []
        assert main([command, str(run), "--data", str(home / "new.csv"), *arguments]) == 0
        table = out if command == "personalize" else run / "evaluated-clients-other.parquet"
        return pq.read_table(table).to_pydict()

    with_data = serve(home / "run", tmp_path / "with.parquet")
    moved = tmp_path / "elsewhere" / "run"
    shutil.copytree(home / "run", moved)
    hidden = home / "hidden.csv"
    (home / "ratings.csv").rename(hidden)
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
            alone = serve(moved, tmp_path / "alone.parquet")
    finally:
        hidden.rename(home / "ratings.csv")
    assert alone == with_data
    assert len(alone["client"]) == 9


def test_a_checkpoint_holds_what_was_measured(home):
    info = json.loads((home / "run" / "checkpoints" / "6" / "info.json").read_text())["info"]
    task = task_of(runs.saved_config(str(home / "run")))
    assert info["settings_from_data"] == task.settings_from_data
    train = task.train.column("rating")
    assert info["settings_from_data"]["mean"] == pytest.approx(train.mean(), rel=1e-6)


def test_the_scale_of_ratings_scales_their_errors(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    errors = []
    for name, scale, shift in (("stars", 1.0, 0.0), ("points", 20.0, -60.0)):
        (tmp_path / f"{name}.csv").write_text(ratings(scale, shift))
        config = load(None, [*FEW, *COLUMNS[1::2], f"data.path={tmp_path / name}.csv"], RATINGS)
        result = run(spec_of(config, task_of(config)))
        errors.append(result.evaluations["test"].over_examples()["rmse"] / scale)
    assert errors[0] == pytest.approx(errors[1], rel=1e-3)


def test_given_numbers_are_not_measured(home):
    saved = runs.saved_config(str(home / "run"))
    config = override(saved, {"model": {"mean": 3.0, "deviation": 2.0}})
    task = task_of(config)
    assert "item_bias_penalty" in task.settings_from_data
    assert not {"mean", "deviation"} & set(task.settings_from_data)
    prediction = task.model.predict(
        {"item": {"factors": np.zeros((1, 2)), "bias": np.ones(1)}},
        {"user": {"factors": np.zeros(2), "bias": np.ones(())}},
        {"item": np.zeros(1, np.int32)},
    )
    assert prediction.tolist() == [3.0 + 2.0 * 2.0]


def test_protected_clients_send_no_sums(home):
    saved = runs.saved_config(str(home / "run"))
    private = override(saved, {"privacy": {"epsilon": 1.0, "clip": 1.0, "delta": 1e-5}})
    with pytest.raises(SettingError, match="takes a round of sums that the ledger does not count"):
        task_of(private)


def test_a_deployment_needs_numbers(home):
    config = runs.saved_config(str(home / "run"))
    with pytest.raises(SettingError, match=r'model\.mean must be a number in a deployment, got "measured"'):
        task_spec("ratings").build_without_data(config, {"item": [1]})


def test_fewer_clients_than_a_cohort_all_take_part(home):
    saved = runs.saved_config(str(home / "run"))
    many = override(saved, {"training": {"clients_per_round": 1000}})
    task = task_of(many)
    assert spec_of(many, task).sampling.clients_per_round == len(task.train)
