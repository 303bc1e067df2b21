"""The server by itself: cohorts, what it counts and what it refuses, steps, checkpoints."""

import os
import resource
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tests.small import Given, federation, rating_model, sgd, solver

from fedrecon.algorithms._base import Update
from fedrecon.algorithms._fedrecon import fedrecon
from fedrecon.core._mean import Mean
from fedrecon.core._model import leaves_of, with_leaves
from fedrecon.core._splits import AlternateBatches
from fedrecon.data._sampling import Uniform
from fedrecon.deployment._client import Client
from fedrecon.deployment._refusals import Refusal, RefusedError
from fedrecon.deployment._server import Server
from fedrecon.errors import DataError
from fedrecon.solvers._optimizers import optimizer

CLIENTS = federation(repeats=True)
NAMES = CLIENTS.ids.tolist()
ADAM = optimizer("adam", learning_rate=0.05)
ALGORITHM = fedrecon(rating_model(two_fields=True, scale=True), solver(), solver(), ADAM, AlternateBatches(2))
NODES = {n: Client(ALGORITHM, CLIENTS.take([i]), n, 3) for i, n in enumerate(NAMES)}


def server(sampling=None, algorithm=ALGORITHM, **others):
    return Server(algorithm, NAMES, sampling or Given([[3, 5, 8]]), seed=3, run="trial", **others)


def answer(of, name):
    return NODES[name].update(of.broadcast(NODES[name].rows))


def good():
    of = server()
    return of, answer(of, "c8")


def leaf(update, path, value):
    """The update with another delta of one leaf."""
    item = dict(update.delta.total["item"])
    total = dict(update.delta.total) | {"item": item}
    if path == "scale":
        total["scale"] = value
    else:
        item[path] = value
    return update._replace(delta=Mean(total, update.delta.weight))


def mean(total, weight):
    return Mean(total, weight)


def factors(update):
    return update.delta.total["item"]["factors"]


def test_cohort_is_drawn_by_name_and_stays_for_the_round():
    of = server(Uniform(4))
    cohort = of.cohort()
    assert cohort == of.cohort() and len(set(cohort)) == 4 and set(cohort) <= set(NAMES)
    wanted = Uniform(4).indices(0, CLIENTS.num_examples, 3)
    assert cohort == [NAMES[i] for i in wanted]


def test_order_of_arrival_changes_nothing():
    one, other = server(), server()
    updates = {n: answer(one, n) for n in one.cohort()}
    for n in one.cohort():
        assert one.add(n, updates[n]) is None
    for n in reversed(one.cohort()):
        assert other.add(n, updates[n]) is None
    one.step(), other.step()
    for a, b in zip(jax.tree.leaves(one.state), jax.tree.leaves(other.state), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6)


def test_outcome_counts_and_metrics_are_those_of_the_answers():
    of = server()
    updates = {n: answer(of, n) for n in of.cohort()[:2]}
    for n, update in updates.items():
        of.add(n, update)
    of.add("c8", updates["c3"]._replace(rows={}))
    outcome = of.step()
    assert outcome[:6] == (0, 0, True, 3, 2, 0)
    assert outcome.refused == {"wrong_shape": 1}
    wanted = sum(float(u.metrics["loss"].total) for u in updates.values())
    assert outcome.metrics["loss"].total == pytest.approx(wanted)
    assert of.round == 1 and of.attempt == 0 and not of.answered


