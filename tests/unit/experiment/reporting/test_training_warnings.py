"""What is said of clients whose rounds came to nothing."""

import pytest
from tests.unit.experiment.training.test_train import ALGORITHM, MODEL, TRAIN, VALIDATION

from fedrecon.algorithms._fedrecon import fedrecon
from fedrecon.experiment.console.progress import Pace, describe
from fedrecon.experiment.reporting.training_warnings import training_warnings
from fedrecon.experiment.storage.metrics_log import TRAINING, Records, Row
from fedrecon.experiment.training.evaluation_rows import Evaluated
from fedrecon.experiment.training.train import train
from fedrecon.solvers._gradient import Solver
from fedrecon.solvers._optimizers import optimizer


def records(**counts):
    found = Records()
    for name, values in {"clients": [10, 10, 10], **counts}.items():
        found.append(
            Row(i, "train", TRAINING, "total", name, float(x)) for i, x in enumerate(values, start=1)
        )
    return found


def test_nothing_is_said_where_all_is_well():
    assert training_warnings(records(dropped=[0, 0, 0], empty=[1, 1, 1])) == []
    assert training_warnings(Records()) == []


def test_dropped_updates_are_told_with_their_rounds():
    (said,) = training_warnings(records(dropped=[0, 2, 5]))
    assert said.startswith("7 of 30 updates, of rounds 2 to 3, were dropped as not finite")
    assert "learning rate" in said


def test_clients_without_a_query_example_are_told_where_they_are_many():
    counts = records(empty=[4, 4, 4])
    (said,) = training_warnings(counts)
    assert said.startswith("12 of 30 updates changed nothing") and "batch size" in said
    assert training_warnings(counts, many=0.5) == []


def test_a_run_that_diverges_warns(tmp_path):
    wild = Solver(optimizer("sgd", learning_rate=1e30), 2)
    algorithm = fedrecon(MODEL, wild, wild, optimizer("sgd", learning_rate=1.0))
    dropped = pytest.warns(RuntimeWarning, match=r"updates, of rounds \d to 3, were dropped as not finite")
    nothing = pytest.warns(RuntimeWarning, match="no metric of 'validation' is a finite number")
    with dropped, nothing, pytest.warns(RuntimeWarning, match="the run diverged: "):
        train(algorithm, TRAIN, 3, clients_per_round=5, evaluate=VALIDATION, out=tmp_path / "run")
    assert "were dropped as not finite" in (tmp_path / "run" / "summary.md").read_text()


def test_a_run_that_does_not_diverge_warns_of_nothing():
    train(ALGORITHM, TRAIN, 1, clients_per_round=5)  # warnings are errors here


def test_lines_tell_of_dropped_updates_and_large_losses_shortly():
    report = Evaluated(3, 9, None, {"loss": 3.1e32, "dropped": 0.25}, {}, 1.0)
    line = describe(report, Pace())
    assert "loss 3.100e+32" in line and "25.0% of the updates dropped" in line
    assert "dropped" not in describe(report._replace(training={"loss": 1.0, "dropped": 0.0}), Pace())
