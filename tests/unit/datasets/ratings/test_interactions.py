"""Ratings as interactions, one of each user's held out, weights by recency, drawn items."""

import jax
import numpy as np
import pytest

from fedrecon.core._examples import Examples
from fedrecon.core._splits import HeldOut
from fedrecon.data._clients import Clients
from fedrecon.datasets.ratings._interactions import (
    each_once,
    interactions,
    leave_one_out,
    with_negatives,
    with_recency,
)
from fedrecon.errors import DataError

RATINGS = Clients.from_arrays(
    {
        "ann": {"item": [4, 1, 3, 2], "rating": [5.0, 2.0, 4.0, 4.0], "time": [30, 10, 20, 20]},
        "bob": {"item": [0], "rating": [1.0], "time": [7]},
        "eve": {"item": [1, 0, 2], "rating": [4.0, 5.0, 4.5], "time": [3, 2, 1]},
    }
)
BY_TIME = interactions(RATINGS)


def items(clients):
    return {client: clients[client]["item"].tolist() for client in clients.ids.tolist()}


def test_interactions_come_by_time_and_equal_times_as_in_the_source():
    assert items(BY_TIME) == {"ann": [1, 3, 2, 4], "bob": [0], "eve": [2, 0, 1]}
    assert BY_TIME.fields == ("item",)


def test_without_times_the_source_decides():
    assert items(interactions(RATINGS.select("item", "rating")))["ann"] == [4, 1, 3, 2]


def test_low_ratings_and_small_users_are_left_out():
    assert items(interactions(RATINGS, least_rating=4.0)) == {"ann": [3, 2, 4], "eve": [2, 0, 1]}
    assert items(interactions(RATINGS, least_rating=4.5, least_items=2)) == {"eve": [2, 0]}
    with pytest.raises(DataError, match="at least 9 ratings of at least 2"):
        interactions(RATINGS, least_rating=2.0, least_items=9)


@pytest.mark.parametrize(("back", "train", "held"), [(1, [1, 3, 2], 4), (2, [1, 3], 2)])
def test_one_interaction_is_held_out_and_later_ones_are_gone(back, train, held):
    sets = leave_one_out(BY_TIME, back)
    assert items(sets["train"])["ann"] == train
    assert items(sets["held_out"])["ann"] == [*train, held]
    assert sets["held_out"]["ann"]["held_out"].tolist() == [0] * len(train) + [1]
    assert "bob" not in sets["train"].ids.tolist()
    assert sets["train"].ids.tolist() == sets["held_out"].ids.tolist()


def test_the_split_of_standard_eval_understands_it():
    data = leave_one_out(BY_TIME)["held_out"]["eve"]
    support, query = HeldOut()(Examples(data, np.ones(3, bool)), jax.random.key(0))
    assert support.data["item"][np.asarray(support.mask)].tolist() == [2, 0]
    assert query.data["item"][np.asarray(query.mask)].tolist() == [1]


def test_nobody_left_is_an_error():
    with pytest.raises(DataError, match="more than 4"):
        leave_one_out(BY_TIME, 4)
    with pytest.raises(DataError, match="back"):
        leave_one_out(BY_TIME, 0)


def test_weights_fall_with_later_interactions_of_the_support():
    wanted = 1 + 8 * np.exp(-np.array([2, 1, 0]) / 4)
    sets = leave_one_out(BY_TIME)
    np.testing.assert_allclose(with_recency(sets["train"], 8.0, 4.0)["ann"]["weight"], wanted, rtol=1e-6)
    np.testing.assert_allclose(
        with_recency(sets["held_out"], 8.0, 4.0)["ann"]["weight"], [*wanted, 1], rtol=1e-6
    )
    with pytest.raises(DataError, match="extra"):
        with_recency(BY_TIME, 1.0, 0.0)


def test_drawn_items_depend_on_client_and_place_alone():
    drawn = with_negatives(BY_TIME, 5, 100, seed=0)
    again = with_negatives(BY_TIME.take([2, 0]), 5, 100, seed=0)
    for client in ("ann", "eve"):
        np.testing.assert_array_equal(again[client]["negatives"], drawn[client]["negatives"])
    held = with_negatives(leave_one_out(BY_TIME)["held_out"], 5, 100, seed=0)
    np.testing.assert_array_equal(held["ann"]["negatives"], drawn["ann"]["negatives"])
    other = with_negatives(BY_TIME, 5, 100, seed=1)
    assert (other.column("negatives") != drawn.column("negatives")).mean() > 0.9


def test_drawn_items_are_uniform():
    many = Clients.from_arrays({i: {"item": np.zeros(50, int)} for i in range(40)})
    counts = np.bincount(with_negatives(many, 10, 20, seed=0).column("negatives").reshape(-1), minlength=20)
    assert counts.sum() == 20_000
    assert np.square(counts - 1000).sum() / 1000 < 43.8  # of 19 degrees of freedom, once in a thousand
    with pytest.raises(DataError, match="count"):
        with_negatives(many, 0, 20, seed=0)


TWICE = Clients.from_columns(
    ["ann", "bob"],
    [0, 3, 7],
    {"item": [1, 0, 2, 2, 0, 2, 2], "rating": [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0]},
    {"item": ["x", "y", "z"]},
)


def test_an_item_that_a_client_has_twice_is_refused_or_counts_once():
    with pytest.raises(DataError, match=r"here\.arrow: client 'bob' must rate item 'z' once"):
        each_once(TWICE, "error", "here.arrow")
    found = each_once(TWICE, "last", "here.arrow")
    assert items(found) == {"ann": [1, 0, 2], "bob": [0, 2]}
    assert found["bob"]["rating"].tolist() == [5.0, 7.0]
    assert each_once(TWICE.take([0]).take([0]), "last", "")["ann"]["item"].tolist() == [1, 0, 2]
    assert each_once(found, "error", "") is found


def test_items_that_are_no_numbers_with_names_are_refused():
    with pytest.raises(DataError, match=r"original ids of the field 'item'.*the ids of "):
        each_once(RATINGS, "error", "here")
    with pytest.raises(DataError, match=r"original ids of the field 'item'.*fields \['rating'\]"):
        each_once(TWICE.select("rating"), "error", "here")
    with pytest.raises(DataError, match="places in its vocabulary, whole numbers from 0 to 0, got float"):
        Clients.from_columns([1], [0, 1], {"item": [0.5]}, {"item": ["x"]})
