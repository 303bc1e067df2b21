"""The sets of clients: split by user, shuffled once, cut at the cap."""

import re

import numpy as np
import pytest

from fedrecon.datasets.ratings import _dataset as dataset
from fedrecon.datasets.ratings._dataset import load
from fedrecon.datasets.ratings._movielens import MOVIELENS_1M
from fedrecon.datasets.ratings._prepare import prepare
from fedrecon.errors import DataError


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """200 users with 1 to 60 ratings, in no order, with times that often are equal."""
    random = np.random.default_rng(0)
    rows = [(user, item) for user in range(200) for item in range(random.integers(1, 61))]
    rows = [rows[i] for i in random.permutation(len(rows))]
    path = tmp_path_factory.mktemp("source") / "ratings.dat"
    path.write_text("".join(f"{u}::{i}::{i % 5 + 1}::{random.integers(0, 20)}\n" for u, i in rows))
    return path


@pytest.fixture
def clients(source, tmp_path):
    return prepare(source, cache=tmp_path)


def test_split_by_user(source, clients, tmp_path):
    sets = load(source, seed=1, cache=tmp_path, cap=None)
    assert {name: len(x) for name, x in sets.items()} == {"train": 160, "validation": 20, "test": 20}
    assert sorted(i for x in sets.values() for i in x.ids.tolist()) == clients.ids.tolist()
    for part in sets.values():
        assert part.vocabularies["item"].tolist() == clients.vocabularies["item"].tolist()
        for user in part.ids.tolist():
            assert sorted(part[user]["item"].tolist()) == sorted(clients[user]["item"].tolist())


def test_shuffled_once_and_cut(source, clients, tmp_path):
    def items(**parameters):
        (part,) = load(source, fractions={"all": 1}, cache=tmp_path, **parameters).values()
        return {user: part[user]["item"].tolist() for user in part.ids.tolist()}

    whole, cut = items(seed=1, cap=None), items(seed=1, cap=10)
    assert whole == items(seed=1, cap=None)
    assert {user: x[:10] for user, x in whole.items()} == cut
    moved = sum(x != clients[user]["item"].tolist() for user, x in whole.items() if len(x) > 2)
    other = items(seed=2, cap=None)
    assert moved > 150
    assert sum(x != other[user] for user, x in whole.items() if len(x) > 2) > 150


def test_ratings_stay_with_their_items(source, tmp_path):
    part = load(source, seed=3, cache=tmp_path)["train"]
    np.testing.assert_array_equal(part.column("rating"), part.column("item") % 5 + 1)


def test_the_shuffle_does_not_know_the_split(source, clients, tmp_path):
    """What comes first in the file comes first as often in the training set as in the others."""
    places = {"train": [], "rest": []}
    for seed in range(20):
        sets = load(source, seed=seed, cap=None, fractions={"train": 0.5, "rest": 0.5}, cache=tmp_path)
        for name, part in sets.items():
            for user in part.ids.tolist():
                order = part[user]["item"].tolist()
                if len(order) > 1:
                    places[name].append(order.index(clients[user]["item"][0]) / (len(order) - 1))
    assert np.mean(places["train"]) == pytest.approx(0.5, abs=0.03)
    assert np.mean(places["rest"]) == pytest.approx(0.5, abs=0.03)


def test_the_order_of_the_file(source, clients, tmp_path):
    part = load(source, seed=1, order="file", cap=None, cache=tmp_path)["test"]
    for user in part.ids.tolist():
        np.testing.assert_array_equal(part[user]["item"], clients[user]["item"])


def test_the_order_of_time(source, clients, tmp_path):
    part = load(source, seed=1, order="time", cap=5, cache=tmp_path)["test"]
    for user in part.ids.tolist():
        order = np.argsort(clients[user]["time"], kind="stable")[:5]
        np.testing.assert_array_equal(part[user]["item"], clients[user]["item"][order])


def test_time_that_is_not_there(tmp_path):
    (tmp_path / "ratings.csv").write_text("userId,movieId,rating\n1,1,1\n")
    with pytest.raises(
        DataError, match="order 'time' must have a field time to sort by, the ratings have item, rating"
    ):
        load(tmp_path, seed=0, order="time", cache=tmp_path / "cache")


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"order": "random"}, "order must be one of shuffled, time, file, got 'random'"),
        ({"cap": 0}, "got 0"),
        ({"fractions": {"train": 0.8, "test": 0.3}}, "fractions must sum to at most 1, got "),
        ({"fractions": {"train": 0.0}}, "fraction 'train' must lie in (0, 1], got 0.0"),
        ({"fractions": {"train": 1.5}}, "fraction 'train' must lie in (0, 1], got 1.5"),
    ],
)
def test_parameters(source, tmp_path, parameters, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        load(source, seed=0, cache=tmp_path, **parameters)


def test_without_a_path_movielens_1m_is_fetched(source, tmp_path, monkeypatch):
    asked = []

    def download(archive, folder):
        asked.append((archive, folder))
        return source

    monkeypatch.setattr(dataset, "download", download)
    assert len(load(seed=0, cache=tmp_path)["train"]) == 160
    assert asked == [(MOVIELENS_1M, tmp_path)]


def test_movielens_1m(shared_data, tmp_path):
    sets = load(shared_data("ml-1m"), seed=0, cache=tmp_path)
    assert {name: len(x) for name, x in sets.items()} == {"train": 4832, "validation": 604, "test": 604}
    assert max(int(x.num_examples.max()) for x in sets.values()) == 300
    assert min(int(x.num_examples.min()) for x in sets.values()) == 20
