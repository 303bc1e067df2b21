"""What predictors that learn nothing reach, by hand."""

import jax
import numpy as np
import pytest

from fedrecon import AlternateBatches, Clients
from fedrecon.evaluation._evaluate import measure, model_metrics
from fedrecon.evaluation._rating_baselines import RatingBaselines, WithBaselines, split_baselines
from fedrecon.experiment.config import load
from fedrecon.models import matrix_factorization

RATINGS = {"a": [5.0, 4.0, 3.5, 1.0, 2.0], "b": [2.0], "c": [1.0, 5.0, 3.0]}


def test_both_are_scored_on_the_query_set():
    clients = Clients.from_arrays(
        {name: {"item": np.arange(len(x), dtype=np.int32), "rating": x} for name, x in RATINGS.items()}
    )
    algorithm = load().algorithm.build(matrix_factorization(5, 2))
    state = algorithm.init(jax.random.key(0))
    both = WithBaselines(model_metrics, RatingBaselines(3.0))
    measured = measure(algorithm, state, clients, split=AlternateBatches(2), scoring=both)
    evaluation, evaluations = split_baselines(measured)
    assert evaluation.over_examples() == pytest.approx(
        measure(algorithm, state, clients, split=AlternateBatches(2)).over_examples()
    )
    # Batches of two: the first is support, the second query, the third support.
    support, query = {"a": [5.0, 4.0, 2.0], "c": [1.0, 5.0]}, {"a": [3.5, 1.0], "c": [3.0]}
    level = {name: (sum(x) + 5 * 3.0) / (len(x) + 5) for name, x in support.items()}
    errors = {
        "training_mean": [3.0 - x for values in query.values() for x in values],
        "client_mean": [level[name] - x for name, values in query.items() for x in values],
    }
    assert set(evaluations) == set(errors)
    for name, wrong in errors.items():
        metrics = evaluations[name].over_examples()
        assert metrics["rmse"] == pytest.approx(np.sqrt(np.mean(np.square(wrong))), rel=1e-5)
        assert metrics["accuracy"] == pytest.approx(np.mean(np.abs(wrong) <= 0.5))
        assert evaluations[name].evaluated_clients == 2
