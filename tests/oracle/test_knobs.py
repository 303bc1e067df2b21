"""The library against the NumPy transcription of Algorithm 1, for what the reference runs lack."""

import functools
from dataclasses import dataclass, field, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tests.oracle import algorithm1, optimizers
from tests.oracle.factorization import Penalty, Ratings
from tests.small import Given

from fedrecon.algorithms._building_blocks import by_examples, uniform
from fedrecon.algorithms._fedrecon import fedrecon
from fedrecon.core._model import without_tables
from fedrecon.core._splits import AlternateBatches, AlternateExamples, Fraction, NoSplit
from fedrecon.data._clients import Clients
from fedrecon.evaluation._evaluate import evaluate
from fedrecon.models._matrix_factorization import matrix_factorization
from fedrecon.simulation._block_plan import Plan, Slot
from fedrecon.simulation._simulation import Simulation
from fedrecon.solvers._gradient import Solver
from fedrecon.solvers._newton import Newton
from fedrecon.solvers._optimizers import optimizer, schedule

ITEMS, FACTORS, OFFSET = 50, 3, 3.0
LENGTHS = (0, 1, 4, 6, 7, 9, 12)
COHORTS = [[0, 6, 3, 5, 1], [4, 2, 6, 5, 3], [6, 3, 0, 1, 4]]
PLAN = Plan((Slot(2, 3, 12),))
RNG = np.random.default_rng(0)
# Even clients rate an item at most once, odd ones again and again.
RATINGS = [
    Ratings(
        RNG.choice(ITEMS, n, replace=False) if n % 2 == 0 else RNG.choice([0, 3, ITEMS - 1], n),
        RNG.integers(1, 6, n).astype(np.float64),
    )
    for n in LENGTHS
]
CLIENTS = Clients.from_arrays(
    {i: {"item": np.int32(r.items), "rating": r.ratings} for i, r in enumerate(RATINGS)}
)
DISTINCT = [0, 2, 3, 6]  # clients that never repeat an item
START = {"item_factors": RNG.normal(size=(ITEMS, FACTORS)), "item_bias": RNG.normal(size=ITEMS)}
LOCAL = {"user_factors": RNG.normal(size=FACTORS), "user_bias": np.asarray(0.25)}

# name: (ours, theirs). Their steps are small: rounding would grow with the numbers.
OPTIMIZERS = {
    "sgd": (optimizer("sgd", learning_rate=0.05), optimizers.sgd(0.05)),
    "momentum": (optimizer("sgd", learning_rate=0.02, momentum=0.9), optimizers.momentum(0.02)),
    "nesterov": (
        optimizer("sgd", learning_rate=0.02, momentum=0.9, nesterov=True),
        optimizers.momentum(0.02, nesterov=True),
    ),
    "adam": (optimizer("adam", learning_rate=0.05, eps=1e-3), optimizers.adam(0.05, epsilon=1e-3)),
    "adagrad": (optimizer("adagrad", learning_rate=0.05), optimizers.adagrad(0.05)),
    "yogi": (optimizer("yogi", learning_rate=0.05), optimizers.yogi(0.05)),
    "scheduled": (
        optimizer(
            "sgd",
            learning_rate=schedule("linear_schedule", init_value=0.5, end_value=0.0, transition_steps=4),
        ),
        optimizers.sgd(lambda t: 0.5 * (1 - t / 4)),
    ),
    "one": (optimizer("sgd", learning_rate=1.0), optimizers.sgd(1.0)),
}
SPLITS: dict[str, Any] = {
    "batches of 2": (AlternateBatches(2), algorithm1.alternate_batches(2)),
    "examples": (AlternateExamples(), algorithm1.alternate_examples()),
    "fraction": (Fraction(0.3), lambda n: algorithm1._by(np.arange(n) < np.ceil(0.3 * n - 1e-6))),
    "none": (NoSplit(), algorithm1.no_split()),
}


