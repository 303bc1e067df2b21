"""The groups of clients on the curve by examples."""

import itertools

import numpy as np
import pytest

from fedrecon.experiment.analysis.curves import GROUPS, groups_by_size


@pytest.mark.parametrize(
    "sizes",
    [
        [7],
        [5, 5, 5, 5],
        [1, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 3],
        np.random.default_rng(0).geometric(0.05, 200),
        np.random.default_rng(1).integers(20, 24, 300),
        np.arange(1000),
    ],
)
def test_groups_have_whole_numbers_of_their_own_and_all_clients(sizes):
    sizes = np.asarray(sizes)
    groups = groups_by_size(sizes)
    labels = [label for label, _ in groups]
    assert all(type(label) is int for label in labels)
    assert labels == sorted(set(labels)) and 1 <= len(labels) <= GROUPS
    assert sorted(np.concatenate([members for _, members in groups])) == list(range(len(sizes)))
    for label, members in groups:
        assert label == round(sizes[members].mean())
    for (_, low), (_, high) in itertools.pairwise(groups):
        assert sizes[low].max() < sizes[high].min()


def test_many_different_sizes_make_groups_of_as_many_clients():
    counts = [len(members) for _, members in groups_by_size(np.arange(8000))]
    assert counts == [1000] * GROUPS
