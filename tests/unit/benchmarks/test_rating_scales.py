"""Generated ratings are of the sizes and the variances that their set asks for."""

import jax
import numpy as np
import pytest
from benchmarks import rating_scales
from benchmarks.rating_scales import RatingSet, built, generate, rating_sets

from fedrecon.experiment.training.build import spec_of
from fedrecon.simulation._shared_programs import SharedPrograms
from fedrecon.simulation._simulation import Simulation


def test_sets_take_turns_and_stay_within_their_ranges():
    sets = list(rating_sets(40))
    assert sets[:5] == list(rating_sets(5))
    assert {x.scale for x in sets} == set(rating_scales.SCALES)
    assert {x.item_share for x in sets} == set(rating_scales.ITEM_SHARES)
    assert {(x.scale, x.item_share) for x in rating_sets(400) if x.size == 3} == {
        (scale, share) for scale in rating_scales.SCALES for share in rating_scales.ITEM_SHARES
    }
    assert len({(x.items, x.most) for x in sets}) == len({x.size for x in sets}) == rating_scales.SIZES
    assert all(20 <= x.items <= 5000 and x.least == 3 and 12 <= x.most <= 300 for x in sets)


@pytest.mark.parametrize("scale", rating_scales.SCALES)
def test_ratings_lie_on_their_scale(scale):
    made = RatingSet(1, 1, scale, items=30, least=3, most=60, item_share=0.25, taste_share=0.0)
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
    made = RatingSet(2, 2, (0.0, 100.0), items=200, least=40, most=60, item_share=share, taste_share=0.0)
    clients = generate(made, 800)
    rating, item = clients.column("rating").astype(np.float64), clients.column("item")
    counts = np.maximum(np.bincount(item, minlength=200), 1)
    means = np.bincount(item, rating, minlength=200) / counts
    explained = np.sum(counts * (means - rating.mean()) ** 2) / np.sum((rating - rating.mean()) ** 2)
    assert explained == pytest.approx(share, abs=0.08)


@pytest.mark.parametrize("count", [2, pytest.param(20, marks=pytest.mark.slow)])
def test_small_sets_do_not_diverge(tmp_path, count):
    """Sets of one size, whose rounds are one program; scales and what explains the ratings differ.

    Each is traced anew, which takes a second or two: more than two are too many for every run of the tests.
    """
    programs, losses = SharedPrograms(), []
    for made in rating_sets(count):
        made = made._replace(size=0, items=25, most=20)
        config, task = built(made, tmp_path / f"{made.seed}.arrow", programs, clients=50)
        with programs.used([x for x in task.settings_from_data.values() if isinstance(x, float)]):
            spec = spec_of(config, task)
            simulation = Simulation(spec.algorithm, spec.clients, spec.sampling)
            rounds = list(simulation.rounds(simulation.init(), 6))
        leaves = jax.tree.leaves(rounds[-1].state.global_params)
        assert all(np.isfinite(x).all() for x in leaves), made
        losses.append([float(round.metrics()["loss"].value()) for round in rounds])
    # In units of the deviation all scales are alike: nothing explodes, and the mean alone has a loss of 1.
    assert np.max(losses) < 2
    assert programs.compilations <= 4, programs.compilations
