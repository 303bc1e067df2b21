"""Generated ratings are of the sizes and the variances that their set asks for."""

import numpy as np
import pytest
from benchmarks import rating_scales
from benchmarks.rating_scales import RatingSet, generate, rating_sets


def test_sets_take_turns_and_stay_within_their_ranges():
    sets = list(rating_sets(40))
    assert sets[:5] == list(rating_sets(5))
    assert {x.scale for x in sets} == set(rating_scales.SCALES)
    assert {x.item_share for x in sets} == set(rating_scales.ITEM_SHARES)
    assert all(20 <= x.items <= 5000 and x.least == 3 and 12 <= x.most <= 300 for x in sets)


@pytest.mark.parametrize("scale", rating_scales.SCALES)
def test_ratings_lie_on_their_scale(scale):
    made = RatingSet(1, scale, items=30, least=3, most=60, item_share=0.25, taste_share=0.0)
    clients = generate(made, 500)
    rating = clients.column("rating")
    assert scale[0] <= rating.min() < rating.max() <= scale[1] * (1 + 1e-6)
    assert clients.distinct("item")
    assert (clients.num_examples >= 3).all()
    assert clients.num_examples.max() <= 30
    again = generate(made, 500)
    np.testing.assert_array_equal(rating, again.column("rating"))


@pytest.mark.parametrize("share", [0.0, 0.25])
def test_items_explain_their_share(share):
    made = RatingSet(2, (0.0, 100.0), items=200, least=40, most=60, item_share=share, taste_share=0.0)
    clients = generate(made, 800)
    rating, item = clients.column("rating").astype(np.float64), clients.column("item")
    counts = np.maximum(np.bincount(item, minlength=200), 1)
    means = np.bincount(item, rating, minlength=200) / counts
    explained = np.sum(counts * (means - rating.mean()) ** 2) / np.sum((rating - rating.mean()) ** 2)
    assert explained == pytest.approx(share, abs=0.08)
