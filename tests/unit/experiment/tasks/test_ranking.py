"""Experiments on interactions: what is trained on, what is asked, and that chance does worse."""

import io
import json

import jax
import numpy as np
import pytest
from rich.console import Console

from fedrecon.data._sampling import Uniform
from fedrecon.evaluation._ranking import Ranking
from fedrecon.experiment.config import resolve
from fedrecon.experiment.settings.sections import SettingError
from fedrecon.experiment.sweep.trial import spec_without_test, without_test
from fedrecon.experiment.training.build import spec_of, task_of
from fedrecon.experiment.training.run_experiment import run_experiment
from fedrecon.experiment.training.run_spec import RunSpec
from fedrecon.simulation._simulation import Simulation

USERS, ITEMS, HAVE = 40, 20, 8


@pytest.fixture(scope="module")
def ratings(tmp_path_factory):
    """Half of the users have items of the first half alone, the others of the second: eight each, by time."""
    rng = np.random.default_rng(0)
    path = tmp_path_factory.mktemp("ratings") / "ratings.csv"
    lines = ["user,film,stars,when"]
    for user in range(USERS):
        items = rng.permutation(ITEMS // 2)[:HAVE] + user % 2 * ITEMS // 2
        lines += [f"{user},{item},{3 + item % 3},{place}" for place, item in enumerate(items)]
    path.write_text("\n".join(lines) + "\n")
    return path


def configured(ratings, data=None, **more):
    columns = {"client": "user", "item": "film", "rating": "stars", "time": "when"}
    own = {"path": str(ratings), "columns": columns, **(data or {})}
    return resolve({"task": "ranking", "data": own, **more}, "test")


LATEST = {"protocol": {"name": "leave_one_out", "sampled": 9, "k": [2]}}


UNSEEN = {
    "protocol": {
        "name": "unseen",
        "recall_min": [2],
        "ndcg": [5],
        "fractions": {"train": 0.5, "validation": 0.25, "test": 0.25},
    }
}
NEWTON = {
    "split": {"name": "none"},
    "client_weight": "uniform",
    "reconstruct": {"kind": "newton"},
    "update": {
        "batch_size": "all",
        "reduction": "sum",
        "optimizer": {"name": "sgd", "learning_rate": 1.0},
    },
    "server_optimizer": {"name": "adam", "learning_rate": 0.05},
}


def test_one_latest_interaction_is_held_out_of_each_user(ratings):
    task = task_of(configured(ratings, LATEST))
    assert task.validation is None and task.test is None and list(task.held_out) == ["test"]
    assert task.train.num_examples.tolist() == [HAVE - 1] * USERS
    held = task.held_out["test"]
    assert held.num_examples.tolist() == [HAVE] * USERS
    assert held[3]["held_out"].tolist() == [0] * (HAVE - 1) + [1]
    assert task.scoring == Ranking(ITEMS, (("hr", 2), ("ndcg", 2)), 9)


def test_more_drawn_items_than_there_are_name_their_setting(ratings):
    protocol = {"name": "leave_one_out", "sampled": ITEMS}
    said = rf"data\.protocol\.sampled must be below the number of items.* have {ITEMS}, got {ITEMS}"
    with pytest.raises(SettingError, match=said):
        task_of(configured(ratings, {"protocol": protocol}))


def test_fractions_that_leave_a_set_empty_are_named(ratings):
    fractions = {"train": 0.98, "validation": 0.01, "test": 0.01}
    config = configured(ratings, {"protocol": {"name": "unseen", "fractions": fractions}})
    said = r"data\.protocol\.fractions must leave a client in each set, but of the 40 clients .* 'test'"
    with pytest.raises(SettingError, match=said):
        spec_of(config, task_of(config))


def test_the_one_before_it_is_for_tuning(ratings):
    protocol = {"name": "leave_one_out", "held_out": "second_latest"}
    recency = {"extra": 2.0, "items": 3.0}
    task = task_of(configured(ratings, {"protocol": protocol | {"sampled": 9}, "recency": recency}))
    assert list(task.held_out) == ["validation"]
    assert set(task.train.num_examples) == {HAVE - 2}
    assert task.train.fields == ("item",)  # weights are for those who are served
    np.testing.assert_allclose(task.held_out["validation"][0]["weight"][-2:], [3, 1])


def test_unseen_users_are_split(ratings):
    task = task_of(configured(ratings, UNSEEN | {"least_rating": 4.0}))
    assert not task.held_out and task.validation is not None and task.test is not None
    sizes = [len(clients) for clients in task.sets().values()]
    assert sum(sizes) <= USERS and sizes[0] > sizes[1]
    assert task.train.num_examples.min() >= 5
    assert task.scoring == Ranking(ITEMS, (("recall_min", 2), ("ndcg", 5)))


def test_the_test_users_of_a_sweep_are_cut_off(ratings):
    """They are not even read into the task, and the others are who they were."""
    config = configured(ratings, UNSEEN, training={"clients_per_round": 10})
    before, (task, _) = task_of(config), spec_without_test(config)
    assert without_test(config).data.protocol.fractions.test == 0
    assert without_test(config).data.protocol.recall_min == [2]
    assert list(task.sets()) == ["train", "validation"]
    for name, clients in task.sets().items():
        assert clients.ids.tolist() == before.sets()[name].ids.tolist()


def test_weights_that_would_tell_what_is_asked_are_refused(ratings):
    config = configured(ratings, UNSEEN | {"recency": {"extra": 3.0}})
    with pytest.raises(SettingError, match=r"data\.recency\.extra must be 0 with .* = unseen.*got 3$"):
        task_of(config)


def test_unseen_users_are_found_what_they_like(ratings, tmp_path, monkeypatch):
    """Users who were not trained on, of one of the two kinds: what they lack of their kind comes first."""
    monkeypatch.setattr("fedrecon.experiment.reporting.plots.write", lambda *_: [])
    config = configured(
        ratings,
        UNSEEN,
        model={"factors": 4, "penalty": 0.01},
        algorithm=NEWTON,
        training={"rounds": 40, "clients_per_round": 10},
        evaluation={"split": {"name": "random_fraction", "support": 0.8}, "every": 20},
    )
    sets = [set(clients.ids.tolist()) for clients in task_of(config).sets().values()]
    assert len(sets) == 3 and len(set.union(*sets)) == sum(map(len, sets)) == USERS
    shown = io.StringIO()
    result = run_experiment(config, tmp_path, Console(file=shown))
    assert "Nothing is evaluated" not in shown.getvalue()
    assert "validation ndcg@5 " in shown.getvalue()
    for name in ("validation", "test"):
        found = result.evaluations[name].over_clients()
        assert set(found) == {"recall_min@2", "ndcg@5"}
        # One of eight is asked for; by chance 2 and 5 of 13 candidates, of its kind 2 and 5 of 3.
        assert found["recall_min@2"] > 0.4 and found["ndcg@5"] > 0.5


def test_losses_that_compare_need_items_to_compare_with(ratings):
    with pytest.raises(SettingError, match=r"data\.negatives"):
        task_of(configured(ratings, LATEST, model={"loss": "bpr"}))
    task = task_of(configured(ratings, LATEST | {"negatives": 3}, model={"loss": "bpr"}))
    assert task.train.column("negatives").shape == (USERS * (HAVE - 1), 3)


def test_a_run_finds_the_held_out_items(ratings, tmp_path, monkeypatch):
    """There are two kinds of users: the three items of a user's own kind that it lacks come first."""
    monkeypatch.setattr("fedrecon.experiment.reporting.plots.write", lambda *_: [])
    config = configured(
        ratings,
        {"protocol": {"name": "leave_one_out", "sampled": 9, "k": [3]}},
        model={"factors": 4, "penalty": 0.01},
        algorithm=NEWTON,
        training={"rounds": 40, "clients_per_round": 20},
    )
    shown = io.StringIO()
    result = run_experiment(config, tmp_path, Console(file=shown))
    assert "Nothing is evaluated while training; at the end seen test clients are\n" in shown.getvalue()
    found = json.loads((tmp_path / "result.json").read_text())["test"]["standard_eval"]["clients"]
    assert set(found) == {"hr@3", "ndcg@3", "sampled_hr@3", "sampled_ndcg@3"}
    assert found["hr@3"] > 0.9  # by chance 3 of 13
    assert found == result.evaluations["seen test"].over_clients()
    start = jax.tree.map(np.asarray, result.global_params)
    assert np.isfinite(start["item"]["factors"]).all()


def test_what_is_measured_is_part_of_a_run(ratings):
    from fedrecon.experiment.training.build import spec_of

    def marks(k):
        protocol = {"name": "leave_one_out", "sampled": 9, "k": [k]}
        config = configured(ratings, {"protocol": protocol}, training={"clients_per_round": 20})
        spec: RunSpec = spec_of(config, task_of(config))
        return spec.fingerprint()["evaluation"]["scoring"]

    assert marks(2) != marks(3) and marks(2)["kind"] == "scoring/ranking"


def test_losses_over_drawn_items_train_on_rows(ratings):
    """Clients get and send the rows of what they have and what was drawn for them, each once."""
    data = LATEST | {"negatives": 1}
    sgd = {"name": "sgd", "learning_rate": 0.5}
    config = configured(
        ratings,
        data,
        model={"loss": "bpr", "factors": 2, "init_scale": 1.0},
        algorithm={
            "split": {"name": "none"},
            "reconstruct": {"kind": "solver", "batch_size": "all", "epochs": 5, "optimizer": sgd},
            "update": {"batch_size": "all", "optimizer": sgd},
            "server_optimizer": {"name": "adam", "learning_rate": 0.2},
        },
    )
    task = task_of(config)
    simulation = Simulation(config.algorithm.build(task.model), task.train, Uniform(USERS))
    losses = []
    for round in simulation.rounds(simulation.init(), 8):
        losses.append(float(round.metrics()["loss"].value()))
        assert round.bytes_down < round.dense_bytes_down
    assert losses[-1] < losses[0] - 0.05
