"""Held-out examples of clients that are trained on."""

import jax
import numpy as np
import pytest

from fedrecon.core._examples import Examples
from fedrecon.core._splits import HeldOut
from fedrecon.data._clients import Clients
from fedrecon.data._holdout import hold_out
from fedrecon.errors import DataError

CLIENTS = Clients.from_arrays({n: {"x": np.arange(n) + 100 * n} for n in (10, 1, 0, 5)})


def test_the_first_examples_train_and_the_last_are_the_last_set():
    sets = hold_out(CLIENTS, {"validation": 0.2, "test": 0.2})
    assert sets["train"][10]["x"].tolist() == [1000, 1001, 1002, 1003, 1004, 1005]
    assert sets["validation"][10]["x"].tolist() == [1000, 1001, 1002, 1003, 1004, 1005, 1006, 1007]
    assert sets["test"][10]["x"].tolist() == [1000, 1001, 1002, 1003, 1004, 1005, 1008, 1009]
    assert sets["test"][10]["held_out"].tolist() == [0] * 6 + [1] * 2
    assert sets["train"].fields == ("x",)
    for x in sets.values():
        assert x.ids.tolist() == CLIENTS.ids.tolist()


def test_every_example_is_trained_on_or_held_out_once():
    sets = hold_out(CLIENTS, {"validation": 0.13, "test": 0.27})
    for client in CLIENTS.ids.tolist():
        found = sets["train"][client]["x"].tolist()
        for name in ("validation", "test"):
            x = sets[name][client]
            assert x["x"][x["held_out"] == 0].tolist() == sets["train"][client]["x"].tolist()
            found += x["x"][x["held_out"] == 1].tolist()
        assert found == CLIENTS[client]["x"].tolist()


@pytest.mark.parametrize("shares", [{"test": 0.0}, {"test": 1.0}, {"a": 0.5, "b": 0.5}])
def test_shares_must_leave_something(shares):
    with pytest.raises(DataError, match="must"):
        hold_out(CLIENTS, shares)


def test_a_second_mark_is_refused():
    with pytest.raises(DataError, match="held_out"):
        hold_out(hold_out(CLIENTS, {"test": 0.5})["test"], {"test": 0.5})


def test_nothing_held_out_changes_nothing():
    assert hold_out(CLIENTS, {})["train"] is CLIENTS


@pytest.mark.parametrize("padding", [0, 3])
def test_marked_examples_are_query(padding):
    marks, count = [0, 1, 0, 0, 1], 5
    examples = Examples(
        {"x": np.arange(count + padding), "held_out": np.array(marks + [1] * padding, np.int8)},
        np.arange(count + padding) < count,
    )
    support, query = jax.jit(lambda e: HeldOut()(e, None))(examples)
    assert support.data["x"][np.asarray(support.mask)].tolist() == [0, 2, 3]
    assert query.data["x"][np.asarray(query.mask)].tolist() == [1, 4]
    for part in (support, query):
        assert not np.any(np.diff(np.asarray(part.mask).astype(int)) > 0)  # valid rows first


def test_a_missing_mark_is_named():
    with pytest.raises(ValueError, match="held_out"):
        HeldOut()(Examples({"x": np.zeros(2)}, np.ones(2, bool)), None)