@dataclass(frozen=True)
class Knobs:
    """One setting, told once for both; stages are `(optimizer, batch_size, others)`."""

    reconstruct: tuple[str, int | None, dict[str, Any]] | None = ("sgd", 2, {})  # None for the exact one
    update: tuple[str, int | None, dict[str, Any]] = ("sgd", 2, {})
    server: str = "one"
    split: str = "batches of 2"
    joint: bool = False
    weight: Any = "examples"
    penalty: Penalty = field(default_factory=Penalty)
    biases: bool = False


TWICE = {"epochs": 2}
EXACT = Knobs(reconstruct=None, penalty=Penalty(2.0, 0.5), biases=True)
KNOBS = {
    "alternate examples": Knobs(split="examples"),
    "fraction, update epochs, step limits": Knobs(
        split="fraction",
        reconstruct=("sgd", 2, TWICE | {"max_steps": 3}),
        update=("sgd", 2, {"epochs": 3, "max_steps": 4}),
    ),
    "growing epochs, server with momentum": Knobs(
        reconstruct=("sgd", 3, {"epochs": 2, "adaptive_epochs": True}), server="momentum"
    ),
    "sums of whole sets, Yogi at the server, uniform weights": Knobs(
        reconstruct=("sgd", None, {"reduction": "sum"}),
        update=("sgd", None, {"reduction": "sum"}),
        server="yogi",
        weight="uniform",
    ),
    "momentum in both stages": Knobs(("momentum", 2, TWICE), ("nesterov", 2, TWICE), server="adagrad"),
    "Adam in both stages": Knobs(("adam", 2, TWICE), ("adam", 2, TWICE), server="adam"),
    "Adagrad and Yogi": Knobs(("yogi", 2, {}), ("adagrad", 2, {}), split="examples"),
    "schedules of the server and of steps": Knobs(
        ("scheduled", 2, {}), ("scheduled", 2, {}), server="scheduled"
    ),
    "joint": Knobs(joint=True, update=("sgd", 2, TWICE), biases=True, penalty=Penalty(0.5, 0.2)),
    "joint, unsplit, momentum": Knobs(joint=True, split="none", update=("momentum", 3, {})),
    "penalties and biases": Knobs(biases=True, penalty=Penalty(1.0, 0.3), reconstruct=("sgd", 2, TWICE)),
    "penalties in sums": Knobs(
        biases=True, penalty=Penalty(0.3, 0.1), reconstruct=("sgd", 2, {"reduction": "sum"})
    ),
    "ridge": EXACT,
    "ridge, joint, sums, Adam at the server": replace(
        EXACT, joint=True, update=("sgd", None, {"reduction": "sum"}), server="adam", weight="uniform"
    ),
}


def theirs(knobs: Knobs) -> algorithm1.Settings:
    def stage(made: Any) -> Any:
        if made is None:
            return algorithm1.Ridge()
        name, batch_size, others = made
        return algorithm1.Stage(OPTIMIZERS[name][1], batch_size, **others)

    return algorithm1.Settings(
        reconstruct=stage(knobs.reconstruct),
        update=stage(knobs.update),
        server=OPTIMIZERS[knobs.server][1],
        split=SPLITS[knobs.split][1],
        evaluation_split=SPLITS["examples"][1],
        joint=knobs.joint,
        client_weight=knobs.weight,
        penalty=knobs.penalty,
        offset=OFFSET,
    )


def ours(knobs: Knobs, tables: bool, start: dict[str, Any]) -> Any:
    def stage(made: Any) -> Any:
        if made is None:
            return Newton()
        name, batch_size, others = made
        return Solver(OPTIMIZERS[name][0], batch_size, **others)

    model = matrix_factorization(
        ITEMS,
        FACTORS,
        item_bias=knobs.biases,
        user_bias=knobs.biases,
        global_bias=OFFSET,
        user_penalty=knobs.penalty.factors,
        user_bias_penalty=knobs.penalty.bias,
    )
    local = {"factors": jnp.float32(LOCAL["user_factors"])}
    local |= {"bias": jnp.float32(LOCAL["user_bias"])} if knobs.biases else {}
    given = {"item": start}
    model = replace(
        model, init_global=lambda key: given, init_local=lambda global_params, key: {"user": local}
    )
    return fedrecon(
        model if tables else without_tables(model),
        stage(knobs.reconstruct),
        stage(knobs.update),
        OPTIMIZERS[knobs.server][0],
        SPLITS[knobs.split][0],
        knobs.joint,
        by_examples if knobs.weight == "examples" else uniform,
    )


