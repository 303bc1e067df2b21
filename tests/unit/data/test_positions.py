"""Positions of clients in every container, masks among them, and what is refused."""

import jax.numpy as jnp
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from tests.small import Given

from fedrecon.data._clients import Clients
from fedrecon.data._positions import client_positions
from fedrecon.data._sampling import Uniform, cohort_of
from fedrecon.errors import DataError

CLIENTS = Clients.from_arrays(
    {name: {"x": np.ones(k)} for name, k in zip("abcd", (3, 12, 20, 1), strict=True)}
)
MASK = [False, True, True, False]
MASKS = {
    "numpy": np.array(MASK),
    "list": MASK,
    "tuple": tuple(MASK),
    "list of numpy": list(np.array(MASK)),
    "objects": np.array(MASK, object),
    "jax": jnp.array(MASK),
    "pandas": pd.Series(MASK, index=[9, 8, 7, 6]),
    "pandas nullable": pd.Series(MASK, dtype="boolean"),
    "polars": pl.Series(MASK),
    "arrow": pa.array(MASK),
    "comparison": CLIENTS.num_examples >= 10,
}
POSITIONS = {
    "list": [2, 0],
    "numpy": np.array([2, 0], np.int8),
    "unsigned": np.array([2, 0], np.uint64),
    "jax": jnp.array([2, 0]),
    "pandas": pd.Series([2, 0]),
    "pandas nullable": pd.Series([2, 0], dtype="Int64"),
    "polars": pl.Series([2, 0]),
    "arrow": pa.array([2, 0]),
    "objects": np.array([2, 0], object),
    "range": range(2, -1, -2),
    "negative": [-2, -4],
    "masked array without a mask": np.ma.array([2, 0]),
}


@pytest.mark.parametrize("kind", MASKS)
def test_a_mask_takes_the_clients_that_it_marks(kind):
    assert CLIENTS.take(MASKS[kind]).ids.tolist() == ["b", "c"]


@pytest.mark.parametrize("kind", POSITIONS)
def test_positions_take_clients_in_their_order(kind):
    assert CLIENTS.take(POSITIONS[kind]).ids.tolist() == ["c", "a"]


def test_nothing_takes_nobody():
    for nothing in ([], (), np.zeros(0), np.zeros(0, int), [False] * 4):
        assert CLIENTS.take(nothing).ids.tolist() == []
    assert client_positions("x", np.zeros(0, bool), 0).tolist() == []


NUMBERS = r"the clients to take must be whole numbers, or booleans for all clients, got "
RANGE = "the clients to take must be positions from -4 to 3, as there are 4 clients, got "


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([True], "a mask of the clients to take must be of the length 4 of the clients, got 1"),
        (np.ones(5, bool), "a mask of the clients to take must be of the length 4 of the clients, got 5"),
        (np.zeros(0, bool), "a mask of the clients to take must be of the length 4 of the clients, got 0"),
        ([1.7], NUMBERS + "float such as 1.7"),
        (np.array([1.0]), NUMBERS + "float such as 1.0"),
        (["a"], NUMBERS + "str such as 'a'"),
        ([True, 2], NUMBERS + "int such as 1"),
        (np.array([True, 2], object), NUMBERS + "bool, int such as True"),
        (pd.Series([True, None, True, True], dtype="boolean"), NUMBERS),
        (pa.array([1, None]), NUMBERS + "float such as 1.0"),
        (1, "must be a flat list of positions or a mask of the clients, got 1"),
        (np.int64(1), "must be a flat list of positions or a mask of the clients, got 1"),
        (True, "must be a flat list of positions or a mask of the clients, got True"),
        (slice(2), "must be a flat list of positions or a mask of the clients, got slice"),
        ([[1, 2]], r"must be a flat list of positions or a mask of the clients, got the shape \[1, 2\]"),
        (np.ones((2, 2), bool), r"got the shape \[2, 2\]"),
        ([4], RANGE + "4"),
        ([0, -5], RANGE + "-5"),
        (np.array([2**63 + 1], np.uint64), RANGE + str(2**63 + 1)),
        ([2**70], RANGE + str(2**70)),
        (np.ma.array([0, 1], mask=[False, True]), "must have a value in every place, 1 are masked"),
    ],
)
def test_anything_else_is_refused(given, message):
    with pytest.raises(DataError, match=message):
        CLIENTS.take(given)


COUNTS = CLIENTS.num_examples


def test_a_cohort_may_be_a_mask_or_a_list():
    for cohort in (MASK, np.array(MASK), [1, 2], (1, 2), jnp.array([1, 2]), range(1, 3)):
        sampling = Given([cohort])
        sampling.indices = lambda *_, given=cohort: given  # as it is, not made an array
        assert cohort_of(sampling, 0, COUNTS, 0).tolist() == [1, 2]
    assert cohort_of(Uniform(3), 5, COUNTS, 1).tolist() == Uniform(3).indices(5, COUNTS, 1).tolist()


@pytest.mark.parametrize(
    ("cohort", "message"),
    [
        (
            [0, 2, 0],
            "the cohort that Given draws for round 8 must have no client twice, it has 0 more than once",
        ),
        ([0, -1], "the cohort that Given draws for round 8 must be positions from 0 to 3"),
        ([0.5], "the cohort that Given draws for round 8 must be whole numbers"),
        ([True, False], "a mask of the cohort that Given draws for round 8 must be of the length 4"),
        ([4], "must be positions from 0 to 3, as there are 4 clients, got 4"),
    ],
)
def test_a_cohort_of_ones_own_is_held_to_the_rules(cohort, message):
    with pytest.raises(DataError, match=message):
        cohort_of(Given([cohort]), 7, COUNTS, 0)
