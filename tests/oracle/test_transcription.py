"""The NumPy transcription against the reference runs, against Optax, and against numbers found by hand."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import optax
import pytest
from tests.oracle import optimizers
from tests.oracle.algorithm1 import (
    Ridge,
    Settings,
    Stage,
    alternate_batches,
    alternate_examples,
    client_update,
    evaluate,
    first_fraction,
    no_split,
    pooled,
    run,
    steps,
)
from tests.oracle.factorization import Penalty, Ratings, gradients, predict, ridge
from tests.oracle.optimizers import sgd

DATA = Path(__file__).parent / "data"
RUNS = ("alternate_batches", "many_steps", "no_split")


def reference(name: str):
    """Settings, clients, arrays and expected numbers of one reference run."""
    facts = json.loads((DATA / f"{name}.json").read_text())
    arrays = dict(np.load(DATA / f"{name}.npz"))
    size = facts["batch_size"]
    settings = Settings(
        reconstruct=Stage(
            sgd(facts["reconstruction_learning_rate"]),
            size,
            epochs=facts["reconstruction_epochs"],
            max_steps=facts["reconstruction_steps_max"],
        ),
        update=Stage(sgd(facts["update_learning_rate"]), size, max_steps=facts["update_steps_max"]),
        server=sgd(facts["server_learning_rate"]),
        split=alternate_batches(size) if facts["split"] else no_split(),
        evaluation_split=alternate_batches(size),
    )
    bounds = zip(arrays["client_offsets"][:-1], arrays["client_offsets"][1:], strict=True)
    clients = [Ratings(arrays["items"][a:b], arrays["ratings"][a:b]) for a, b in bounds]
    return settings, clients, arrays, facts


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("name", RUNS)
def test_reproduces_the_reference_runs(name, dtype):
    settings, clients, arrays, facts = reference(name)
    settings = replace(settings, dtype=dtype)
    local = {"user_factors": arrays["initial_user_factors"]}
    params, history = run(
        settings,
        {"item_factors": arrays["initial_item_factors"]},
        arrays["train_clients"],
        clients,
        lambda round, client: local,
    )
    scored = pooled(
        evaluate(settings, params, clients[c], len(history), local) for c in arrays["evaluation_clients"]
    )
    for found, expected in zip([*history, scored], [*facts["train"], facts["evaluation"]], strict=True):
        assert found["examples"] == expected["examples"]
        assert found["mse"] == pytest.approx(expected["mse"], rel=1e-5)
        assert found["accuracy"] == pytest.approx(expected["accuracy"], rel=1e-5)
    assert params["item_factors"].dtype == dtype
    np.testing.assert_allclose(params["item_factors"], arrays["final_item_factors"], rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (sgd(0.1), optax.sgd(0.1)),
        (sgd(lambda t: 0.1 / (t + 1)), optax.sgd(lambda t: 0.1 / (t + 1))),
        (optimizers.momentum(0.1), optax.sgd(0.1, momentum=0.9)),
        (optimizers.momentum(0.1, 0.8, nesterov=True), optax.sgd(0.1, momentum=0.8, nesterov=True)),
        (optimizers.adagrad(0.1), optax.adagrad(0.1)),
        (optimizers.adam(0.1), optax.adam(0.1)),
        (optimizers.yogi(0.1), optax.yogi(0.1)),
    ],
    ids=["sgd", "schedule", "momentum", "nesterov", "adagrad", "adam", "yogi"],
)
def test_optimizers_follow_optax(ours, theirs):
    rng = np.random.default_rng(0)
    params = {"a": rng.normal(size=(4, 3)).astype(np.float32), "b": np.full((), 0.5, np.float32)}
    mine, state = ours.start(params), theirs.init(params)
    for scale in (1.0, 0.01, 0.0, 3.0, 1e-3):
        slopes = {
            name: np.asarray(scale * rng.normal(size=leaf.shape), np.float32) for name, leaf in params.items()
        }
        updates, mine = ours.step(slopes, mine)
        expected, state = theirs.update(slopes, state, params)
        for name, update in updates.items():
            assert update.dtype == np.float32
            np.testing.assert_allclose(update, expected[name], rtol=1e-5, atol=1e-7)


def biased_model(rng, items=6, factors=3):
    return {
        "item_factors": rng.normal(size=(items, factors)),
        "item_bias": rng.normal(size=items),
        "global_bias": np.asarray(0.3),
        "user_factors": rng.normal(size=factors),
        "user_bias": np.asarray(-0.2),
    }


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_gradients_are_the_objectives_slopes(reduction):
    rng = np.random.default_rng(1)
    params, penalty = biased_model(rng), Penalty(factors=0.7, bias=0.4)
    batch = Ratings(np.array([0, 2, 2, 5]), rng.normal(size=4))  # item 2 twice

    def objective(params):
        squares = np.sum((predict(params, batch.items, 0.1) - batch.ratings) ** 2)
        size = penalty.factors * np.sum(params["user_factors"] ** 2) + penalty.bias * params["user_bias"] ** 2
        return (squares + size * 4 / 10) / (4 if reduction == "mean" else 1)

    for name, slope in gradients(params, batch, 10, reduction, penalty, 0.1).items():
        for index in np.ndindex(slope.shape):
            step = np.zeros_like(params[name])
            step[index] = 1e-6
            ends = [objective({**params, name: params[name] + sign * step}) for sign in (1, -1)]
            assert slope[index] == pytest.approx((ends[0] - ends[1]) / 2e-6, abs=1e-7)


def test_ridge_is_where_the_local_slopes_vanish():
    rng = np.random.default_rng(2)
    params, penalty = biased_model(rng), Penalty(factors=20.0, bias=5.0)
    support = Ratings(np.array([1, 3, 4]), np.array([5.0, 1.0, 4.0]))
    slopes = gradients({**params, **ridge(params, support, penalty)}, support, 3, "sum", penalty)
    np.testing.assert_allclose(slopes["user_factors"], 0, atol=1e-12)
    assert slopes["user_bias"] == pytest.approx(0, abs=1e-12)


def test_ridge_without_examples_is_the_penaltys_optimum():
    params = biased_model(np.random.default_rng(3))
    local = ridge(params, Ratings(np.array([], int), np.array([])), Penalty(20.0, 5.0))
    assert np.all(local["user_factors"] == 0)
    assert local["user_bias"] == 0


def test_splits():
    def parts(split, n):
        return [list(part) for part in split(n)]

    assert parts(alternate_batches(2), 7) == [[0, 1, 4, 5], [2, 3, 6]]
    assert parts(alternate_examples(), 5) == [[0, 2, 4], [1, 3]]
    assert parts(first_fraction(0.5), 5) == [[0, 1], [2, 3, 4]]
    assert parts(no_split(), 2) == [[0, 1], [0, 1]]
    assert parts(alternate_batches(5), 3) == [[0, 1, 2], []]


def test_steps_run_over_the_epochs_and_stop_at_the_limit():
    examples = Ratings(np.arange(5), np.zeros(5))

    def used(stage, round):
        return [list(batch.items) for batch in steps(stage, examples, round)]

    assert used(Stage(sgd(1.0), 2, epochs=2, max_steps=4), 0) == [[0, 1], [2, 3], [4], [0, 1]]
    assert used(Stage(sgd(1.0), None, epochs=2), 0) == [[0, 1, 2, 3, 4]] * 2
    growing = Stage(sgd(1.0), 3, epochs=2, adaptive_epochs=True)
    assert [len(used(growing, round)) for round in range(4)] == [2, 4, 4, 4]
    assert list(steps(growing, Ratings(np.arange(0), np.zeros(0)), 1)) == []


def small_run(**changes):
    """One round of two clients by hand-sized numbers."""
    settings = replace(
        Settings(
            reconstruct=Stage(sgd(0.1), 1),
            update=Stage(sgd(0.1), 1),
            split=first_fraction(0.5),
            server=sgd(1.0),
        ),
        **changes,
    )
    clients = [
        Ratings(np.array([0, 1]), np.array([2.0, 3.0])),
        Ratings(np.array([0, 1, 2, 3, 4, 5]), np.arange(6.0)),
        Ratings(np.array([0]), np.array([np.nan])),
    ]
    initial = {"item_factors": np.full((6, 1), 0.5)}
    return settings, initial, clients, lambda round, client: {"user_factors": np.array([1.0])}


def test_one_step_by_hand():
    settings, initial, clients, local = small_run()
    found = client_update(settings, initial, clients[0], 0, local(0, 0))
    user = 1 - 0.1 * 2 * (0.5 - 2) * 0.5  # 1.15
    error = 0.5 * user - 3
    assert found.local["user_factors"] == pytest.approx(user)
    assert found.delta["item_factors"].ravel() == pytest.approx([0, -0.1 * 2 * error * user, 0, 0, 0, 0])
    assert found.weight == 1
    assert found.totals == pytest.approx((error**2, 0, 1))


def test_joint_training_moves_the_local_parameters_too():
    settings, initial, clients, local = small_run(joint=True)
    apart = client_update(replace(settings, joint=False), initial, clients[0], 0, local(0, 0))
    joint = client_update(settings, initial, clients[0], 0, local(0, 0))
    user = apart.local["user_factors"]
    assert joint.local["user_factors"] == pytest.approx(user - 0.1 * 2 * (0.5 * user - 3) * 0.5)
    np.testing.assert_allclose(joint.delta["item_factors"], apart.delta["item_factors"])


@pytest.mark.parametrize(("weight", "weights"), [("examples", (1, 3)), ("uniform", (1, 1))])
def test_the_server_steps_along_the_weighted_mean_of_finite_deltas(weight, weights):
    settings, initial, clients, local = small_run(client_weight=weight)
    deltas = [
        client_update(settings, initial, clients[c], 0, local(0, c)).delta["item_factors"] for c in (0, 1)
    ]
    params, (metrics,) = run(settings, initial, [[0, 1, 2]], clients, local)
    mean = np.average(deltas, axis=0, weights=weights)
    np.testing.assert_allclose(params["item_factors"], initial["item_factors"] + mean)
    assert (metrics["examples"], metrics["empty"], metrics["dropped"]) == (4, 0, 1)


def test_a_round_without_weight_leaves_the_server_as_it_was():
    settings, initial, clients, local = small_run(server=optimizers.adam(0.1))
    clients.append(Ratings(np.array([], int), np.array([])))
    between, history = run(settings, initial, [[1], [2, 3], [1]], clients, local)
    without, _ = run(settings, initial, [[1], [1]], clients, local)
    np.testing.assert_array_equal(between["item_factors"], without["item_factors"])
    assert history[1] == {"mse": 0, "accuracy": 0, "examples": 0, "empty": 1, "dropped": 1}


def test_ridge_reconstructs_before_the_update():
    settings, initial, clients, local = small_run(reconstruct=Ridge(), penalty=Penalty(factors=2.0))
    found = client_update(settings, initial, clients[0], 0, local(0, 0))
    assert found.local["user_factors"] == pytest.approx(0.5 * 2 / (0.5**2 + 2))
