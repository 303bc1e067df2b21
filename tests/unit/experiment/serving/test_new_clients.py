"""Clients that a run did not have are served as it serves its own."""

import io
import json
from dataclasses import replace

import jax
import numpy as np
import pyarrow.parquet
import pytest
from rich.console import Console

from fedrecon.algorithms._base import Broadcast
from fedrecon.core._examples import Examples
from fedrecon.core._splits import HeldOut
from fedrecon.data._clients import Clients
from fedrecon.data._holdout import HELD_OUT
from fedrecon.datasets.ratings._interactions import interactions, leave_one_out, with_recency
from fedrecon.datasets.ratings._prepare import prepare
from fedrecon.errors import DataError, RunError
from fedrecon.evaluation._evaluate import evaluate, measure
from fedrecon.experiment.analysis.curves import draw
from fedrecon.experiment.analysis.runs import Run
from fedrecon.experiment.config import override, resolve
from fedrecon.experiment.serving import new_clients
from fedrecon.experiment.serving import personalize as personalizing
from fedrecon.experiment.serving.evaluate import evaluate_run, restore_parameters
from fedrecon.experiment.serving.new_clients import prepare_new_clients, served_fields
from fedrecon.experiment.serving.personalize import personalize_run
from fedrecon.experiment.serving.wanted import Wanted
from fedrecon.experiment.settings.sections import SettingError
from fedrecon.experiment.storage.digests import read_json, seal
from fedrecon.experiment.tasks._ratings import MatrixFactorizationSettings
from fedrecon.experiment.tasks._spec import TaskSpec
from fedrecon.experiment.tasks.movielens import MovieLensData
from fedrecon.experiment.training.build import spec_of, task_of
from fedrecon.experiment.training.run_experiment import run_experiment
from fedrecon.serving._personalization import Personalization

COLUMNS = {"client": "user", "item": "film", "rating": "stars", "time": "when"}
ITEMS = 12


def write(path, users, seed, have=8):
    """Ratings, not in the order of time."""
    rng = np.random.default_rng(seed)
    lines = ["user,film,stars,when"]
    for user in users:
        times = rng.permutation(have)
        items = rng.permutation(ITEMS)[:have]
        lines += [f"{user},{item},{3 + item % 3},{time}" for item, time in zip(items, times, strict=True)]
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    folder = tmp_path_factory.mktemp("serving")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
        patch.setattr("fedrecon.experiment.reporting.plots.write", lambda *_: [])
        write(folder / "ratings.csv", range(20), 0)
        write(folder / "new.csv", range(100, 105), 1)
        prepare(folder / "new.csv", columns=COLUMNS).write(folder / "new.arrow")
        yield folder


def trained(home, name, data=None, **more):
    """A run of one round."""
    own = {"path": str(home / "ratings.csv"), "columns": COLUMNS}
    own["protocol"] = {"name": "leave_one_out", "sampled": 3, "k": [2]}
    own |= data or {}
    config = resolve(
        {
            "task": "ranking",
            "data": own,
            "model": {"factors": 2, "init_scale": 1.0, **more},
            "algorithm": {"split": {"name": "none"}},
            "training": {"rounds": 1, "clients_per_round": 5},
        },
        "test",
    )
    run_experiment(config, home / name, Console(file=io.StringIO()))
    return config


def served(home, run, config, data, **wanted):
    out = home / f"{run}-{data}-{len(wanted)}.parquet"
    screen = Console(file=io.StringIO())
    personalize_run(home / run, config, str(home / data), out, screen, Wanted(**wanted))
    return pyarrow.parquet.read_table(out).to_pydict()


@pytest.fixture(scope="module")
def weighted(home):
    return trained(home, "weighted", {"recency": {"extra": 30.0, "items": 2.0, "training": False}})


def test_what_weighs_in_evaluation_weighs_where_users_are_served(home, weighted):
    """Weights by recency, which the training knows nothing of, from rating files and from client files."""
    task = task_of(weighted)
    assert task.train.fields == ("item",)
    assert served_fields(task) == ("item", "weight")
    found = served(home, "weighted", weighted, "new.csv")
    assert found == served(home, "weighted", weighted, "new.arrow")
    spec = spec_of(weighted, task)
    _, state, _ = restore_parameters(home / "weighted", spec)
    new = interactions(prepare(home / "new.csv", columns=COLUMNS))
    users = {}
    for extra in (30.0, 0.0):
        clients = with_recency(new, extra, 2.0)
        personalization = Personalization(spec.algorithm, state, clients.num_examples, seed=spec.seed)
        users[extra] = personalization(clients)["user/factors"]
    np.testing.assert_allclose(found["user/factors"], users[30.0], rtol=1e-5)
    assert np.abs(users[30.0] - users[0.0]).max() > 1e-3


