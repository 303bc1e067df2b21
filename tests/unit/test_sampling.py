"""Cohorts: pure functions of round and seed, with the law that they promise."""

import numpy as np
import pytest

from fedrecon.federation.sampling import Passes, Poisson, Sampling, Uniform, Weighted

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
