"""Which runs serve from their folder alone, and which want their data back."""

import io
import json

import jax
import numpy as np
import pytest
from rich.console import Console

from fedrecon.errors import DataError
from fedrecon.experiment.config import resolve
from fedrecon.experiment.serving.evaluate import evaluate_run, restore_parameters, serve
from fedrecon.experiment.serving.new_clients import served_fields
from fedrecon.experiment.serving.served_run import from_folder
from fedrecon.experiment.storage.digests import read_json, seal
from fedrecon.experiment.training.build import spec_of, task_of
from fedrecon.experiment.training.run_experiment import run_experiment

COLUMNS = {"client": "user", "item": "film", "rating": "stars"}
TASKS = {
    "movielens": {"model": {"factors": 2, "global_bias": "mean"}},
    "ratings": {"model": {"factors": 2}},
    "ranking": {
        "data": {
            "protocol": {"name": "leave_one_out", "sampled": 3},
            "recency": {"extra": 2.0},
            "negatives": 2,
        },
        "model": {"factors": 2, "loss": "bpr"},
    },
    "next_word": {
        "data": {"words": 30, "buckets": 5, "length": 6, "generated": {"clients": 20, "sentences": 4}},
        "model": {"network": {"kind": "lstm", "embedding": 3, "hidden": 4}},
    },
    "fedalt": {"task": "movielens", "model": {"factors": 2}, "algorithm": {"name": "fedalt"}},
    "feedback": {
        "task": "movielens",
        "model": {"factors": 2, "global_bias": 3.0},
        "compression": {"bits": 8, "error_feedback": True},
    },
    "centralized": {"task": "movielens", "model": {"factors": 2}, "algorithm": {"name": "centralized"}},
}


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    folder = tmp_path_factory.mktemp("serving")
    random = np.random.default_rng(0)
    lines = [
        f"{user},{film},{random.integers(1, 6)}" for user in range(30) for film in random.permutation(12)[:8]
    ]
    (folder / "ratings.csv").write_text("user,film,stars\n" + "\n".join(lines) + "\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
        patch.setattr("fedrecon.experiment.reporting.plots.write", lambda *_: [])
        yield folder


@pytest.fixture(scope="module")
def trained(home):
    """A run of one round, which is made when it is first asked for."""
    configs = {}

    def run(name):
        if name not in configs:
            given = {"task": name, "training": {"rounds": 1, "clients_per_round": 2}, **TASKS[name]}
            if given["task"] != "next_word":
                data = {"path": str(home / "ratings.csv"), "columns": COLUMNS}
                given = {**given, "data": {**data, **given.get("data", {})}}
            configs[name] = resolve(given, "test")
            run_experiment(configs[name], home / name, Console(file=io.StringIO()))
        return configs[name]

    return run


@pytest.mark.parametrize("name", ["movielens", "ratings", "ranking", "next_word"])
def test_the_folder_alone_gives_what_the_data_give(home, trained, name):
    config = trained(name)
    alone, task = from_folder(home / name, config), task_of(config)
    spec = spec_of(config, task)
    round, state, _ = restore_parameters(home / name, spec)
    assert alone.fields == served_fields(task)
    assert (alone.round, alone.seed, alone.split) == (round, spec.seed, spec.split)
    assert alone.scoring == spec.scoring
    jax.tree.map(np.testing.assert_array_equal, alone.state.global_params, state.global_params)
    key = jax.random.key(0)
    fresh = [x.personal_model.init_local(state.global_params, key) for x in (alone.algorithm, spec.algorithm)]
    jax.tree.map(np.testing.assert_array_equal, *fresh)


def test_what_clients_did_not_send_is_not_needed_to_serve_them(home, trained):
    """What error feedback keeps is read by training alone, so that the folder is enough."""
    config = trained("feedback")
    whole = restore_parameters(home / "feedback", spec_of(config, task_of(config)))
    assert whole[2] is not None, "the run keeps nothing: the test shows nothing"
    lines = (home / "ratings.csv").read_text().splitlines()
    (home / "others.csv").write_text("\n".join(lines[:41]) + "\n")
    (home / "ratings.csv").rename(home / "hidden.csv")
    try:
        alone = serve(home / "feedback", config)
        evaluations = evaluate_run(
            home / "feedback", config, str(home / "others.csv"), Console(file=io.StringIO())
        )
    finally:
        (home / "hidden.csv").rename(home / "ratings.csv")
    assert alone.client_states is None
    jax.tree.map(np.testing.assert_array_equal, alone.state.global_params, whole[1].global_params)
    assert evaluations["other"].evaluated_clients == 5


@pytest.mark.parametrize("name", ["fedalt", "centralized"])
def test_what_is_kept_of_the_training_clients_needs_them(home, trained, name):
    config = trained(name)
    assert from_folder(home / name, config) is None
    assert serve(home / name, config).round == 1
    (home / "ratings.csv").rename(home / "hidden.csv")
    try:
        with pytest.raises(DataError, match="no such rating file"):
            serve(home / name, config)
    finally:
        (home / "hidden.csv").rename(home / "ratings.csv")


def test_a_mean_that_no_checkpoint_tells_is_read_from_the_data(home, trained):
    """Checkpoints of earlier versions do not hold it."""
    config = trained("movielens")
    path = home / "movielens" / "checkpoints" / "1" / "info.json"
    written = path.read_text()
    info = read_json(path)
    del info["info"]["settings_from_data"]
    path.write_text(json.dumps(seal(info)))
    try:
        assert from_folder(home / "movielens", config) is None
        assert serve(home / "movielens", config).round == 1
    finally:
        path.write_text(written)


def test_runs_without_a_checkpoint_serve_nobody(home, trained):
    config = trained("movielens")
    assert from_folder(home / "nothing", config) is None


def test_other_clients_are_evaluated_without_the_data(home, trained):
    config = trained("ratings")
    lines = (home / "ratings.csv").read_text().splitlines()
    (home / "others.csv").write_text("\n".join(lines[:41]) + "\n")
    screen = Console(file=io.StringIO(), width=200)
    (home / "ratings.csv").rename(home / "hidden.csv")
    try:
        evaluations = evaluate_run(home / "ratings", config, str(home / "others.csv"), screen)
    finally:
        (home / "hidden.csv").rename(home / "ratings.csv")
    assert evaluations["other"].evaluated_clients == 5
    shown = screen.file.getvalue()
    assert "other data: 5 clients with 40 examples" in shown
    assert "0 examples left out, of items unknown to the run" in shown