def asked_for(path):
    return json.loads(pyarrow.parquet.read_schema(path).metadata[b"fedrecon"])


def test_parts_of_large_results_have_fewer_clients(home, weighted, monkeypatch):
    arguments = home / "weighted", weighted, str(home / "new.csv")
    screen, found = Console(file=io.StringIO()), {}
    # Three users of two factors, and not a fourth; of two items and their scores those of one.
    monkeypatch.setattr(personalizing, "PART_BYTES", 30)
    for name, wanted in ("parts", Wanted()), ("top", Wanted(top=2)):
        personalize_run(*arguments, home / f"{name}.parquet", screen, wanted)
        found[name] = asked_for(home / f"{name}.parquet")["clients_per_part"]
    assert found == {"parts": 3, "top": 1}
    monkeypatch.setattr(personalizing, "PART_BYTES", 1)
    personalize_run(*arguments, home / "single.parquet", screen, Wanted())
    assert asked_for(home / "single.parquet")["clients_per_part"] == 1
    users = [pyarrow.parquet.read_table(home / f"{n}.parquet").to_pydict() for n in ("parts", "single")]
    assert users[0]["client"] == users[1]["client"] == list(range(100, 105))
    np.testing.assert_allclose(users[0]["user/factors"], users[1]["user/factors"], rtol=1e-5)


def test_other_ids_are_another_request(home, weighted):
    """The same numbers under other names: other items, which no finished file may pass for."""
    some = Clients.open(home / "new.arrow")
    names = some.vocabularies["item"]
    offsets = np.concatenate([[0], np.cumsum(some.num_examples)])
    columns = {name: some.column(name) for name in some.fields}
    other = Clients.from_columns(some.ids, offsets, columns, {**some.vocabularies, "item": names[::-1]})
    path, screen = home / "ids.arrow", Console(file=io.StringIO())
    arguments = home / "weighted", weighted, str(path), home / "ids.parquet", screen, Wanted(top=2)
    some.write(path)
    personalize_run(*arguments)
    other.write(path)
    with pytest.raises(RunError, match=r"belongs to another request: it is of data or a run with other ids"):
        personalize_run(*arguments)


def test_there_must_be_somebody_to_personalise(home, weighted):
    Clients.open(home / "new.arrow").take([]).write(home / "nobody.arrow")
    for wanted in {}, {"top": 2}:
        with pytest.raises(DataError, match=r"nobody.arrow: there must be a client to personalise"):
            served(home, "weighted", weighted, "nobody.arrow", **wanted)


def test_nobody_is_left_out_who_has_few_interactions(home, weighted):
    write(home / "few.csv", [7], 2, have=1)
    assert served(home, "weighted", weighted, "few.csv", top=2)["client"] == [7]


def test_what_a_user_rated_low_is_not_recommended(home):
    """It serves nobody by less than five stars, and three and four are rated all the same."""
    config = trained(home, "liked", {"least_rating": 5.0, "least_items": 2})
    ids, ratings = list(range(100, 105)), prepare(home / "new.csv", columns=COLUMNS)
    names = ratings.vocabularies["item"]
    for source in ("new.csv", "new.arrow"):
        found = served(home, "liked", config, source, top=4)
        assert found["client"] == ids
        for user, items in zip(ids, found["item"], strict=True):
            assert set(items) == set(range(ITEMS)) - set(names[ratings[user]["item"]].tolist())
    everything = served(home, "liked", config, "new.csv", top=ITEMS, seen=True)
    assert all(sorted(items) == list(range(ITEMS)) for items in everything["item"])


def test_users_are_served_where_losses_take_drawn_items(home):
    config = trained(home, "drawn", {"negatives": 2}, loss="bpr")
    found = served(home, "drawn", config, "new.arrow", top=3)
    assert found == served(home, "drawn", config, "new.csv", top=3)
    assert all(len(items) == 3 for items in found["item"])


