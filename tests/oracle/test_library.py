"""The library against the reference implementation's runs."""

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

from fedrecon.algorithms._fedrecon import fedrecon
from fedrecon.core._model import without_tables
from fedrecon.core._splits import AlternateBatches, NoSplit
from fedrecon.data._clients import Clients
from fedrecon.evaluation._evaluate import evaluate
from fedrecon.models._matrix_factorization import matrix_factorization
from fedrecon.simulation._block_plan import Plan, Slot
from fedrecon.simulation._simulation import Simulation
from fedrecon.solvers._gradient import Solver
from fedrecon.solvers._optimizers import optimizer

DATA = Path(__file__).parent / "data"


@dataclass(frozen=True)
class Given:
    """Cohorts fixed in advance."""

    cohorts: Any

    def indices(self, round: int, num_examples: Any, seed: int) -> Any:
        return self.cohorts[round]

    def most(self, num_clients: int) -> int:
        return self.cohorts.shape[1]

    def check(self, num_clients: int) -> None:
        pass


PLANS = {
    "one by one": Plan((Slot(12, 1, 60),)),
    "blocks of 5": Plan((Slot(3, 5, 67),)),
    "two lengths": Plan((Slot(2, 3, 20), Slot(1, 12, 60))),
}
CASES = [(True, plan) for plan in PLANS] + [(False, "blocks of 5")]


@pytest.mark.parametrize(("tables", "plan"), CASES)
@pytest.mark.parametrize("name", ["alternate_batches", "many_steps", "no_split"])
def test_reference_run(name, tables, plan):
    settings = json.loads((DATA / f"{name}.json").read_text())
    arrays = np.load(DATA / f"{name}.npz")
    clients = Clients.from_columns(
        np.arange(60), arrays["client_offsets"], {"item": arrays["items"], "rating": arrays["ratings"]}
    )
    start = {"user": {"factors": jnp.asarray(arrays["initial_user_factors"])}}
    model = replace(matrix_factorization(80, 8), init_local=lambda global_params, key: start)
    batch = settings["batch_size"]
    algorithm = fedrecon(
        model if tables else without_tables(model),
        Solver(
            optimizer("sgd", learning_rate=settings["reconstruction_learning_rate"]),
            batch,
            epochs=settings["reconstruction_epochs"],
            max_steps=settings["reconstruction_steps_max"],
        ),
        Solver(
            optimizer("sgd", learning_rate=settings["update_learning_rate"]),
            batch,
            max_steps=settings["update_steps_max"],
        ),
        optimizer("sgd", learning_rate=settings["server_learning_rate"]),
        split=AlternateBatches(batch) if settings["split"] else NoSplit(),
    )
    simulation = Simulation(algorithm, clients, Given(arrays["train_clients"]), plan=PLANS[plan])
    state = simulation.init({"item": {"factors": arrays["initial_item_factors"]}})
    for result, wanted in zip(simulation.rounds(state, settings["rounds"]), settings["train"], strict=True):
        metrics = result.metrics()
        assert metrics["mse"].weight == wanted["examples"]
        for metric in ("mse", "accuracy"):
            np.testing.assert_allclose(metrics[metric].value(), wanted[metric], rtol=1e-5)
    np.testing.assert_allclose(
        result.state.global_params["item"]["factors"], arrays["final_item_factors"], atol=1e-5, rtol=0
    )
    unseen = clients.take(arrays["evaluation_clients"])
    found = evaluate(algorithm, result.state, unseen, split=AlternateBatches(batch))
    for metric in ("mse", "accuracy"):
        wanted = settings["evaluation"][metric]
        np.testing.assert_allclose(found.over_examples()[metric], wanted, rtol=1e-5)
    assert found.per_client["mse"].weight.sum() == settings["evaluation"]["examples"]