BAD: Any = {
    "wrong_leaf": lambda u: u._replace(delta=mean({"item": u.delta.total["item"]}, u.delta.weight)),
    "wrong_leaf of rows": lambda u: u._replace(rows={**u.rows, "scale": np.zeros(1, np.int32)}),
    "wrong_leaf of statistics": lambda u: u._replace(statistics=(np.ones(1),)),
    "wrong_shape": lambda u: leaf(u, "factors", factors(u)[:1]),
    "wrong_shape by rows": lambda u: u._replace(rows={**u.rows, "item/bias": u.rows["item/bias"][:1]}),
    "wrong_shape of a scalar": lambda u: leaf(u, "scale", np.zeros(1, np.float32)),
    "wrong_shape of the weight": lambda u: u._replace(delta=mean(u.delta.total, np.ones(1, np.float32))),
    "wrong_shape of a metric": lambda u: u._replace(metrics={"loss": mean(np.ones(2), np.ones(2))}),
    "wrong_dtype": lambda u: leaf(u, "factors", factors(u).astype(np.float64)),
    "wrong_dtype of rows": lambda u: u._replace(
        rows={**u.rows, "item/bias": u.rows["item/bias"].astype(np.float32)}
    ),
    "row_range": lambda u: u._replace(rows={**u.rows, "item/bias": u.rows["item/bias"] + 40}),
    "row_range below": lambda u: u._replace(rows={**u.rows, "item/bias": u.rows["item/bias"] - 40}),
    "not_finite": lambda u: leaf(u, "factors", factors(u) + np.float32(np.nan)),
    "not_finite metric": lambda u: u._replace(metrics={"loss": mean(np.float32(np.inf), np.float32(1))}),
    "not_finite weight": lambda u: u._replace(delta=mean(u.delta.total, np.float32(np.nan))),
    "weight": lambda u: u._replace(delta=mean(u.delta.total, np.float32(-1))),
    "weight of 0": lambda u: u._replace(delta=mean(u.delta.total, np.float32(0))),
    "weight too large": lambda u: u._replace(delta=mean(u.delta.total, np.float32(1001))),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_update_is_refused_counted_and_changes_nothing(case):
    of = server(max_weight=1000.0)
    update = answer(of, "c8")
    assert of.add("c8", BAD[case](update)) is Refusal(case.split()[0])
    assert not of.answered
    assert of.add("c8", update) is None
    clean = server(max_weight=1000.0)
    clean.add("c8", update)
    outcome = of.step()
    clean.step()
    assert outcome.refused == {case.split()[0]: 1}
    jax.tree.map(np.testing.assert_array_equal, of.state, clean.state)


def test_round_attempt_client_and_repetition_are_checked():
    of, update = good()
    assert of.add("c8", update, round=1) is Refusal.WRONG_ROUND
    assert of.add("c8", update, attempt=1) is Refusal.WRONG_ROUND
    assert of.add("c0", update) is Refusal.NOT_ASKED
    assert of.add("nobody", update) is Refusal.NOT_ASKED
    assert of.add("c8", update) is None
    assert of.add("c8", update) is Refusal.DUPLICATE
    outcome = of.step()
    assert outcome.late == 0 and outcome.answered == 1
    assert of.add("c8", update, round=0) is Refusal.WRONG_ROUND
    assert of.step().late == 1


def test_round_with_too_few_answers_is_begun_again():
    of = server(min_answers=2)
    before = of.state
    update = answer(of, "c8")
    of.add("c8", update)
    outcome = of.step()
    assert not outcome.released
    assert (of.round, of.attempt) == (0, 1)
    jax.tree.map(np.testing.assert_array_equal, of.state, before)
    assert of.add("c8", update, round=0, attempt=0) is Refusal.WRONG_ROUND
    assert of.add("c8", update, round=0, attempt=1) is None
    assert of.add("c3", answer(of, "c3")) is None
    assert of.step().released and of.round == 1


def test_sum_beyond_single_precision_is_not_applied():
    sgd_server = fedrecon(rating_model(), solver(), solver(), sgd(1.0), AlternateBatches(2))
    of = server(algorithm=sgd_server)
    big = Update(
        Mean(
            {"item": {"factors": np.full((40, 2), 3e38, np.float32), "bias": np.zeros(40, np.float32)}},
            np.float32(1e-3),
        ),
        {},
        {},
    )
    before = of.state
    assert of.add("c3", big) is None and of.add("c8", big) is None
    assert not of.step().released
    jax.tree.map(np.testing.assert_array_equal, of.state, before)


@pytest.mark.parametrize(
    ("rows", "reason"),
    [
        ({"item/factors": np.array([40])}, Refusal.ROW_RANGE),
        ({"item/factors": np.array([-1])}, Refusal.ROW_RANGE),
        ({"item/factors": np.array([0.5])}, Refusal.WRONG_DTYPE),
        ({"item/factors": np.array(3)}, Refusal.WRONG_DTYPE),
        ({"scale": np.array([0])}, Refusal.WRONG_LEAF),
    ],
)
def test_request_for_what_there_is_not_is_refused(rows, reason):
    with pytest.raises(RefusedError) as caught:
        server().broadcast(rows)
    assert caught.value.reason is reason


def rounds(of, count, path=None):
    for _ in range(count):
        for n in of.cohort():
            of.add(n, answer(of, n))
        of.step()
        if path is not None:
            of.checkpoint(path)
    return of.state


def test_restored_server_goes_on_to_the_same_numbers(tmp_path):
    whole = rounds(server(Uniform(3)), 4)
    rounds(server(Uniform(3)), 2, tmp_path / "server.state")
    other = server(Uniform(3))
    other.restore(tmp_path / "server.state")
    assert (other.round, other.attempt) == (2, 1)
    jax.tree.map(np.testing.assert_array_equal, rounds(other, 2), whole)


def test_checkpoint_of_another_run_or_cut_short_is_refused(tmp_path):
    path = tmp_path / "server.state"
    server().checkpoint(path)
    other = Server(ALGORITHM, NAMES, Given([[3]]), seed=3, run="other")
    with pytest.raises(DataError, match="must be of the run 'other', got 'trial'"):
        other.restore(path)
    plain = fedrecon(rating_model(), solver(), solver(), ADAM)
    with pytest.raises(DataError, match="must have the leaves"):
        server(algorithm=plain).restore(path)
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(DataError, match="whole"):
        server().restore(path)


@pytest.mark.skipif(os.name == "nt", reason="the limit on files is that of POSIX")
def test_full_disk_leaves_the_checkpoint_before(tmp_path):
    path = tmp_path / "server.state"
    of = server(Uniform(3))
    of.checkpoint(path)
    rounds(of, 1)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (64, limits[1]))
    try:
        with pytest.raises(OSError, match="large"):
            of.checkpoint(path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    again = server(Uniform(3))
    again.restore(path)
    assert again.round == 0 and of.round == 1
    of.checkpoint(path)
    again.restore(path)
    assert again.round == 1


def test_names_must_differ_and_suffice():
    with pytest.raises(ValueError, match="different names"):
        Server(ALGORITHM, ["a", "a"], Given([[0]]))
    with pytest.raises(ValueError, match="at most the 2"):
        Server(ALGORITHM, ["a", "b"], Uniform(3))


def test_statistics_are_summed_where_the_algorithm_has_them():
    of = server(statistics=(jax.ShapeDtypeStruct((2,), jnp.float32),))
    update = answer(of, "c8")._replace(statistics=(np.array([1.0, 2.0], np.float32),))
    assert of.add("c8", update) is None
    assert of.add("c3", answer(of, "c3")) is Refusal.WRONG_LEAF


STALE = Given([[3, 5, 8], [1, 2], [5, 8], [8, 10], [1], [2]])


def stale_server(**others):
    return server(STALE, **({"max_staleness": 2} | others))


def test_late_update_counts_with_its_discount():
    of, plain = stale_server(staleness_exponent=1.5), server(STALE)
    late = answer(of, "c8")
    for each in (of, plain):
        assert each.add("c5", answer(each, "c5")) is None
        each.step()
    fresh = answer(of, "c1")
    assert of.add("c8", late, round=0) is None and of.add("c1", fresh) is None
    # By hand: the sums of both updates, the late one at 2 ** -1.5 of its weight, as one update.
    factor = 2.0**-1.5
    total = {name: np.zeros(np.shape(x)) for name, x in leaves_of(of.state.global_params).items()}
    for update, weight in ((late, factor), (fresh, 1.0)):
        for name, delta in leaves_of(update.delta.total).items():
            at = update.rows.get(name, ...)
            np.add.at(total[name], at, weight * np.asarray(delta, np.float64))
    weight = factor * float(late.delta.weight) + float(fresh.delta.weight)
    tree = with_leaves(of.state.global_params, {n: jnp.asarray(x, jnp.float32) for n, x in total.items()})
    expected = ALGORITHM.server_update(plain.state, Update(Mean(tree, jnp.float32(weight)), {}, {}))
    outcome = of.step()
    assert outcome.stale == [("c8", 0)] and outcome.answered == 1 and outcome.late == 1 and outcome.released
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-6, atol=1e-7),
        of.state,
        type(of.state)(*expected),
    )