def leaves(knobs: Knobs) -> tuple[dict[str, Any], dict[str, Any]]:
    """Global and local leaves that the transcription starts from."""
    if knobs.biases:
        return START, LOCAL
    return {"item_factors": START["item_factors"]}, {"user_factors": LOCAL["user_factors"]}


@functools.cache
def transcribed(name: str, clients: tuple[int, ...]) -> Any:
    knobs = KNOBS[name]
    start, local = leaves(knobs)
    cohorts = [[c for c in cohort if c in clients] for cohort in COHORTS]
    params, history = algorithm1.run(theirs(knobs), start, cohorts, RATINGS, lambda round, client: local)
    scored = [algorithm1.evaluate(theirs(knobs), params, r, len(cohorts), local) for r in RATINGS]
    return cohorts, params, history, scored


EVALUATED = ("fraction, update epochs, step limits", "growing epochs, server with momentum", "ridge")
# By rows with items that repeat; by rows with items that do not, whose positions are known; whole tables.
WAYS = {
    "rows": (True, range(len(LENGTHS))),
    "rows, distinct": (True, DISTINCT),
    "dense": (False, range(len(LENGTHS))),
}


def check(name: str, way: str) -> None:
    knobs, (tables, clients) = KNOBS[name], WAYS[way]
    cohorts, params, history, scored = transcribed(name, tuple(clients))
    start = {"factors": jnp.float32(START["item_factors"])}
    start |= {"bias": jnp.float32(START["item_bias"])} if knobs.biases else {}
    kept = CLIENTS.take(list(clients))
    place = {c: i for i, c in enumerate(clients)}
    sampling = Given([[place[c] for c in cohort] for cohort in cohorts])
    algorithm = ours(knobs, tables, start)
    simulation = Simulation(algorithm, kept, sampling, plan=PLAN)
    rounds = simulation.rounds(algorithm.init(jax.random.key(0)), len(cohorts))
    for done, wanted in zip(rounds, history, strict=True):
        found = done.metrics()
        for metric in ("mse", "accuracy"):
            np.testing.assert_allclose(found[metric].value(), wanted[metric], rtol=1e-4)
            assert found[metric].weight == wanted["examples"]
        assert (found["empty"].total, found["dropped"].total) == (wanted["empty"], wanted["dropped"])
    for leaf in start:
        result = done.state.global_params["item"][leaf]
        np.testing.assert_allclose(result, params[f"item_{leaf}"], rtol=1e-4, atol=1e-5)
    if name in EVALUATED and way == "rows":
        scores = evaluate(
            algorithm, done.state, CLIENTS, split=AlternateExamples(), plan=Plan((Slot(1, 7, 12),))
        )
        totals = np.array([x.squared_error for x in scored])
        np.testing.assert_allclose(scores.per_client["mse"].total, totals, rtol=1e-4, atol=1e-5)
        assert scores.per_client["accuracy"].total.tolist() == [x.hits for x in scored]
        assert scores.per_client["mse"].weight.tolist() == [x.examples for x in scored]


@pytest.mark.parametrize("name", KNOBS)
def test_by_rows(name):
    check(name, "rows")


@pytest.mark.parametrize("name", ["alternate examples", "joint", "ridge"])
@pytest.mark.parametrize("way", ["rows, distinct", "dense"])
def test_other_ways(name, way):
    check(name, way)


def test_the_metrics_are_not_all_alike():
    """Accuracies that were always 0 would show nothing."""
    found = [h["accuracy"] for name in KNOBS for h in transcribed(name, tuple(range(len(LENGTHS))))[2]]
    assert len({round(x, 3) for x in found if x > 0}) > 10
    assert jax.tree.leaves(found)
