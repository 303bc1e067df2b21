"""ReconEval: who is scored on what, and the numbers that follow."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tests.small import ITEMS, federation, rating_model, sgd, solver

from fedrecon.algorithms._base import Broadcast
from fedrecon.algorithms._fedavg import fedavg
from fedrecon.algorithms._fedrecon import fedrecon
from fedrecon.algorithms._finetuning import finetuning
from fedrecon.core._examples import Examples
from fedrecon.core._mean import Mean
from fedrecon.core._splits import AlternateBatches, RandomFraction
from fedrecon.data._clients import Clients
from fedrecon.errors import DataError
from fedrecon.evaluation._evaluate import evaluate, model_metrics
from fedrecon.evaluation._evaluation import Evaluation
from fedrecon.simulation._block_plan import Plan, Slot

CLIENTS = federation(lengths=(7, 0, 3, 2, 10))
PAIRS = AlternateBatches(2)
# A limit on the steps, which holds for the reconstruction and not for the query set.
ALGORITHM = fedrecon(rating_model(), solver(max_steps=2), solver(max_steps=1), sgd(1.0), PAIRS)


@pytest.fixture(scope="module")
def state():
    return jax.jit(ALGORITHM.init)(jax.random.key(0))


@pytest.fixture(scope="module")
def evaluation(state):
    return evaluate(ALGORITHM, state, CLIENTS, split=PAIRS, plan=Plan((Slot(1, 2, 12),)))


def test_every_client_is_reconstructed_and_scored_on_all_its_query_set(state, evaluation):
    """The last blocks are not full, and one client has no example."""
    params, model = state.global_params, ALGORITHM.model
    personalize = jax.jit(
        lambda support: ALGORITHM.personalize(Broadcast(params, state.round), (), support, jax.random.key(0))
    )
    assert evaluation.ids.tolist() == CLIENTS.ids.tolist()
    for i, client in enumerate(CLIENTS.ids):
        data = CLIENTS[client]
        n = len(data["rating"])
        support = np.arange(n) // 2 % 2 == 0
        size = int(support.sum())
        padded = {f: np.concatenate([x[support], np.zeros(8 - size, x.dtype)]) for f, x in data.items()}
        local = personalize(Examples(padded, jnp.arange(8) < size))
        wanted = model.metrics(params, local, {f: x[~support] for f, x in data.items()})
        for name in ("mse", "hits"):
            total, weight = (x[i] for x in evaluation.per_client[name])
            assert weight == n - size
            np.testing.assert_allclose(total, wanted[name].total.sum(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("plan", [None, Plan((Slot(3, 1, 3), Slot(1, 4, 11)))], ids=["chosen", "two lengths"])
def test_plans_change_nothing(state, evaluation, plan):
    found = evaluate(ALGORITHM, state, CLIENTS, split=PAIRS, plan=plan)
    for name, mean in evaluation.per_client.items():
        np.testing.assert_allclose(found.per_client[name].total, mean.total, rtol=1e-5)
        np.testing.assert_array_equal(found.per_client[name].weight, mean.weight)


def test_draws_depend_on_seed_and_client_alone(state):
    plan = Plan((Slot(1, 2, 12),))

    def run(clients, seed):
        return evaluate(ALGORITHM, state, clients, split=RandomFraction(), seed=seed, plan=plan)

    whole, part = run(CLIENTS, 0), run(CLIENTS.take([4, 0]), 0)
    np.testing.assert_array_equal(part.per_client["mse"].total, whole.per_client["mse"].total[[4, 0]])
    assert (run(CLIENTS, 1).per_client["mse"].total != whole.per_client["mse"].total)[[0, 2, 4]].all()


def test_an_algorithm_without_local_parameters(state):
    algorithm = fedavg(rating_model(), solver(), sgd(1.0))
    start = jax.jit(algorithm.init)(jax.random.key(0))
    found = evaluate(algorithm, start, CLIENTS, split=PAIRS, plan=Plan((Slot(1, 2, 12),)))
    assert found.per_client["mse"].weight.tolist() == [3, 0, 1, 0, 4]


def test_nobody(state):
    found = evaluate(ALGORITHM, state, CLIENTS.take([]), split=PAIRS)
    assert found.per_client == {}
    counts = {"evaluated_clients": 0, "asked_clients": 0}
    assert found.summary() == {"examples": {}, "clients": {}, "distribution": {}, **counts}
    assert found.table()["weight"].tolist() == []


def test_ids_out_of_range(state):
    clients = Clients.from_arrays({"ann": {"item": [ITEMS], "rating": [1.0]}})
    with pytest.raises(DataError, match=r"client 'ann' has \[40\] at example 0"):
        evaluate(ALGORITHM, state, clients, split=PAIRS)


def test_ids_out_of_range_of_a_copy(state):
    clients = Clients.from_arrays({"ann": {"item": [0, 1, ITEMS], "rating": [1.0, 2.0, 3.0]}})
    with pytest.raises(DataError, match=r"client 'ann' has \[40\] at example 2"):
        evaluate(finetuning(ALGORITHM, solver()), state, clients, split=PAIRS)
    with pytest.raises(DataError, match="are indexed by the field 'item', but the clients have"):
        evaluate(finetuning(ALGORITHM, solver()), state, clients.select("rating"), split=PAIRS)


# ---- numbers ---------------------------------------------------------------------------------------------

WEIGHTS: Any = np.array([1.0, 0.0, 3.0])
FOUND = Evaluation(
    np.array(["ann", "bob", "cid"], object),
    {
        "mse": Mean(np.array([4.0, 0.0, 3.0]), WEIGHTS),
        "cross_entropy": Mean(np.array([0.0, 0.0, 6.0]), WEIGHTS),
    },
)


def test_over_examples_and_over_clients():
    assert FOUND.over_examples() == pytest.approx(
        {"mse": 7 / 4, "rmse": (7 / 4) ** 0.5, "cross_entropy": 1.5, "perplexity": np.exp(1.5)}
    )
    assert FOUND.over_clients() == pytest.approx(
        {"mse": 2.5, "rmse": (2 + 1) / 2, "cross_entropy": 1.0, "perplexity": (1 + np.exp(2)) / 2}
    )
    assert "3 clients, mse 1.7500" in repr(FOUND)


def test_distribution_leaves_out_clients_without_examples():
    deciles = FOUND.distribution()["rmse"]
    assert (deciles["p0"], deciles["p50"], deciles["p100"]) == (1.0, 1.5, 2.0)
    assert list(deciles) == [f"p{d}" for d in range(0, 101, 10)]


def test_a_client_that_diverged_is_not_left_out():
    found = Evaluation(np.arange(3), {"mse": Mean(np.array([4.0, 0.0, np.nan]), WEIGHTS)})
    assert all(np.isnan(x["rmse"]) for x in (found.over_examples(), found.over_clients()))
    assert np.isnan(found.distribution()["rmse"]["p50"])
    found = Evaluation(np.arange(3), {"mse": Mean(np.array([4.0, 0.0, np.inf]), WEIGHTS)})
    assert found.over_clients()["mse"] == np.inf


def test_table():
    table = FOUND.table()
    assert list(table) == ["client", "weight", "mse", "cross_entropy", "rmse", "perplexity"]
    assert table["weight"].tolist() == [1, 0, 3]
    np.testing.assert_array_equal(table["rmse"], [2, np.nan, 1])


def test_summary_is_of_plain_numbers():
    summary = FOUND.summary()
    counts = {"evaluated_clients", "asked_clients"}
    assert set(summary) == {"examples", "clients", "distribution"} | counts
    assert all(type(summary[name]) is int for name in counts)
    assert all(type(x) is float for part in ("examples", "clients") for x in summary[part].values())
    assert all(type(x) is float for deciles in summary["distribution"].values() for x in deciles.values())


def test_clients_without_a_test_example_are_asked_and_not_evaluated(state, evaluation):
    assert (evaluation.evaluated_clients, evaluation.asked_clients) == (3, 5)
    assert repr(evaluation).startswith("Evaluation(3 of 5 clients, ")
    whole = evaluate(ALGORITHM, state, CLIENTS.take([0, 4]), split=PAIRS)
    assert repr(whole).startswith("Evaluation(2 clients, ")


def test_an_evaluation_that_measures_nothing_warns(state):
    with pytest.warns(RuntimeWarning, match="none of the 2 clients of 'clients' was evaluated: the"):
        evaluate(ALGORITHM, state, CLIENTS.take([1, 3]), split=PAIRS)
    broken = state._replace(global_params=jax.tree.map(lambda x: x * jnp.nan, state.global_params))

    def squares(*arguments):
        return {"mse": model_metrics(*arguments)["mse"]}  # for a NaN is no hit, and that is a number

    with pytest.warns(RuntimeWarning, match="no metric of 'clients' is a finite number"):
        evaluate(ALGORITHM, broken, CLIENTS.take([0]), split=PAIRS, scoring=squares)


def test_without_any_test_example_nothing_is_known():
    found = Evaluation(np.arange(2), {"mse": Mean(np.zeros(2), np.zeros(2))})
    assert all(np.isnan(x) for part in (found.over_examples(), found.over_clients()) for x in part.values())
    assert np.isnan(found.distribution()["rmse"]["p50"])


def test_a_scoring_must_sum_over_a_clients_examples(state):
    def scoring(model, global_params, local_params, support, query, key):
        metrics = model.metrics(global_params, local_params, query.batch)
        return {name: mean.where(query.mask) for name, mean in metrics.items()}

    with pytest.raises(
        ValueError, match=r"of a scoring must be a scalar Mean for each client, got the shape"
    ):
        evaluate(ALGORITHM, state, CLIENTS, split=PAIRS, scoring=scoring)
