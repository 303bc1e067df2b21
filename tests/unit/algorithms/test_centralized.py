"""Pooled training against the same steps by hand."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedrecon.algorithms._centralized import centralized
from fedrecon.core._pooled_view import pooled
from fedrecon.core._splits import AlternateExamples, HeldOut
from fedrecon.data._clients import Clients
from fedrecon.data._holdout import hold_out
from fedrecon.data._pooling import in_batches, numbered, raw_bytes
from fedrecon.data._sampling import Passes
from fedrecon.errors import DataError
from fedrecon.evaluation._evaluate import evaluate
from fedrecon.models._matrix_factorization import matrix_factorization
from fedrecon.simulation._simulation import Simulation
from fedrecon.solvers._newton import Newton
from fedrecon.solvers._optimizers import optimizer

ITEMS, FACTORS, RATE = 7, 3, 0.1
MODEL = matrix_factorization(ITEMS, FACTORS, init_scale=0.5)


def clients(count=5, seed=0):
    draw = np.random.default_rng(seed)

    def one():
        size = int(draw.integers(4, 7))
        return {"item": draw.permutation(ITEMS)[:size], "rating": draw.normal(size=size).astype(np.float32)}

    return Clients.from_arrays({f"user {i}": one() for i in range(count)})


def trained(rounds=3, batch=4, cohort=2):
    everyone = numbered(clients())
    batches = in_batches(everyone, batch, seed=1)
    algorithm = centralized(MODEL, len(everyone), Newton(damping=1e-6), optimizer("sgd", learning_rate=RATE))
    simulation = Simulation(algorithm, batches, Passes(cohort))
    state = simulation.init()
    start = jax.device_get(state.global_params)
    for round in simulation.rounds(state, rounds):
        state = round.state
        assert round.bytes_down == round.bytes_up == round.dense_bytes_down == round.dense_bytes_up == 0
    cohorts = [Passes(cohort).indices(r, batches.num_examples, 0) for r in range(rounds)]
    return algorithm, state, start, [[batches[batches.ids[i]] for i in c] for c in cohorts]


def test_rounds_are_steps_of_gradient_descent_on_the_pooled_data():
    _, state, (items, users), cohorts = trained()
    V, U = items["item"]["factors"].copy(), users["user"]["factors"].copy()
    for cohort in cohorts:
        rows = {f: np.concatenate([batch[f] for batch in cohort]) for f in ("item", "rating", "row")}
        error = np.sum(V[rows["item"]] * U[rows["row"]], 1) - rows["rating"]
        dV, dU = np.zeros_like(V), np.zeros_like(U)
        np.add.at(dV, rows["item"], 2 * error[:, None] * U[rows["row"]] / len(error))
        np.add.at(dU, rows["row"], 2 * error[:, None] * V[rows["item"]] / len(error))
        V, U = V - RATE * dV, U - RATE * dU
    found_items, found_users = state.global_params
    np.testing.assert_allclose(found_items["item"]["factors"], V, atol=1e-5)
    np.testing.assert_allclose(found_users["user"]["factors"], U, atol=1e-5)


def test_a_seen_client_has_its_row_and_an_unseen_one_reconstructs():
    algorithm, state, _, _ = trained(1)
    V, U = (np.asarray(x) for x in jax.tree.leaves(state.global_params))
    seen = hold_out(numbered(clients()), {"test": 0.4})["test"]
    found = evaluate(algorithm, state, seen, split=HeldOut()).table()
    for i, client in enumerate(seen.ids.tolist()):
        x = seen[client]
        held = x["held_out"] == 1
        error = (V[x["item"][held]] @ U[i] - x["rating"][held]) ** 2
        assert found["mse"][i] == pytest.approx(np.mean(error), rel=1e-4)
    one = numbered(clients().take([1]), seen=False)
    unseen = evaluate(algorithm, state, one, split=AlternateExamples()).table()
    x = clients()["user 1"]
    A, y = V[x["item"][::2]], x["rating"][::2]
    u = np.linalg.solve(A.T @ A + 1e-6 * np.eye(FACTORS), A.T @ y)
    error = (V[x["item"][1::2]] @ u - x["rating"][1::2]) ** 2
    assert unseen["mse"][0] == pytest.approx(np.mean(error), rel=2e-2)


def test_mini_batches_lose_no_example():
    everyone = numbered(clients())
    batches = in_batches(everyone, 4, seed=3)
    assert batches.num_examples.tolist()[:-1] == [4] * (len(batches) - 1)

    def rows(x):
        return sorted(zip(*(x.column(f).tolist() for f in ("row", "item", "rating")), strict=True))

    assert rows(batches) == rows(everyone)
    other = in_batches(everyone, 4, seed=4)
    assert other.column("rating").tolist() != batches.column("rating").tolist()


def test_what_clients_give_away_is_their_examples():
    total = int(clients().num_examples.sum())
    item = clients().column("item").dtype.itemsize
    assert raw_bytes(in_batches(numbered(clients()), 4, seed=3)) == total * (item + 4)
    assert raw_bytes(clients().take([])) == 0


def test_what_cannot_be_pooled_is_refused():
    with pytest.raises(ValueError, match="penalty"):
        pooled(matrix_factorization(ITEMS, FACTORS, user_penalty=1.0), 3)
    with pytest.raises(ValueError, match="num_clients"):
        pooled(MODEL, 0)
    with pytest.raises(DataError, match="'row'"):
        numbered(numbered(clients()))
    with pytest.raises(DataError, match="batch_size"):
        in_batches(numbered(clients()), 0, seed=0)


def test_local_parameters_that_are_one_array_are_a_table_too():
    bare = replace(
        MODEL,
        init_local=lambda g, key: jnp.zeros(FACTORS),
        penalty=lambda g, local: 0.0,
        loss=lambda g, local, batch, key: MODEL.loss(g, {"user": {"factors": local}}, batch, key),
        metrics=lambda g, local, batch: MODEL.metrics(g, {"user": {"factors": local}}, batch),
    )
    assert {t.leaf for t in pooled(bare, 4).tables} == {"0/item/factors", "1"}