def test_late_update_counts_once_and_not_behind_a_later_one(tmp_path):
    of = stale_server()
    late = answer(of, "c8")
    assert of.add("c5", answer(of, "c5")) is None
    of.step()
    assert of.add("c2", late, round=0) is Refusal.NOT_ASKED
    assert of.add("c5", late, round=0) is Refusal.DUPLICATE  # was counted in its own round
    assert of.add("c8", late, round=0) is None
    assert of.add("c8", late, round=0) is Refusal.DUPLICATE
    assert of.step().released
    of.checkpoint(tmp_path / "state")
    other = stale_server()
    other.restore(tmp_path / "state")
    for each in (of, other):  # in the round after, and after a restart
        assert each.last_counted("c8") == 0
        assert each.add("c8", late, round=0) is Refusal.DUPLICATE
        assert each.add("c3", late, round=0) is None, "two rounds late is allowed"
        assert each.add("c3", late, round=-1) is Refusal.WRONG_ROUND
        assert each.add("c8", answer(each, "c8")) is None
        each.step()
        assert each.add("c3", late, round=0) is Refusal.WRONG_ROUND, "three rounds late is too late"
        assert each.add("c8", late, round=1) is Refusal.NOT_ASKED
        assert each.add("c8", late, round=5) is Refusal.WRONG_ROUND, "a round that has not come"


def test_updates_of_several_rounds_of_a_client_count_in_one():
    of = server(Given([[8], [8], [8], [8]]), max_staleness=2, min_answers=0)
    updates = []
    for _ in range(2):
        updates.append(answer(of, "c8"))
        of.step()
    updates.append(answer(of, "c8"))
    assert [of.add("c8", x, round=n) for n, x in enumerate(updates)] == [None, None, None]
    outcome = of.step()
    assert outcome.stale == [("c8", 0), ("c8", 1)] and outcome.answered == 1
    assert of.last_counted("c8") == 2
    assert of.add("c8", updates[1], round=1) is Refusal.WRONG_ROUND, "round 2 was counted"


def test_late_updates_count_towards_the_least_number():
    of = stale_server(min_answers=2)
    late = {name: answer(of, name) for name in ("c3", "c5", "c8")}
    for name in ("c5", "c8"):
        of.add(name, late[name])
    assert of.step().released
    assert of.add("c1", answer(of, "c1")) is None and of.add("c3", late["c3"], round=0) is None
    outcome = of.step()
    assert outcome.released and outcome.answered == 1 and outcome.stale == [("c3", 0)]
