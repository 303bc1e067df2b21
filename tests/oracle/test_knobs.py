"""The library against the NumPy transcription, for the settings that the reference runs lack."""

from dataclasses import replace
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
import pytest
from tests.oracle import algorithm1, optimizers
from tests.oracle.algorithm1 import Ridge, Settings, Stage
from tests.oracle.factorization import Penalty, Ratings
from tests.oracle.test_library import Given

from fedrecon.algorithm import by_examples, uniform
from fedrecon.algorithms.fedrecon import fedrecon
from fedrecon.data import AlternateBatches, AlternateExamples, Fraction, NoSplit
from fedrecon.evaluation import evaluate
from fedrecon.federation.clients import Clients
from fedrecon.model import without_tables
from fedrecon.newton import Newton
from fedrecon.optimizers import optimizer
from fedrecon.simulation import Simulation
from fedrecon.solver import Solver
from fedrecon.tasks.movielens.model import matrix_factorization

ITEMS, FACTORS, OFFSET = 30, 4, 3.5
SPLITS: dict[str, tuple[Any, Any]] = {
    "batches": (AlternateBatches(3), algorithm1.alternate_batches(3)),
    "examples": (AlternateExamples(), algorithm1.alternate_examples()),
    "fraction": (Fraction(0.5), lambda n: (np.arange(-(-n // 2)), np.arange(-(-n // 2), n))),
    "none": (NoSplit(), algorithm1.no_split()),
}
OPTIMIZERS: dict[str, tuple[Any, Any]] = {
    "sgd": (optimizer("sgd", learning_rate=0.1), optimizers.sgd(0.1)),
    "momentum": (optimizer("sgd", learning_rate=0.05, momentum=0.9), optimizers.momentum(0.05)),
    "adam": (optimizer("adam", learning_rate=0.02), optimizers.adam(0.02)),
    "adagrad": (optimizer("adagrad", learning_rate=0.1), optimizers.adagrad(0.1)),
    "yogi": (optimizer("yogi", learning_rate=0.02), optimizers.yogi(0.02)),
}


class Case(NamedTuple):
    """Settings of both; stages are keyword arguments that both share, with an optimiser's name."""

    split: str = "batches"
    reconstruct: dict[str, Any] | None = None  # None is exact
    update: dict[str, Any] = {"optimizer": "sgd", "batch_size": 3}  # noqa: RUF012 - never changed
    server: str = "sgd"
    joint: bool = False
    uniform: bool = False
    biases: bool = False
    penalty: float = 0.0


SGD = {"optimizer": "sgd", "batch_size": 3}
CASES = {
    "examples split, epochs and limits": Case(
        "examples", {**SGD, "epochs": 3, "max_steps": 5}, {**SGD, "epochs": 2, "max_steps": 4}
    ),
    "fraction, growing epochs": Case("fraction", {**SGD, "epochs": 3, "growing_epochs": True}, SGD),
    "unsplit, momentum, uniform": Case(
        "none", {"optimizer": "momentum", "batch_size": 3}, SGD, "momentum", uniform=True
    ),
    "sums of whole sets": Case(
        "batches",
        {"optimizer": "sgd", "batch_size": None, "reduction": "sum", "epochs": 2},
        {"optimizer": "sgd", "batch_size": None, "reduction": "sum"},
        "adam",
    ),
    "adam rows": Case("batches", SGD, {"optimizer": "adam", "batch_size": 3}, "yogi"),
    "adagrad": Case("batches", {"optimizer": "adagrad", "batch_size": 3}, SGD, "adagrad"),
    "joint, biases, penalty": Case("batches", SGD, SGD, joint=True, biases=True, penalty=0.3),
    "exact": Case("batches", None, SGD, biases=True, penalty=2.0),
}


def draw(repeated: bool) -> tuple[list[Ratings], np.ndarray]:
    """Clients of 1 to 17 ratings, some items rated twice where `repeated`; and four cohorts of six."""
    rng = np.random.default_rng(1)
    clients = []
    for size in (1, 2, 5, 7, 12, 17, 9, 14):
        items = rng.choice(ITEMS, size, replace=repeated)
        clients.append(Ratings(items, rng.integers(1, 6, size).astype(np.float64)))
    return clients, np.stack([rng.choice(len(clients), 6, replace=False) for _ in range(4)])


def stage(given: dict[str, Any] | None, side: int) -> Any:
    """The library's stage or the transcription's."""
    if given is None:
        return (Newton(), Ridge())[side]
    made = {**given, "optimizer": OPTIMIZERS[given["optimizer"]][side]}
    return (Solver, Stage)[side](**made)


REPEATED = ("examples split, epochs and limits", "adam rows", "joint, biases, penalty")


@pytest.mark.parametrize("name", CASES)
@pytest.mark.filterwarnings("ignore:.*does not treat the rows:UserWarning")
def test_knob(name: str) -> None:
    case, repeated = CASES[name], name in REPEATED
    clients, cohorts = draw(repeated)
    rng = np.random.default_rng(2)
    start: dict[str, Any] = {"item_factors": rng.normal(0, 0.3, (ITEMS, FACTORS)).astype(np.float32)}
    local: dict[str, Any] = {"user_factors": rng.normal(0, 0.3, FACTORS).astype(np.float32)}
    item, user = {"factors": start["item_factors"]}, {"factors": jnp.asarray(local["user_factors"])}
    if case.biases:
        start["item_bias"], local["user_bias"] = np.zeros(ITEMS), np.zeros(())
        item["bias"], user["bias"] = np.zeros(ITEMS, np.float32), jnp.zeros(())

    ours, theirs = SPLITS[case.split]
    settings = Settings(
        stage(case.reconstruct, 1),
        stage(case.update, 1),
        OPTIMIZERS[case.server][1],
        split=theirs,
        evaluation_split=theirs,
        joint=case.joint,
        client_weight="uniform" if case.uniform else "examples",
        penalty=Penalty(case.penalty, case.penalty),
        offset=OFFSET,
    )
    wanted, metrics = algorithm1.run(settings, start, cohorts, clients, lambda round, client: local)

    model = matrix_factorization(
        ITEMS,
        FACTORS,
        item_bias=case.biases,
        user_bias=case.biases,
        global_bias=OFFSET,
        user_penalty=case.penalty,
        user_bias_penalty=case.penalty,
    )
    model = replace(model, init_local=lambda global_params, key: {"user": user})
    algorithm = fedrecon(
        model if name != "adagrad" else without_tables(model),
        stage(case.reconstruct, 0),
        stage(case.update, 0),
        OPTIMIZERS[case.server][0],
        ours,
        case.joint,
        uniform if case.uniform else by_examples,
    )
    data = Clients.from_arrays({i: {"item": x.items, "rating": x.ratings} for i, x in enumerate(clients)})
    simulation = Simulation(algorithm, data, Given(cohorts))
    result: Any = None
    for result, want in zip(simulation.rounds(simulation.init({"item": item}), 4), metrics, strict=True):
        found = result.metrics()
        assert found["mse"].weight == want["examples"]
        for metric in ("mse", "accuracy"):
            np.testing.assert_allclose(found[metric].value(), want[metric], rtol=1e-4, atol=1e-6)
    for leaf, x in result.state.global_params["item"].items():
        np.testing.assert_allclose(x, wanted[f"item_{leaf}"], rtol=1e-4, atol=2e-5)

    scores = [algorithm1.evaluate(settings, wanted, x, 4, local) for x in clients]
    over = evaluate(algorithm, result.state, data, split=ours).over_examples()
    for metric, value in algorithm1.pooled(scores).items():
        if metric in over:
            np.testing.assert_allclose(over[metric], value, rtol=1e-4, atol=1e-6)
