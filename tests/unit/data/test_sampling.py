"""Cohorts: pure functions of round and seed, with the law that they promise."""

import itertools

import numpy as np
import pytest

from fedrecon.data._sampling import Passes, Poisson, Sampling, Uniform, Weighted

COUNTS = np.array([0, 1, 2, 3, 4, 0, 10, 5, 5, 20])
KINDS = [Uniform, Poisson, Weighted, Passes]


@pytest.mark.parametrize("kind", KINDS)
def test_a_cohort_depends_on_round_and_seed_alone(kind):
    sampling = kind(4)
    assert isinstance(sampling, Sampling)

    def draw(round, seed):
        return sampling.indices(round, COUNTS, seed).tolist()

    assert draw(3, 7) == draw(3, 7)
    assert any(draw(r, 7) != draw(r + 1, 7) for r in range(5))
    assert any(draw(r, 7) != draw(r, 8) for r in range(5))
    for round in range(30):
        cohort = draw(round, -1)
        assert len(set(cohort)) == len(cohort)
        assert set(cohort) <= set(range(10))


@pytest.mark.parametrize("kind", [Uniform, Weighted])
def test_size_is_fixed(kind):
    assert {len(kind(4).indices(r, COUNTS, 0)) for r in range(50)} == {4}
    assert kind(4).most(10) == 4


def test_uniform_is_uniform():
    drawn = np.concatenate([Uniform(3).indices(r, COUNTS, 0) for r in range(2000)])
    np.testing.assert_allclose(np.bincount(drawn, minlength=10) / 2000, 0.3, atol=0.05)


def test_poisson_draws_every_client_by_itself():
    cohorts = [Poisson(3).indices(r, COUNTS, 0) for r in range(3000)]
    sizes = np.array([len(c) for c in cohorts])
    np.testing.assert_allclose([sizes.mean(), sizes.var()], [3, 10 * 0.3 * 0.7], rtol=0.1)
    np.testing.assert_allclose(np.bincount(np.concatenate(cohorts), minlength=10) / 3000, 0.3, atol=0.04)
    assert 0 in sizes
    assert Poisson(100).most(10_000) == 140
    assert Poisson(3).most(4) == 4
    assert (sizes > Poisson(3).most(10)).mean() < 0.01


def test_weighted_draws_in_proportion_and_never_an_empty_client():
    first = np.array([Weighted(1).indices(r, COUNTS, 0)[0] for r in range(3000)])
    np.testing.assert_allclose(np.bincount(first, minlength=10) / 3000, COUNTS / COUNTS.sum(), atol=0.04)
    everybody = Weighted(10).indices(0, COUNTS, 0)
    assert sorted(everybody) == np.flatnonzero(COUNTS).tolist()


def test_weighted_cohorts_are_drawn_client_after_client():
    """Each in proportion to the examples of those that are left: also where most have been drawn before."""
    counts, rounds = np.array([1, 0, 2, 9, 4]), 4_000
    drawn = np.array([Weighted(3).indices(r, counts, 0) for r in range(rounds)])
    assert not np.any(drawn == 1)
    for order in itertools.permutations([0, 2, 3, 4], 3):
        left, chance = 16, 1.0
        for client in order:
            chance, left = chance * counts[client] / left, left - counts[client]
        found = np.mean(np.all(drawn == order, axis=1))
        assert abs(found - chance) < 5 * np.sqrt(chance / rounds), order


def test_weighted_looks_at_all_clients_once(monkeypatch):
    counts, sampling = np.full(1000, 3), Weighted(4)
    sampling.indices(0, counts, 0)
    with monkeypatch.context() as patch:
        patch.setattr(np, "cumsum", lambda *_, **__: pytest.fail("all clients were gone through"))
        again = sampling.indices(1, counts, 0).tolist()
    assert again == Weighted(4).indices(1, counts, 0).tolist()
    assert sampling == Weighted(4) and repr(sampling) == "Weighted(clients_per_round=4)"
    assert sampling.indices(0, np.array([0, 1, 1, 1, 1]), 0).max() < 5  # other clients


def test_passes_take_everybody_once_per_pass():
    passes = Passes(4)  # of 4, 4 and 2 clients
    rounds = [passes.indices(r, COUNTS, 0) for r in range(6)]
    assert [len(c) for c in rounds] == [4, 4, 2, 4, 4, 2]
    first, second = np.concatenate(rounds[:3]), np.concatenate(rounds[3:])
    assert sorted(first) == sorted(second) == list(range(10))
    assert first.tolist() != second.tolist()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("value", [0, -1, True, 2.0])
def test_clients_per_round_out_of_range(kind, value):
    with pytest.raises((ValueError, TypeError), match="clients_per_round"):
        kind(value)


@pytest.mark.parametrize("kind", KINDS)
def test_more_clients_than_there_are(kind):
    kind(604).check(604)
    with pytest.raises(
        ValueError, match="clients_per_round must be at most the 604 training clients, got 1,000"
    ):
        kind(1000).check(604)
