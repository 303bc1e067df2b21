import io
from types import SimpleNamespace

import pytest
from rich.console import Console

from fedrecon.experiment import config as configs
from fedrecon.experiment.analysis import seeds


@pytest.fixture
def screen():
    return Console(file=io.StringIO(), width=200)


def test_it_is_said_how_to_go_on(screen, tmp_path, monkeypatch):
    """Without --out the folder has a new name each time, so that the same command would begin anew."""
    began = []

    def run(config, out, screen, **_):
        began.append((config.seed, out))
        return SimpleNamespace(interrupted=True)

    monkeypatch.setattr(seeds, "run_experiment", run)
    ended = seeds.train_seeds(configs.load(None, ["seed=3"]), tmp_path / "runs", 5, screen)
    assert ended == (True, False)
    assert began == [(3, tmp_path / "runs" / "seed-3")]
    first, *_, last = screen.file.getvalue().splitlines()
    assert first == f"synthetic: 5 seeds, folder {tmp_path / 'runs'}"
    assert last == f"To go on: the same command, with --seeds 5 --out {tmp_path / 'runs'}"


def test_a_metric_that_not_all_seeds_have_is_left_out():
    """Accuracy is measured only where all training ratings are stars, which the split may decide."""

    def result(**metrics):
        return {
            "test": {"recon_eval": {"examples": metrics, "clients": metrics}},
            "seconds": {"total": 1.0},
        }

    combined = seeds.statistics([result(rmse=1.0, accuracy=0.5), result(rmse=3.0)])
    means = combined["test"]["recon_eval"]["examples"]
    assert list(means) == ["rmse"] and means["rmse"]["mean"] == 2.0
