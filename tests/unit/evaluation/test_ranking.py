"""Ranking metrics against brute force, and what ties, padding and seen items do."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedrecon.core._examples import Examples
from fedrecon.evaluation._ranking import Ranking

ITEMS = 12
EVERY = tuple((kind, k) for kind in ("hr", "recall", "recall_min", "ndcg") for k in (1, 3, 20))
RANKING = Ranking(ITEMS, EVERY, negatives=4)


def some(items, padding=0):
    """Examples of these items; the padding holds item 0."""
    data = {"item": np.array([*items, *[0] * padding], np.int32)}
    return Examples(data, np.arange(len(items) + padding) < len(items))


@functools.cache
def compiled(ranking):
    return jax.jit(ranking.of_scores)


def measured(scores, seen, held, ranking=RANKING, key=0):
    support, query = some(seen, 5 - len(seen)), some(held, 4 - len(held))
    found = compiled(ranking)(jnp.asarray(scores, jnp.float32), support, query, jax.random.key(key))
    return {name: (float(mean.total), float(mean.weight)) for name, mean in found.items()}


def metric(kind, k, ranks, ideal):
    """Of held-out items with these ranks, when at best `ideal` of them are at the top."""
    if kind == "hr":
        return float(any(r < k for r in ranks))
    gain = [1 / np.log2(r + 2) if kind == "ndcg" else 1.0 for r in range(max(k, ITEMS))]
    best = {"recall": len(ranks), "recall_min": min(k, ideal), "ndcg": sum(gain[: min(k, ideal)])}[kind]
    return sum(gain[r] for r in ranks if r < k) / best


def by_hand(scores, candidates, held, kind, k):
    """The mean over all orders that agree with the scores."""
    every = itertools.permutations(candidates)
    orders = [o for o in every if all(scores[a] >= scores[b] for a, b in itertools.pairwise(o))]
    return np.mean([metric(kind, k, [o.index(i) for i in held], len(held)) for o in orders])


def test_distinct_scores_against_brute_force():
    rng = np.random.default_rng(0)
    for trial in range(20):
        scores = rng.normal(size=ITEMS)
        items = rng.permutation(ITEMS)
        seen, held = items[: rng.integers(0, 6)], items[6 : 6 + rng.integers(1, 5)]
        found = measured(scores, seen, held)
        candidates = [i for i in np.argsort(-scores) if i not in seen]
        ranks = [candidates.index(i) for i in held]
        for kind, k in EVERY:
            np.testing.assert_allclose(
                found[f"{kind}@{k}"], (metric(kind, k, ranks, len(held)), 1.0), rtol=1e-5, err_msg=str(trial)
            )


def test_an_item_held_out_twice_is_one_item():
    scores = np.random.default_rng(1).normal(size=ITEMS)
    assert measured(scores, [2], [5, 7, 5]) == measured(scores, [2], [5, 7])


@pytest.mark.parametrize("held", [[0], [3], [1, 4], [0, 2, 3], [0, 2], [5, 1], [1, 2, 4, 3]])
def test_ties_are_worth_their_expectation(held):
    scores = np.array([1.0, 0.0, 1.0, 1.0, 0.0, 2.0] + [np.nan] * 6)
    ranking = Ranking(6, EVERY)
    found = measured(scores[:6], [], held, ranking)
    for kind, k in EVERY:
        wanted = by_hand(scores, range(6), held, kind, k)
        np.testing.assert_allclose(found[f"{kind}@{k}"][0], wanted, rtol=1e-5)


def test_scores_that_say_nothing_earn_what_chance_does():
    """Not a number, infinite or equal everywhere: the eleven candidates come in any order."""
    for scores in (np.zeros(ITEMS), np.full(ITEMS, np.nan), np.full(ITEMS, -np.inf), np.full(ITEMS, np.inf)):
        found = measured(scores, [7], [3])
        np.testing.assert_allclose(found["hr@3"][0], 3 / 11, rtol=1e-6)
        np.testing.assert_allclose(found["sampled_hr@3"][0], 3 / 5, rtol=1e-6)


def test_a_score_that_is_no_number_comes_last():
    scores = np.arange(ITEMS, dtype=float)
    scores[3] = np.nan
    found = measured(scores, [11], [3])
    assert found["hr@3"][0] == 0 and found["hr@20"][0] == 1


def test_seen_items_are_no_candidates_and_held_out_ones_are():
    scores = np.arange(ITEMS, dtype=float)
    assert measured(scores, [11, 10], [9])["hr@1"][0] == 1
    assert measured(scores, [10], [9])["hr@1"][0] == 0
    assert measured(scores, [11, 9], [11])["hr@1"][0] == 1  # what is in both is held out


def test_sampled_lists_hold_items_that_the_client_does_not_have():
    scores = np.random.default_rng(1).normal(size=ITEMS)
    seen, held = [0, 1, 2, 3], [4, 5]
    known = np.isin(np.arange(ITEMS), seen + held)
    drawn = set()
    for key in range(8):
        items, usable = RANKING.drawn(jnp.asarray(known), jax.random.key(key))
        assert len(set(items.tolist())) == 4 and usable.all() and not known[items].any()
        drawn |= set(items.tolist())
        found = measured(scores, seen, held, key=key)
        ranks = [int(np.sum(scores[items] > scores[i])) for i in held]
        for kind, k in EVERY:  # each in a list of its own
            wanted = np.mean([metric(kind, k, [r], 1) for r in ranks])
            np.testing.assert_allclose(found[f"sampled_{kind}@{k}"], (wanted, 1.0), rtol=1e-5)
    assert drawn == set(range(6, ITEMS))


def test_fewer_items_than_are_to_be_drawn():
    known = np.arange(ITEMS) >= 2
    items, usable = RANKING.drawn(jnp.asarray(known), jax.random.key(0))
    assert set(items[usable].tolist()) == {0, 1}
    scores = np.arange(ITEMS, dtype=float)
    found = Ranking(ITEMS, (("hr", 1),), 4).of_scores(
        jnp.asarray(scores), some([*range(3, 12)]), some([2]), jax.random.key(0)
    )
    assert float(found["sampled_hr@1"].total) == 1


def test_a_client_without_a_held_out_item_does_not_count():
    assert set(measured(np.arange(ITEMS), [1], []).values()) == {(0.0, 0.0)}


def test_a_hit_counts_once_however_many_items_are_held_out():
    """Three users with one, two and no held-out item among the first three: two of three have a hit."""
    scores = np.arange(ITEMS, 0, -1.0)
    users = [[0, 7, 8], [1, 2], [9, 10, 11]]
    metrics = [measured(scores, [], held) for held in users]
    assert np.mean([x["hr@3"][0] for x in metrics]) == pytest.approx(2 / 3)
    assert np.mean([x["recall@3"][0] for x in metrics]) == pytest.approx((1 / 3 + 1 + 0) / 3)
    assert [x["recall_min@1"][0] for x in metrics] == [1.0, 0.0, 0.0]
    assert [x["recall@1"][0] for x in metrics] == pytest.approx([1 / 3, 0.0, 0.0])


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"metrics": (("map", 10),)}, "map"),
        ({"metrics": (("hr", 0),)}, "hr@K"),
        ({"negatives": 12}, "negatives"),
        ({"negatives": -1}, "negatives"),
    ],
)
def test_wrong_settings_are_named(arguments, named):
    with pytest.raises(ValueError, match=named):
        Ranking(ITEMS, **arguments)
