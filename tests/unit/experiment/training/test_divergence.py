"""What makes a run one that came to nothing."""

import jax.numpy as jnp
import numpy as np
import pytest

from fedrecon.core._mean import Mean
from fedrecon.evaluation._evaluation import Evaluation
from fedrecon.experiment.storage.metrics_log import Records, Row
from fedrecon.experiment.training.divergence import divergence, last_evaluations

GOOD = {"w": jnp.zeros(3), "b": np.zeros(2, np.float16)}


def evaluation(total, weight=1.0, **more):
    means = {"mse": Mean(np.array([total]), np.array([weight])), **more}
    return Evaluation(np.arange(1), means)


def records(dropped, clients=10.0):
    made = Records()
    for round, count in enumerate(dropped, 1):
        made.append(
            Row(round, "train", "training", "total", name, float(value))
            for name, value in (("dropped", count), ("clients", clients))
        )
    return made


def test_a_run_that_is_well():
    assert divergence(GOOD, [evaluation(1.0)], records([0, 5, 5]), 1) is None
    assert divergence(GOOD, [], Records(), 0) is None


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_parameters_that_are_not_finite(value):
    params = {"w": jnp.zeros(3).at[1].set(value), "b": GOOD["b"]}
    assert divergence(params, [evaluation(1.0)], Records(), 0) == "the global parameter 'w' is not finite"


def test_large_parameters_are_finite():
    assert divergence({"w": jnp.full(3, 3e38)}, [], Records(), 0) is None


def test_an_evaluation_without_a_finite_metric():
    said = "the last evaluation has no finite metric"
    assert divergence(GOOD, [evaluation(np.nan), evaluation(np.inf)], Records(), 0) == said
    assert divergence(GOOD, [evaluation(np.nan), evaluation(1.0)], Records(), 0) is None
    hits = {"hits": Mean(np.zeros(1), np.ones(1))}
    assert divergence(GOOD, [evaluation(np.nan, **hits)], Records(), 0) is None


def test_clients_without_a_test_example_and_models_without_metrics_do_not_diverge():
    assert divergence(GOOD, [evaluation(0.0, 0.0)], Records(), 0) is None
    assert divergence(GOOD, [Evaluation(np.arange(1), {})], Records(), 0) is None


def test_dropped_updates_count_from_the_evaluation_before():
    assert divergence(GOOD, [], records([10, 10, 0, 9]), 2) is None
    said = divergence(GOOD, [], records([0, 0, 2, 9]), 2)
    assert said == "11 of the last 20 updates were dropped as not finite"
    assert divergence(GOOD, [], records([0, 0, 1, 9]), 2) is None  # half of them


def test_the_test_clients_may_have_met_other_parameters():
    sets = {"validation": evaluation(1.0), "test": evaluation(2.0)}
    assert last_evaluations(sets, ["validation"]) == [sets["validation"]]
    assert last_evaluations({"test": sets["test"]}, []) == [sets["test"]]
