"""Times keep their order: 64 bits on the way to an order, 32 in programs."""

import jax
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from tests.small import rating_model, sgd, solver

from fedrecon.algorithms._fedrecon import fedrecon
from fedrecon.core._splits import ByTime
from fedrecon.data._client_file.writer import ClientWriter
from fedrecon.data._clients import Clients
from fedrecon.data._sampling import Uniform
from fedrecon.datasets.ratings._interactions import interactions, leave_one_out
from fedrecon.errors import DataError
from fedrecon.evaluation._evaluate import evaluate
from fedrecon.experiment.training.run_spec import digest
from fedrecon.simulation._simulation import Simulation

# Each kind merges some of its times in 32 bits; in order they are ORDER.
ORDER = [1, 2, 0, 3]
TIMES = {
    "seconds with fractions": [1_700_000_030.5, 1_700_000_010.25, 1_700_000_020.75, 1_700_000_040.5],
    "days with fractions": [19675.5201, 19675.5199, 19675.52, 19675.53],
    "julian days": [2_460_000.53, 2_460_000.51, 2_460_000.52, 2_460_000.54],
    "below zero": [-1_700_000_030.5, -1_700_000_031.5, -1_700_000_031.25, -1_700_000_010.5],
    "beyond 64 bits": [1e19 + 4096, 1e19, 1e19 + 2048, 2e19],
    "beyond 32-bit floats": [3e300, 1e300, 2e300, 4e300],
    "whole seconds": [1_700_000_030.0, 1_700_000_010.0, 1_700_000_020.0, 1_700_000_040.0],
    "whole nanoseconds": [
        1_700_000_030_000_000_003,
        1_700_000_030_000_000_001,
        1_700_000_030_000_000_002,
        2 * 10**18,
    ],
}
FRACTIONS = [kind for kind in TIMES if "whole" not in kind]


def made(kind, how="arrays"):
    times = {"item": np.arange(4), "rating": np.ones(4), "time": np.array(TIMES[kind])}
    if how == "frame":
        return Clients.from_table(pd.DataFrame({"client": "ann", **times}))
    if how == "arrow":
        return Clients.from_table(pa.table({"client": ["ann"] * 4, **times}))
    if how == "with columns":
        columns = {name: x for name, x in times.items() if name != "time"}
        return Clients.from_columns(["ann"], [0, 4], columns).with_columns(time=times["time"])
    if how == "longdouble":
        return Clients.from_arrays({"ann": {**times, "time": times["time"].astype(np.longdouble)}})
    return Clients.from_arrays({"ann": times})


def order(clients):
    return clients.sorted_by("time")["ann"]["item"].tolist()


@pytest.mark.parametrize("kind", TIMES)
@pytest.mark.parametrize("how", ["arrays", "frame", "arrow", "with columns", "longdouble"])
def test_order_is_that_of_all_digits(kind, how, tmp_path):
    clients = made(kind, how)
    assert order(clients) == ORDER
    clients.write(tmp_path / "clients.arrow")
    opened = Clients.open(tmp_path / "clients.arrow")
    assert order(opened) == order(opened.shuffled(1)) == order(opened.take([0])) == ORDER
    assert order(opened.filter_examples([True, True, False, True])) == [1, 0, 3]
    assert leave_one_out(interactions(clients))["train"]["ann"]["item"].tolist() == ORDER[:3]


def test_pieces_may_need_other_widths(tmp_path):
    times = [[0.5, 0.25], TIMES["julian days"], [2_460_000.75, 1.5]]
    pieces = [
        Clients.from_arrays({i: {"time": x, "grid": np.ones((len(x), 2))}}) for i, x in enumerate(times)
    ]
    assert [piece.column("time").dtype for piece in pieces] == [np.float32, np.float64, np.float32]
    for chosen in (pieces, pieces[1:], pieces[:2]):
        with ClientWriter(tmp_path / "clients.arrow") as writer:
            for piece in chosen:
                writer.add(piece)
        clients = Clients.open(tmp_path / "clients.arrow")
        np.testing.assert_array_equal(
            clients.column("time"), np.concatenate([x.column("time") for x in chosen])
        )
        assert clients.column("grid").dtype == np.float32


def test_numbers_that_lose_no_order_stay_narrow():
    random = np.random.default_rng(0)
    for numbers in (random.normal(size=50), [0.1, 0.1, 0.2], [1.5, np.nan, np.inf], [1e300] * 2):
        clients = Clients.from_arrays({"ann": {"x": np.asarray(numbers)}}, may_be_nan=["x"])
        assert clients.column("x").dtype == np.float32
    apart = Clients.from_columns(["ann", "bob"], [0, 1, 2], {"x": [1_700_000_010.25, 1_700_000_010.75]})
    assert apart.column("x").dtype == np.float32  # equal times of two clients are in no order
    assert Clients.from_arrays({"ann": {"x": np.array([[0.1, 0.1 + 1e-12]])}}).column("x").dtype == np.float32


@pytest.mark.parametrize("kind", FRACTIONS[:3])
def test_programs_get_32_bits(kind):
    """The same program and the same numbers as of before, when the column was cut to 32 bits at once."""
    algorithm = fedrecon(rating_model(), solver(), solver(), sgd(1.0))
    wide = made(kind)
    narrow = Clients.from_arrays({"ann": {**wide["ann"], "time": np.float32(TIMES[kind])}})
    assert wide.column("time").dtype == np.float64 and narrow.column("time").dtype == np.float32
    assert digest(wide) == digest(narrow) != digest(wide.sorted_by("time"))
    states = []
    for clients in (wide, narrow):
        simulation = Simulation(algorithm, clients, Uniform(1))
        states.append(next(simulation.rounds(simulation.init(), 1)).state)
    for a, b in zip(*map(jax.tree.leaves, states), strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_split_by_such_times_is_refused():
    clients = made("julian days")
    by_time = fedrecon(rating_model(), solver(), solver(), sgd(1.0), ByTime(0.5))
    rule = r"field 'time' holds times of 64 bits.* and ByTime splits by it; sort the clients by it before"
    with pytest.raises(DataError, match=rule):
        Simulation(by_time, clients, Uniform(1))
    plain = fedrecon(rating_model(), solver(), solver(), sgd(1.0))
    start = Simulation(plain, clients, Uniform(1)).init()
    with pytest.raises(DataError, match=rule):
        evaluate(plain, start, clients, split=ByTime(0.5))
