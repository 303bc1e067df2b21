"""Generated ratings: their shape, their truth, and what reconstruction under the truth reaches."""

import re

import numpy as np
import pytest

from fedrecon.datasets.ratings._synthetic import ridge_rmse, synthetic

FAR_FROM_THE_ENDS = {"factor_deviation": 0.4, "bias_deviation": 0.3, "item_deviation": 0.3}  # of the stars


@pytest.fixture(scope="module")
def generated():
    return synthetic()


def test_the_shape_of_movielens_1m():
    clients, planted = synthetic(6_040, 3_706)
    sizes = clients.num_examples
    assert sizes.min() == 20
    assert np.median(sizes) == pytest.approx(96, rel=0.1)
    assert sizes.mean() == pytest.approx(166, rel=0.1)
    assert 1_500 < sizes.max() <= 0.62 * 3_706
    popular = np.sort(np.bincount(clients.column("item"), minlength=3_706))[::-1]
    assert popular[:370].sum() / popular.sum() == pytest.approx(0.44, abs=0.04)
    assert popular[:1853].sum() / popular.sum() == pytest.approx(0.92, abs=0.03)
    stars = clients.column("rating")
    assert set(stars.tolist()) == {1, 2, 3, 4, 5}
    assert stars.mean() == pytest.approx(3.58, abs=0.1)
    assert stars.std() == pytest.approx(1.12, abs=0.1)
    assert planted.item_factors.shape == (3_706, 3)


def test_fields(generated):
    clients, planted = generated
    assert len(clients) == 2_000
    assert clients.fields == ("item", "rating")
    assert clients.column("item").dtype == np.int32
    assert clients.column("rating").dtype == np.float32
    assert clients.vocabularies["item"].tolist() == list(range(1_000))
    assert clients.column("item").max() < len(planted.item_biases) == 1_000


def test_a_user_rates_an_item_once_and_in_no_order(generated):
    clients, _ = generated
    assert clients.distinct("item")
    items, user = clients.column("item"), np.repeat(np.arange(len(clients)), clients.num_examples)
    same = user[1:] == user[:-1]
    assert np.mean(items[1:][same] > items[:-1][same]) == pytest.approx(0.5, abs=0.01)


def test_the_seed_decides_everything():
    one, other, third = (synthetic(50, 40, seed=seed) for seed in (1, 1, 2))
    for field in ("item", "rating"):
        np.testing.assert_array_equal(one[0].column(field), other[0].column(field))
    np.testing.assert_array_equal(one[1].item_factors, other[1].item_factors)
    assert one[1].effective_noise == other[1].effective_noise != third[1].effective_noise
    assert one[0].num_examples.tolist() != third[0].num_examples.tolist()


def test_the_ratings_come_from_the_planted_items():
    """The items' biases and the size of the users' factors are found again in the ratings."""
    clients, planted = synthetic(**FAR_FROM_THE_ENDS)
    item, rating = clients.column("item"), clients.column("rating")
    counts = np.bincount(item, minlength=1_000)
    means = np.bincount(item, rating, minlength=1_000) / np.maximum(counts, 1)
    often = counts > 100
    assert np.corrcoef(means[often], planted.item_biases[often])[0, 1] > 0.97
    user = np.repeat(np.arange(len(clients)), clients.num_examples)
    left = rating - planted.mean - planted.item_biases[item]
    large = np.flatnonzero(clients.num_examples > 300)
    factors = [np.linalg.lstsq(planted.item_factors[item[user == u]], left[user == u])[0] for u in large]
    assert np.std(factors) == pytest.approx(planted.factor_deviation, rel=0.1)


def test_rounding_adds_to_small_noise_and_is_all_there_is_without():
    _, planted = synthetic(noise=0.3, **FAR_FROM_THE_ENDS)
    assert planted.effective_noise == pytest.approx(np.sqrt(0.3**2 + 1 / 12), rel=0.02)
    _, planted = synthetic(noise=1e-6, **FAR_FROM_THE_ENDS)
    assert planted.effective_noise == pytest.approx(np.sqrt(1 / 12), rel=0.03)


def test_ridge_is_the_regularised_least_squares_solution(generated):
    clients, planted = generated
    some = clients.take(np.arange(0, 2_000, 100))
    errors = []
    for user in some.ids.tolist():
        item, rating = some[user]["item"], some[user]["rating"]
        columns = np.column_stack([planted.item_factors[item], np.ones(len(item))])
        left = rating - planted.mean - planted.item_biases[item]
        query = np.array([place // 5 % 2 == 1 for place in range(len(item))])
        weight = planted.effective_noise / np.array([planted.factor_deviation] * 3 + [planted.bias_deviation])
        found = np.linalg.lstsq(  # the prior as further observations
            np.vstack([columns[~query], np.diag(weight)]), np.concatenate([left[~query], np.zeros(4)])
        )[0]
        errors.extend((left - columns @ found)[query])
    assert ridge_rmse(planted, some) == pytest.approx(np.sqrt(np.mean(np.square(errors))), rel=1e-5)


def test_ridge_lies_between_the_noise_and_the_mean(generated):
    clients, planted = generated
    reached = ridge_rmse(planted, clients)
    stars = clients.column("rating")
    assert 1.02 * planted.effective_noise < reached < 1.1 * planted.effective_noise
    assert stars.std() > 1.35 * reached, "the mean rating is a clearly worse prediction"


@pytest.mark.parametrize("factor", [0.25, 4])
def test_the_planted_prior_is_the_best_strength(generated, factor):
    clients, planted = generated
    other = planted._replace(
        factor_deviation=planted.factor_deviation * factor, bias_deviation=planted.bias_deviation * factor
    )
    assert ridge_rmse(other, clients) > ridge_rmse(planted, clients)


def test_more_support_comes_nearer_to_the_noise(generated):
    clients, planted = generated
    large = clients.take(np.flatnonzero(clients.num_examples >= 300))
    assert ridge_rmse(planted, large) < ridge_rmse(planted, large.cap(40)) - 0.01


def test_without_query_examples_there_is_no_error(generated):
    clients, planted = generated
    assert np.isnan(ridge_rmse(planted, clients.cap(5)))
    with pytest.raises(ValueError, match="batch_size must be a whole number of at least 1, got 0"):
        ridge_rmse(planted, clients, batch_size=0)


@pytest.mark.parametrize("size", [(1, 2), (3, 5), (7, 33)])
def test_small_federations(size):
    clients, _ = synthetic(*size)
    assert len(clients) == size[0]
    assert 1 <= clients.num_examples.min() <= clients.num_examples.max() <= size[1]


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"num_clients": 0}, "num_clients must be a whole number of at least 1, got 0"),
        ({"num_items": 1}, "num_items must be a whole number of at least 2, got 1"),
        ({"num_factors": 0}, "num_factors must be a whole number of at least 1, got 0"),
        ({"noise": 0.0}, "noise must be positive and finite, got 0.0"),
        ({"factor_deviation": -1.0}, "factor_deviation must be positive and finite, got -1.0"),
        ({"bias_deviation": float("nan")}, "bias_deviation must be positive and finite, got nan"),
        ({"item_deviation": float("inf")}, "item_deviation must be positive and finite, got inf"),
    ],
)
def test_parameters(parameters, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        synthetic(**parameters)
