"""The groups of clients on the curve by examples."""

import itertools

import numpy as np
import pytest
from rich.console import Console

from fedrecon.experiment.analysis import curves
from fedrecon.experiment.analysis.curves import GROUPS, groups_by_size
from fedrecon.experiment.config import resolve
from fedrecon.experiment.storage.metrics_log import SEEN
from fedrecon.experiment.training.run_experiment import run_experiment


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


def test_curves_of_seen_clients_that_keep_what_compression_left_out(tmp_path, monkeypatch):
    """The algorithm with fewer steps has the states that the run kept, the residual among them."""
    random = np.random.default_rng(0)
    lines = [f"{u},{i},{random.integers(1, 6)}" for u in range(12) for i in random.permutation(9)[:8]]
    (tmp_path / "ratings.csv").write_text("userId,movieId,rating\n" + "\n".join(lines) + "\n")
    monkeypatch.setattr(curves, "STEPS", (1, 3))
    monkeypatch.setattr(curves, "SHARES", (0.5, 1.0))
    monkeypatch.setattr("fedrecon.experiment.reporting.plots.write", lambda *_: [])
    monkeypatch.setattr("fedrecon.experiment.reporting.curve_plots.write", lambda *_: [])
    given = {
        "task": "movielens",
        "data": {"path": str(tmp_path / "ratings.csv"), "held_out": {"validation": 0.3}},
        "model": {"factors": 2, "global_bias": 3.0},
        "training": {"rounds": 2, "clients_per_round": 4},
        "compression": {"top": 0.3, "error_feedback": True},
    }
    config, screen = resolve(given, "test"), Console(quiet=True)
    run_experiment(config, tmp_path / "run", screen)
    points = curves.draw(tmp_path / "run", config, None, SEEN + "validation", screen)
    assert [(p.curve, p.x) for p in points][:4] == [
        ("steps", 1),
        ("steps", 3),
        ("support", 0.5),
        ("support", 1),
    ]
    assert points[0].metrics["rmse"] != points[1].metrics["rmse"]
