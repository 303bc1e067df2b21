"""By what runs are told to have measured the same, whatever their algorithms add to the data."""

import json

import numpy as np
import pytest
from tests.folders import write_run

from fedrecon.data._clients import Clients
from fedrecon.experiment.analysis.comparability import comparable, warnings
from fedrecon.experiment.analysis.runs import Run, methods
from fedrecon.experiment.config import resolve
from fedrecon.experiment.serving.new_clients import NewClients
from fedrecon.experiment.storage.metrics_log import RECON_EVAL
from fedrecon.experiment.training.build import spec_of, task_of

# The folders of these tests are written by hand, without digests.
pytestmark = pytest.mark.filterwarnings("ignore::fedrecon.errors.UncheckedWarning")


def spec(**changed):
    data = {"clients": 30, "items": 12, "held_out": {"test": 0.2}}
    values = {"data": data, "training": {"clients_per_round": 2}, **changed}
    config = resolve({"task": "synthetic_ratings", **values}, "test")
    return spec_of(config, task_of(config))


@pytest.fixture(scope="module")
def plain():
    return spec()


def test_an_algorithm_that_pools_examples_measures_the_same(plain):
    """It gives every example the number of its client, and trains on mini-batches."""
    pooled = spec(algorithm={"name": "centralized"})
    assert pooled.fingerprint()["clients"] != plain.fingerprint()["clients"]
    assert pooled.examples().keys() == {"validation", "test", "seen test"}
    assert all(plain.examples()[name] == digest for name, digest in pooled.examples().items())
    assert plain.examples() == plain.fingerprint()["clients"]
    assert spec(seed=1).examples()["test"] != plain.examples()["test"]


def ratings(path, **data):
    lines = [f"{user}::{item}::4::{user + item}\n" for user in range(30) for item in range(user % 3, 9)]
    path.write_text("".join(lines))
    config = resolve({"data": {"path": str(path), **data.pop("data", {})}, **data}, "test")
    return spec_of(config, task_of(config))


def test_a_split_by_time_in_training_measures_the_same(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    path, settings = tmp_path / "ratings.dat", {"task": "movielens", "training": {"clients_per_round": 5}}
    batches = ratings(path, **settings)
    by_time = ratings(path, algorithm={"split": {"name": "by_time"}}, **settings)
    assert "time" in by_time.clients.fields
    assert by_time.examples() == batches.examples()
    cut = ratings(path, evaluation={"split": {"name": "by_time"}}, **settings)
    assert cut.examples()["test"] != batches.examples()["test"]


def test_a_split_by_times_of_64_bits(tmp_path, monkeypatch):
    """In milliseconds, say: their order is all that it needs."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    path = tmp_path / "ratings.dat"
    lines = [f"{u}::{i}::4::{1_700_000_000_000 + (7 * i) % 11}\n" for u in range(30) for i in range(9)]
    path.write_text("".join(lines))
    settings = {"training": {"clients_per_round": 5}, "algorithm": {"split": {"name": "by_time"}}}
    config = resolve({"task": "movielens", "data": {"path": str(path)}, **settings}, "test")
    spec = spec_of(config, task_of(config))
    time, items = spec.clients.column("time"), spec.clients.vocabularies["item"]
    original = (7 * items[spec.clients.column("item")]) % 11
    assert time.dtype == np.int32
    assert (np.argsort(time[:9], kind="stable") == np.argsort(original[:9], kind="stable")).all()
    others = Clients.from_arrays({1: {"item": [0, 1], "rating": [4.0, 5.0], "time": [2**40 + 5, 2**40]}})
    new = NewClients(config, others, "", None, ("item", "rating", "time"), "personalization")
    assert new.prepare().served.column("time").tolist() == [1, 0]


def test_drawn_items_and_weights_do_not_change_what_is_ranked(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    path, settings = tmp_path / "ratings.dat", {"task": "ranking", "training": {"clients_per_round": 5}}
    protocol = {"protocol": {"name": "leave_one_out", "sampled": 2}}
    plain = ratings(path, data=protocol, **settings)
    more = {**protocol, "negatives": 2, "recency": {"extra": 3.0}}
    other = ratings(path, data=more, model={"loss": "bpr"}, **settings)
    assert {"negatives", "weight"} <= set(other.evaluated["seen test"].fields)
    assert other.examples() == plain.examples()


def altered(path, name, **changes):
    """A made run whose `name` says something else in places."""
    write_run(path, path.name)
    file = path / name
    file.write_text(json.dumps((json.loads(file.read_text()) if file.exists() else {}) | changes))
    return path


def test_runs_of_before_are_told_by_all_of_their_fields(tmp_path):
    old = write_run(tmp_path / "old", "old")
    digests = Run(old).fingerprint["clients"]
    assert Run(old).examples == digests
    new = altered(tmp_path / "new", "examples.json", **digests)
    assert comparable(Run(old), Run(new), "test", RECON_EVAL)
    other = altered(tmp_path / "other", "examples.json", **{**digests, "test": "others"})
    assert comparable(Run(old), Run(other), "test", RECON_EVAL)  # by the whole digests
    assert not comparable(Run(new), Run(other), "test", RECON_EVAL)


def test_pooled_training_examples_are_told_by_the_settings_of_their_data(tmp_path):
    first = write_run(tmp_path / "first", "first")
    digests = {k: v for k, v in Run(first).fingerprint["clients"].items() if k != "train"}
    pooled = altered(tmp_path / "pooled", "examples.json", **digests)
    fingerprint = json.loads((pooled / "fingerprint.json").read_text())
    fingerprint["clients"]["train"] = "rows of the pool"
    (pooled / "fingerprint.json").write_text(json.dumps(fingerprint))
    assert warnings(methods([first, pooled])) == []
    config = (pooled / "config.toml").read_text()
    (pooled / "config.toml").write_text(config.replace('kind = "d"', 'kind = "e"'))
    (said,) = warnings(methods([first, pooled]))
    assert said == "first and pooled are of other data: data.kind is 'd' and 'e'."


def test_other_measures_are_not_paired(tmp_path):
    cut = {"split": "Halves()", "every": 5}
    few, many = (
        altered(tmp_path / f"of{n}", "fingerprint.json", evaluation={**cut, "scoring": f"Ranking({n})"})
        for n in (99, 999)
    )
    said = warnings(methods([few, many]))
    reason = "other measures (Ranking(99) against Ranking(999)); they are not paired."
    assert said[0] == f"of99 and of999, test clients: {reason}"
    assert not comparable(Run(few), Run(many), "validation", RECON_EVAL)
