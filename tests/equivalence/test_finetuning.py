"""Algorithms that are others where nothing is left to differ."""

from typing import Any

import jax
import numpy as np
from tests.small import Given, federation, rating_model, sgd, solver

from fedrecon.algorithms._fedavg import fedavg
from fedrecon.algorithms._fedrecon import fedrecon
from fedrecon.algorithms._finetuning import finetuning
from fedrecon.algorithms._reptile import reptile
from fedrecon.core._model import fully_global
from fedrecon.core._splits import AlternateBatches, NoSplit
from fedrecon.evaluation._evaluate import evaluate
from fedrecon.simulation._block_plan import Plan, Slot
from fedrecon.simulation._simulation import Simulation

MODEL, CLIENTS = rating_model(), federation(lengths=(0, 1, 5, 8))
PLAN = Plan((Slot(1, 4, 10),))
TRAINED = fedavg(MODEL, solver(0.05), sgd(0.7))


def after_a_round(algorithm: Any) -> Any:
    simulation = Simulation(algorithm, CLIENTS, Given([np.arange(4)]), plan=PLAN)
    return next(simulation.rounds(simulation.init(), 1))


def scores(algorithm: Any, state: Any) -> Any:
    return evaluate(algorithm, state, CLIENTS, split=AlternateBatches(2), plan=PLAN).per_client


def no_steps(objective: Any, params: Any, examples: Any, key: Any, round: Any = None) -> Any:
    return params, {}


def assert_same(a: Any, b: Any) -> None:
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-6), a, b)


def test_fine_tuning_without_a_step_is_its_algorithm():
    algorithm = finetuning(TRAINED, no_steps)
    done, wanted = after_a_round(algorithm), after_a_round(TRAINED)
    assert_same((done.state, done.metrics()), (wanted.state, wanted.metrics()))
    found = scores(TRAINED, done.state)
    assert_same(scores(algorithm, done.state), found)
    tuned = scores(finetuning(TRAINED, solver()), done.state)
    assert np.abs(tuned["mse"].total - found["mse"].total).max() > 0.1


def test_fedrecon_without_local_parameters_unsplit_is_federated_averaging():
    algorithm = fedrecon(fully_global(MODEL), no_steps, solver(0.05), sgd(0.7), NoSplit())
    done, wanted = after_a_round(algorithm), after_a_round(TRAINED)
    assert_same((done.state, done.metrics()), (wanted.state, wanted.metrics()))
    assert_same(scores(algorithm, done.state), scores(TRAINED, done.state))


def test_reptile_trains_as_federated_averaging_and_serves_as_fine_tuning():
    stage = solver(0.05)
    algorithm = reptile(MODEL, stage, sgd(0.7), client_weight=TRAINED.hyperparameters["client_weight"])
    done = after_a_round(algorithm)
    assert_same(done.state, after_a_round(TRAINED).state)
    assert_same(scores(algorithm, done.state), scores(finetuning(TRAINED, stage), done.state))
