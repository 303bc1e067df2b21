"""The peers of ranking are measured as the library measures itself."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from benchmarks import ranking
from benchmarks.options import Options

from fedrecon import Newton, fedrecon, optimizer
from fedrecon.core._splits import HeldOut, NoSplit, RandomFraction
from fedrecon.datasets.ratings._interactions import interactions, leave_one_out, with_recency
from fedrecon.datasets.ratings._synthetic import synthetic
from fedrecon.evaluation._evaluate import evaluate
from fedrecon.evaluation._ranking import Ranking
from fedrecon.models._implicit_matrix_factorization import implicit_factorization
from fedrecon.simulation._trained_state import TrainedState
from fedrecon.solvers._gradient import Solver

ITEMS = 40
EVERYONE = interactions(synthetic(30, ITEMS, seed=0)[0])
SGD = optimizer("sgd", learning_rate=1.0)
MODEL = implicit_factorization(ITEMS, 4)
ALGORITHM = fedrecon(MODEL, Newton(), Solver(SGD, None, reduction="sum"), SGD, NoSplit())


@pytest.mark.parametrize(
    ("clients", "split"),
    [
        (leave_one_out(EVERYONE)["held_out"], HeldOut()),
        (with_recency(leave_one_out(EVERYONE)["held_out"], 30.0, 5.0), HeldOut()),
        (EVERYONE, RandomFraction(0.8)),
    ],
)
def test_the_same_scores_are_worth_the_same(clients, split):
    """Users by the normal equations, in NumPy, against the library's reconstruction of them."""
    scoring = Ranking(ITEMS, (("hr", 5), ("ndcg", 5)), 9)
    state = TrainedState.of(jax.jit(ALGORITHM.init)(jax.random.key(0)), clients.vocabularies)
    items = np.random.default_rng(0).normal(size=(ITEMS, 4)).astype(np.float32)
    state = state._replace(global_params={"item": {"factors": jnp.asarray(items)}})

    def scores(support):
        users = []
        for have in support:
            ridge = 0.003 * (have.sum() + 0.1 * ITEMS)
            matrix = (items.T * have) @ items + 0.1 * items.T @ items + ridge * np.eye(4)
            users.append(np.linalg.solve(matrix, items.T @ have))
        return np.array(users) @ items.T

    found = ranking.evaluated(scores, clients, split, scoring)
    wanted = evaluate(ALGORITHM, state, clients, split=split, seed=ranking.SEED, scoring=scoring)
    assert 0.05 < wanted.over_clients()["hr@5"] < 0.95
    for name, mean in wanted.per_client.items():
        np.testing.assert_allclose(found.per_client[name].total, mean.total, atol=1e-5, err_msg=name)


def test_ease_is_the_regression_of_each_item_on_the_others():
    have = ranking.matrix(EVERYONE)
    found = ranking.ease(have, 3.0)(np.eye(ITEMS, dtype=np.float32))
    others = np.arange(ITEMS) != 7
    x = have[:, others].astype(np.float64)
    wanted = np.linalg.solve(x.T @ x + 3.0 * np.eye(ITEMS - 1), x.T @ have[:, 7])
    np.testing.assert_allclose(found[others, 7], wanted, rtol=1e-4, atol=1e-5)
    assert found[7, 7] == 0


def test_every_peer_is_measured_or_named_as_missing():
    rows = ranking.seen(EVERYONE)
    names = ["popularity", "EASE", "implicit's ALS"]
    assert [n for n in names if any(f"leave one out: {n}" in row.what for row in rows)] == names
    few = interactions(synthetic(60, 120, seed=0)[0])  # of which less than a hundred are candidates
    others = ranking.unseen(few)
    assert [n for n in names if any(f"unseen users: {n}" in row.what for row in others)] == names
    found = {row.what.rpartition(" ")[2] for row in others if row.value is not None}
    assert found == {"recall_min@20", "recall_min@50", "ndcg@100"}
    for row in [*rows, *others]:
        assert row.note == "the package implicit is not installed" or 0 <= row.value <= 100
    (row,) = ranking.run(Options())
    assert row.value is None and row.note == "needs --data"