def test_rankings_are_evaluated_on_other_users_too(home, weighted):
    screen = Console(file=io.StringIO(), width=200)
    found = evaluate_run(home / "weighted", weighted, str(home / "new.csv"), screen)
    assert found["other"].ids.tolist() == list(range(100, 105))
    told = screen.file.getvalue()
    assert "other data: 5 clients with 40 examples, and the run was trained on 20 clients with" in told
    assert "; 0 examples left out" in told
    task = task_of(weighted)
    spec = spec_of(weighted, task)
    _, state, client_states = restore_parameters(home / "weighted", spec)
    new = leave_one_out(interactions(prepare(home / "new.csv", columns=COLUMNS)))["held_out"]
    wanted = evaluate(
        spec.algorithm,
        state,
        with_recency(new, 30.0, 2.0),
        split=HeldOut(),
        seed=spec.seed,
        client_states=client_states,
        scoring=task.scoring,
    )
    for name, mean in wanted.per_client.items():
        np.testing.assert_array_equal(found["other"].per_client[name].total, mean.total)
    assert wanted.table()["weight"].tolist() == [1.0] * 5
    assert (home / "weighted" / "evaluated-clients-other.parquet").exists()


def test_who_has_nothing_else_is_not_asked(home, weighted):
    write(home / "more.csv", [8], 2)
    with open(home / "more.csv", "a") as file:
        file.write("7,1,3,1\n")
    screen = Console(file=io.StringIO(), width=200)
    found = evaluate_run(home / "weighted", weighted, str(home / "more.csv"), screen)
    assert found["other"].ids.tolist() == [8]
    assert "other data: 1 client with 8 examples, and the run was" in screen.file.getvalue()


def test_curves_serve_seen_users_with_less_and_score_them_alike(home, weighted, monkeypatch):
    """Whatever the share, what was held out is scored among items that are not the user's own."""
    monkeypatch.setattr("fedrecon.experiment.analysis.curves.SHARES", (0.3, 1.0))
    monkeypatch.setattr("fedrecon.experiment.analysis.curves.STEPS", ())
    monkeypatch.setattr("fedrecon.experiment.reporting.curve_plots.write", lambda *_: [])
    seen = []

    def noted(algorithm, *args, split, **given):
        seen.append((algorithm, split))
        return measure(algorithm, *args, split=split, **given)

    monkeypatch.setattr("fedrecon.experiment.analysis.curves.measure", noted)
    points = draw(home / "weighted", weighted, None, "seen test", Console(file=io.StringIO()))
    small, whole = (point for point in points if point.curve == "support")
    own = json.loads((home / "weighted" / "result.json").read_text())["test"]["standard_eval"]["examples"]
    assert whole.metrics == pytest.approx(own) and small.metrics != whole.metrics
    assert {point.clients for point in (small, whole)} == {20}
    spec = spec_of(weighted, task_of(weighted))
    assert {split for _, split in seen} == {spec.split_of("seen test")}
    # The users are those that this much of their examples makes.
    clients = spec.evaluated["seen test"]
    broadcast = Broadcast(restore_parameters(home / "weighted", spec)[1].global_params, 1)
    given = Examples({name: x[:8] for name, x in clients[3].items()}, np.arange(8) < 7)
    for (algorithm, _), count in zip(seen, (3, 7), strict=False):
        less = Examples(given.data, np.arange(8) < count)
        found, wanted = (
            a.personalize(broadcast, (), x, jax.random.key(0))
            for a, x in ((algorithm, given), (spec.algorithm, less))
        )
        np.testing.assert_allclose(found["user"]["factors"], wanted["user"]["factors"], rtol=1e-4, atol=1e-6)


def test_a_score_that_is_no_matter_of_the_support_has_a_flat_curve(home, monkeypatch):
    config = trained(home, "flat", {"protocol": {"name": "unseen", "recall_min": [2], "ndcg": [3]}})
    spec = spec_of(config, task_of(config))
    popular = replace(spec.algorithm, personalize=lambda *_: {"user": {"factors": np.ones(2, np.float32)}})
    monkeypatch.setattr(
        "fedrecon.experiment.analysis.curves.spec_of", lambda *_: replace(spec, algorithm=popular)
    )
    monkeypatch.setattr("fedrecon.experiment.analysis.curves.SHARES", (0.1, 0.5, 1.0))
    monkeypatch.setattr("fedrecon.experiment.analysis.curves.STEPS", ())
    monkeypatch.setattr("fedrecon.experiment.reporting.curve_plots.write", lambda *_: [])
    points = draw(home / "flat", config, None, "test", Console(file=io.StringIO()))
    few, half, every = (point.metrics for point in points if point.curve == "support")
    assert few == half == every and 0 < every["recall_min@2"] < 1


