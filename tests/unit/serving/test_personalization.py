"""Inference: local parameters and recommendations of many clients."""

import jax
import numpy as np
import pytest
from tests.small import rating_model, sgd, solver

from fedrecon import Clients, Model, Newton, fedavg, fedrecon, finetuning
from fedrecon.core._splits import NoSplit
from fedrecon.evaluation._evaluate import evaluate
from fedrecon.models._matrix_factorization import matrix_factorization
from fedrecon.serving import _personalization as personalization
from fedrecon.serving._personalization import Personalization, TopK, block_lengths
from fedrecon.simulation._block_plan import clients_in_block, plan_evaluation

ITEMS, FACTORS = 30, 4


def ratings(lengths, seed=0):
    rng = np.random.default_rng(seed)
    return Clients.from_arrays(
        {
            i: {
                "item": rng.choice(ITEMS, n, replace=False).astype(np.int32),
                "rating": rng.integers(1, 6, n).astype(np.float32),
            }
            for i, n in enumerate(lengths)
        }
    )


@pytest.fixture(scope="module")
def trained():
    model = matrix_factorization(ITEMS, FACTORS, init="normal", init_scale=0.7, user_penalty=0.3)
    algorithm = fedrecon(model, Newton(), solver(), sgd())
    return algorithm, jax.jit(algorithm.init)(jax.random.key(3))


CLIENTS = ratings([3, 0, 12, 1, 30, 29, 7, 8, 25, 2])


def ridge(table, clients):
    found = []
    for client in clients.ids.tolist():
        data = clients[client]
        x = table[data["item"]].astype(float)
        found.append(np.linalg.solve(x.T @ x + 0.3 * np.eye(FACTORS), x.T @ data["rating"]))
    return np.array(found)


def test_newton_is_ridge_regression_on_all_examples(trained):
    algorithm, state = trained
    found = Personalization(algorithm, state, CLIENTS.num_examples, clients_per_block=4)(CLIENTS)
    wanted = ridge(np.asarray(state.global_params["item"]["factors"]), CLIENTS)
    np.testing.assert_allclose(found["user/factors"], wanted, rtol=1e-5, atol=1e-5)
    assert np.abs(found["user/factors"][1]).max() < 1e-6  # without examples the penalty decides


