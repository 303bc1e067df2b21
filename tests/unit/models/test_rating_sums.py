"""The sums that clients send of their ratings, by hand, and the statistics that follow from them."""

import numpy as np
import pytest

from fedrecon import Clients, Simulation
from fedrecon.data._columns import offsets_of
from fedrecon.data._sampling import Everyone
from fedrecon.models import rating_statistics, rating_sums
from fedrecon.privacy._user_level import user_level_dp

ITEMS = 6


def federation(scale=1.0, shift=0.0):
    ratings = {
        "a": ([0, 1, 2], [5.0, 3.0, 1.0]),
        "b": ([1, 3], [4.0, 2.0]),
        "c": ([0], [2.0]),
        "nobody": ([], []),
        "d": ([2, 2, 3, 0], [1.0, 2.0, 5.0, 4.0]),
    }
    counts = [len(items) for items, _ in ratings.values()]
    columns = {
        "item": np.concatenate([np.array(items, np.int32) for items, _ in ratings.values()]),
        "rating": np.concatenate([shift + scale * np.array(x, np.float32) for _, x in ratings.values()]),
    }
    columns["rating"] = columns["rating"].astype(np.float32)
    return Clients.from_columns(list(ratings), offsets_of(counts), columns, {"item": np.arange(ITEMS)})


def sums_of(clients, algorithm=None):
    simulation = Simulation(algorithm or rating_sums(ITEMS), clients, Everyone())
    (round,) = simulation.rounds(simulation.init(), 1)
    return round.state.global_params


def sums_by_hand(clients):
    total = {"count": 0.0, "sum": 0.0, "square": 0.0}
    item = {name: np.zeros(ITEMS) for name in ("sum", "weight", "count")}
    for client in clients.ids:
        items, ratings = clients[client]["item"], clients[client]["rating"].astype(np.float64)
        if not len(items):
            continue
        above = ratings - ratings.mean()
        total["count"] += len(items)
        total["sum"] += ratings.sum()
        total["square"] += np.sum(above**2)
        np.add.at(item["sum"], items, above)
        np.add.at(item["weight"], items, 1 - 1 / len(items))
        np.add.at(item["count"], items, 1)
    return total, item


def test_sums_are_those_of_all_clients():
    clients = federation()
    params, (total, item) = sums_of(clients), sums_by_hand(federation())
    for name, value in total.items():
        assert float(params[name]) * 4 == pytest.approx(value, abs=1e-5)
    for name, values in item.items():
        np.testing.assert_allclose(np.asarray(params["item"][name]) * 4, values, atol=1e-5)


def test_mean_and_deviation_are_those_of_the_ratings():
    statistics, (total, item) = rating_statistics(sums_of(federation()), 4), sums_by_hand(federation())
    assert statistics.mean == pytest.approx(total["sum"] / 10)
    assert statistics.deviation == pytest.approx(np.sqrt(total["square"] / (10 - 4)))
    assert statistics.item_counts.tolist() == item["count"].tolist() == [3, 2, 3, 2, 0, 0]
    shrunk = item["sum"] / statistics.deviation / (item["weight"] + statistics.item_bias_penalty)
    np.testing.assert_allclose(statistics.item_bias, shrunk, atol=1e-5)


@pytest.mark.parametrize(("scale", "shift"), [(25.0, -50.0), (1e-3, 0.0), (1.0, 1000.0)])
def test_another_scale_changes_mean_and_deviation_alone(scale, shift):
    here, there = (rating_statistics(sums_of(x), 4) for x in (federation(), federation(scale, shift)))
    assert there.mean == pytest.approx(scale * here.mean + shift, rel=1e-5)
    assert there.deviation == pytest.approx(scale * here.deviation, rel=1e-4)
    np.testing.assert_allclose(there.item_bias, here.item_bias, atol=1e-3)
    assert there.item_bias_penalty == pytest.approx(here.item_bias_penalty, rel=1e-2)


@pytest.mark.parametrize(("share", "least", "most"), [(0.0, 50.0, np.inf), (0.2, 2.5, 7.0)])
def test_the_penalty_is_the_ratio_of_the_variances(share, least, most):
    """Items that explain a fifth of the variance within clients: .8 / .2 = 4."""
    random = np.random.default_rng(3)
    items = np.concatenate([random.permutation(300)[:40] for _ in range(500)])
    ratings = random.normal(0, np.sqrt(share), 300)[items] + random.normal(0, np.sqrt(1 - share), 20_000)
    columns = {"item": items.astype(np.int32), "rating": ratings.astype(np.float32)}
    clients = Clients.from_columns(np.arange(500), 40 * np.arange(501), columns, {"item": np.arange(300)})
    statistics = rating_statistics(sums_of(clients, rating_sums(300)), 500)
    assert least < statistics.item_bias_penalty < most


def test_equal_ratings_have_the_unit_one():
    statistics = rating_statistics(sums_of(federation(scale=0.0, shift=4.0)), 4)
    assert (statistics.mean, statistics.deviation) == (4.0, 1.0)
    assert not statistics.item_bias.any()


def test_given_numbers_take_the_place_of_measured_ones():
    params = sums_of(federation())
    statistics = rating_statistics(params, 4, mean=3.0, deviation=2.0, item_bias_penalty=7.0)
    assert (statistics.mean, statistics.deviation, statistics.item_bias_penalty) == (3.0, 2.0, 7.0)
    expected = np.asarray(params["item"]["sum"]) * 4 / 2 / (np.asarray(params["item"]["weight"]) * 4 + 7)
    np.testing.assert_allclose(statistics.item_bias, expected, atol=1e-6)


def test_sums_without_a_rating_are_refused():
    with pytest.raises(ValueError, match="must be finite, and of a rating at least"):
        rating_statistics(rating_sums(ITEMS).model.init_global(None), 1)


def test_sums_can_be_clipped_and_noised():
    """They are an update like any other: with a bound that holds all and hardly any noise they stay."""
    clients = federation()
    private = user_level_dp(
        rating_sums(ITEMS),
        clip=100.0,
        delta=1e-3,
        rounds=1,
        sampling=Everyone(),
        num_clients=len(clients),
        noise_multiplier=1e-9,
    )
    noised, exact = sums_of(clients, private), sums_of(clients)
    assert float(noised["sum"]) * len(clients) == pytest.approx(float(exact["sum"]) * 4, abs=1e-3)