def test_every_curve_of_seen_clients_starts_from_what_they_kept(home, monkeypatch):
    config = resolve(
        {
            "task": "movielens",
            "data": {"path": str(home / "ratings.csv"), "columns": COLUMNS, "held_out": {"test": 0.25}},
            "model": {"factors": 2},
            "algorithm": {"name": "fedalt", "reconstruct": {"epochs": 1, "max_steps": 2}},
            "training": {"rounds": 3, "clients_per_round": 10},
        },
        "test",
    )
    run_experiment(config, home / "stateful", Console(file=io.StringIO()))
    monkeypatch.setattr("fedrecon.experiment.analysis.curves.SHARES", (1.0,))
    monkeypatch.setattr("fedrecon.experiment.analysis.curves.STEPS", (2,))
    monkeypatch.setattr("fedrecon.experiment.reporting.curve_plots.write", lambda *_: [])
    points = draw(home / "stateful", config, None, "seen test", Console(file=io.StringIO()))
    own = json.loads((home / "stateful" / "result.json").read_text())["test"]["standard_eval"]["examples"]
    for point in points:
        if point.curve in ("steps", "support"):
            assert point.metrics == pytest.approx(own)


def test_client_files_follow_the_setting_for_items_that_come_twice(home, weighted):
    new = prepare(home / "new.csv", columns=COLUMNS)
    arrays = {user: dict(new[user]) for user in new.ids.tolist()}
    names = new.vocabularies["item"]
    arrays[103] = twice = {name: np.concatenate([x, x[:1]]) for name, x in arrays[103].items()}
    twice["time"][0] -= 100  # it comes first in the file, and in time
    counts = [len(x["item"]) for x in arrays.values()]
    flat = {name: np.concatenate([x[name] for x in arrays.values()]) for name in new.fields}
    path = home / "twice.arrow"
    Clients.from_columns(new.ids, np.concatenate([[0], np.cumsum(counts)]), flat, {"item": names}).write(path)
    item = names[twice["item"][0]]
    said = rf"twice\.arrow: client 103 must rate item {item} once, but did more often"
    with pytest.raises(DataError, match=said):
        served(home, "weighted", weighted, "twice.arrow")
    with pytest.raises(DataError, match=said):
        evaluate_run(home / "weighted", weighted, str(path), Console(file=io.StringIO()))
    with pytest.raises(DataError, match=said):
        task_of(override(weighted, {"data": {"path": str(path)}}))
    task = task_of(override(weighted, {"data": {"path": str(path), "duplicates": "last"}}))
    for client in task.held_out["test"].ids.tolist():
        assert len(set(task.held_out["test"][client]["item"].tolist())) == 8
    assert task.train[103]["item"].tolist() == [
        x for x in interactions(new)[103]["item"].tolist() if x != task.held_out["test"][103]["item"][-1]
    ]


def test_a_run_on_a_client_file_needs_the_names_of_the_items(home, weighted):
    Clients.from_arrays({1: {"item": [1]}}).write(home / "nameless.arrow")
    config = override(weighted, {"data": {"path": str(home / "nameless.arrow")}})
    with pytest.raises(DataError, match=r"nameless\.arrow: .*original ids of the field 'item'"):
        task_of(config)


def test_another_evaluation_leaves_what_the_run_measured(home, weighted):
    """That may be of another round: the run's tables are those that its result.json sums up."""
    own = home / "weighted" / "clients-test-standard_eval.parquet"
    before = own.read_bytes()
    own.write_bytes(b"what the run measured")
    evaluate_run(home / "weighted", weighted, None, Console(file=io.StringIO()))
    assert own.read_bytes() == b"what the run measured"
    own.write_bytes(before)
    assert (home / "weighted" / f"evaluated-{own.name}").read_bytes() == before
    assert list(Run(home / "weighted").tables().values()) == [own]


def test_a_client_file_needs_the_items(home, weighted):
    Clients.from_arrays({1: {"film": [1]}}).write(home / "bare.arrow")
    with pytest.raises(ValueError, match="must name the original ids of the field 'item'"):
        served(home, "weighted", weighted, "bare.arrow")