def test_neither_parts_nor_lengths_of_blocks_change_a_client(trained):
    algorithm, state = trained
    whole = Personalization(algorithm, state, CLIENTS.num_examples, clients_per_block=4)
    one = whole(CLIENTS)["user/factors"]
    parts = [whole(CLIENTS.take(rows))["user/factors"] for rows in (range(7), range(7, 10))]
    np.testing.assert_allclose(np.concatenate(parts), one, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(whole(CLIENTS)["user/factors"], one)
    longer = Personalization(algorithm, state, np.array([1, 5, 40]), clients_per_block=4)
    np.testing.assert_allclose(longer(CLIENTS)["user/factors"], one, rtol=1e-5, atol=1e-6)


def test_the_best_items_that_a_client_has_not_rated(trained):
    algorithm, state = trained
    top = TopK(4, "item", ITEMS)
    found = Personalization(algorithm, state, CLIENTS.num_examples, top=top, clients_per_block=4)(CLIENTS)
    table = np.asarray(state.global_params["item"]["factors"])
    for i, user in enumerate(ridge(table, CLIENTS)):
        scores = table @ user
        own = CLIENTS[i]["item"]
        scores[own] = -np.inf
        left = min(4, ITEMS - len(own))
        best = np.argsort(-scores, kind="stable")[:left]
        np.testing.assert_allclose(found["score"][i, :left], scores[best], rtol=1e-4, atol=1e-5)
        assert np.all(found["score"][i, left:] == -np.inf)
        if len(own):
            np.testing.assert_array_equal(found["item"][i, :left], best)


def test_what_a_client_has_beside_its_support_is_not_recommended(trained):
    """Whatever the lengths: some have far more than they are personalised by."""
    algorithm, state = trained
    few = CLIENTS.cap(2)
    shared = {"top": TopK(ITEMS, "item", ITEMS), "clients_per_block": 4}
    personalization = Personalization(algorithm, state, CLIENTS.num_examples, **shared)
    one, other = personalization(few, CLIENTS), personalization(few)
    for i in range(len(few)):
        there = one["score"][i] > -np.inf
        assert set(one["item"][i][there]) == set(range(ITEMS)) - set(CLIENTS[i]["item"].tolist())
        left = [item for item in other["item"][i].tolist() if item not in CLIENTS[i]["item"]]
        assert one["item"][i][there].tolist() == left
    with pytest.raises(ValueError, match="have must be the same clients in the same order"):
        personalization(few, CLIENTS.take(np.arange(10)[::-1]))


def test_items_that_a_client_has_rated_come_by_setting(trained):
    algorithm, state = trained
    top = TopK(ITEMS, "item", ITEMS, seen=True)
    found = Personalization(algorithm, state, CLIENTS.num_examples, top=top, clients_per_block=4)(CLIENTS)
    assert np.all(np.sort(found["item"], axis=1) == np.arange(ITEMS))
    assert np.all(np.isfinite(found["score"]))


def test_any_algorithm_personalises():
    model = rating_model()
    clients = ratings([4, 9])
    clients = Clients.from_arrays(
        {i: {**clients[i], "previous": clients[i]["item"]} for i in clients.ids.tolist()}
    )
    for algorithm, leaves in (
        (fedavg(model, solver(), sgd()), []),
        (
            finetuning(fedavg(model, solver(), sgd()), solver()),
            ["0/0/item/bias", "0/0/item/factors", "0/1/user"],
        ),
    ):
        state = jax.jit(algorithm.init)(jax.random.key(0))
        found = Personalization(algorithm, state, clients.num_examples)(clients)
        assert sorted(found) == leaves
        assert all(len(x) == 2 and np.all(np.isfinite(x)) for x in found.values())


def test_a_client_gets_what_it_gets_in_evaluation(trained):
    algorithm, state = trained
    found = Personalization(algorithm, state, CLIENTS.num_examples)(CLIENTS)["user/factors"]
    table = np.asarray(state.global_params["item"]["factors"])
    errors = [
        np.sum((table[CLIENTS[i]["item"]] @ found[i] - CLIENTS[i]["rating"]) ** 2)
        for i in range(len(CLIENTS))
    ]
    measured = evaluate(algorithm, state, CLIENTS, split=NoSplit()).per_client["mse"].total
    np.testing.assert_allclose(errors, measured, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("lengths", "wanted"),
    [
        ([], [10]),
        ([0], [10]),
        ([3, 20, 21], [30]),
        ([5] * 4000 + [95] * 998 + [700], [700]),
        ([5] * 4000 + [95] * 998 + [10_000], [100, 10_000]),
        ([5] * 4000 + [95] * 1999 + [1000], [100, 1000]),
        ([5] * 40_000 + [95] * 9_000 + [200] * 1_999 + [1000], [10, 100, 200, 1000]),
    ],
)
def test_lengths_leave_few_places_empty(lengths, wanted):
    assert block_lengths(np.array(lengths, int)) == wanted


def test_longer_clients_than_were_announced_are_refused(trained):
    algorithm, state = trained
    with pytest.raises(ValueError, match="laid out for at most 10 examples per client, got 30"):
        Personalization(algorithm, state, np.array([3]))(CLIENTS)


def test_what_cannot_be_recommended_is_said(trained):
    algorithm, state = trained
    with pytest.raises(ValueError, match="count must be at most the 30 items, got 31"):
        TopK(31, "item", ITEMS)
    broken = fedrecon(Model(**{**vars(algorithm.model), "predict": None}), Newton(), solver(), sgd())
    with pytest.raises(ValueError, match="where a model has `predict`"):
        Personalization(broken, state, CLIENTS.num_examples, top=TopK(3, "item", ITEMS))
    with pytest.raises(ValueError, match=r"by the field 'rating' alone, .* looks up 'item'"):
        Personalization(algorithm, state, CLIENTS.num_examples, top=TopK(3, "rating", ITEMS))(CLIENTS)


def test_few_clients_that_are_far_longer_than_the_rest_take_no_more_memory(trained, monkeypatch):
    algorithm, state = trained
    alone = Personalization(algorithm, state, CLIENTS.num_examples)(CLIENTS)
    monkeypatch.setattr(personalization, "_PLACES", {True: 40, False: 40})
    narrow = Personalization(algorithm, state, CLIENTS.num_examples, devices=1)
    for name, values in narrow(CLIENTS).items():
        np.testing.assert_allclose(values, alone[name], rtol=1e-5, atol=1e-6)
    assert [slot.clients for slot in plan_evaluation(np.array([300] * 99 + [60_000])).slots] == [64, 4]
    assert clients_in_block(300) == 64 and clients_in_block(60_000) == 4 and clients_in_block(10**7) == 1