def test_a_run_whose_data_changed_is_not_taken_for_what_it_was(home):
    """The clients that are to be evaluated would be others without a word; serving needs the folder alone."""
    config = trained(home, "changed")
    marks = read_json(home / "changed" / "fingerprint.json")
    marks["clients"]["train"] = "of other ratings"
    (home / "changed" / "fingerprint.json").write_text(json.dumps(seal(marks)))
    screen = Console(file=io.StringIO())
    said = "changed: its data are no longer what they were; "
    with pytest.raises(RunError, match=f"{said}say where they are now with --data PATH"):
        draw(home / "changed", config, str(home / "new.csv"), "seen test", screen)
    with pytest.raises(RunError, match=f"{said}give data with --data PATH"):
        evaluate_run(home / "changed", config, None, screen)
    assert len(served(home, "changed", config, "new.csv")["client"]) == 5
    assert set(evaluate_run(home / "changed", config, str(home / "new.csv"), screen)) == {"other"}


def test_a_task_without_data_takes_client_files_only(home):
    config = resolve({"task": "synthetic_ratings"}, "test")
    with pytest.raises(SettingError, match=r"task synthetic_ratings take no data but their own.*'x\.csv'"):
        prepare_new_clients(config, "x.csv", {}, ("item",), "personalization")
    new = prepare_new_clients(config, str(home / "new.arrow"), {}, ("item", "row"), "personalization")
    assert new.loaded.fields == ("item",)


def test_new_writers_come_in_the_vocabulary_of_the_run(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "ann.txt").write_text("so it was\n")
    config = resolve({"task": "next_word", "data": {"buckets": 2}}, "test")
    known = {"word": ["<padding>", "<begin>", "<end>", "it", "was"]}
    fields = ("word", "bucket", "target")
    clients = prepare_new_clients(config, str(tmp_path), known, fields, "personalization").loaded
    assert clients["ann"]["word"][0, :4].tolist() == [1, 0, 3, 4]


class Steps(TaskSpec):
    """A task that writes down what it is asked for."""

    Data = MovieLensData
    Model = MatrixFactorizationSettings

    def __init__(self):
        self.steps = []

    def build(self, config):
        raise AssertionError("a run's own data are not read")

    def load_all_clients(self, config):
        self.steps.append(f"load {config.data.path}")
        columns = {"item": np.array([0, 1, 1]), "extra": np.zeros(3)}
        return Clients.from_columns([7, 8], [0, 2, 3], columns, {"item": np.array(["a", "b"])})

    def narrow_fields(self, config, clients):
        self.steps.append(f"narrow {clients.column('item').tolist()}")
        return clients

    def add_serving_fields(self, config, clients):
        self.steps.append("add")
        return clients

    def hold_out_for_evaluation(self, config, clients):
        self.steps.append("hold out")
        last = np.cumsum(clients.num_examples) - 1
        mark = np.isin(np.arange(clients.num_examples.sum()), last)
        columns = {**{name: clients.column(name) for name in clients.fields}, HELD_OUT: mark}
        offsets = np.concatenate([[0], np.cumsum(clients.num_examples)])
        return Clients.from_columns(clients.ids, offsets, columns, clients.vocabularies)


@pytest.mark.parametrize(
    ("purpose", "last", "fields"),
    [("evaluation", "hold out", ("item", HELD_OUT)), ("personalization", "add", ("item",))],
)
def test_the_steps_have_one_order(monkeypatch, purpose, last, fields):
    """Clients are loaded, mapped to the run's vocabulary, narrowed, and given what they are served by."""
    spec = Steps()
    monkeypatch.setattr(new_clients, "task_spec", lambda name: spec)
    new = prepare_new_clients(
        resolve({"task": "movielens"}, "test"), "p", {"item": ["b"]}, ("item",), purpose
    )
    assert spec.steps == ["load p"]
    prepared = new.prepare()
    assert spec.steps == ["load p", "narrow [0, 0]", last]
    assert prepared.left_out == 1
    assert prepared.served.fields == fields
    assert new.prepare(np.array([1])).served.ids.tolist() == [8]


def test_a_task_that_maps_its_clients_itself_is_believed(monkeypatch):
    spec = Steps()
    monkeypatch.setattr(new_clients, "task_spec", lambda name: spec)
    loaded = spec.load_all_clients(resolve({"task": "movielens"}, "test"))
    monkeypatch.setattr(Steps, "load_in_vocabulary", lambda self, config, known: (loaded, f"{[*known]}"))
    new = prepare_new_clients(resolve({"task": "movielens"}, "test"), "p", {"x": []}, ("item",), "evaluation")
    assert (new.remark, new.mapper) == ("['x']", None)
    assert new.prepare().mapped is loaded
