"""What `describe` says of a model is what a simulation measures."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from tests.batch_norm import clients, model
from tests.small import ITEMS, federation, rating_model, sgd, solver

import fedrecon as fr
from fedrecon.privacy import compressed


def algorithm(made: Any) -> Any:
    return fr.fedrecon(made, solver(), solver(), sgd(1.0), fr.AlternateExamples())


def test_state_is_told_from_parameters_and_local_from_global():
    shown = fr.describe(model("head", "norm/var"))
    assert [(leaf.path, leaf.kind, leaf.bytes, leaf.sent) for leaf in shown.leaves] == [
        ("norm/mean", "global state", 12, "dense"),
        ("w", "global", 48, "dense"),
        ("head", "local", 12, "nothing"),
        ("norm/var", "local state", 12, "nothing"),
    ]
    assert (shown.bytes_of("global"), shown.bytes_of("local"), shown.bytes_of("state")) == (60, 24, 24)
    assert (shown.down, shown.up) == (60, 60)
    assert "norm/mean  global state  3      float32     12  dense" in repr(shown)
    frozen = fr.describe(replace(model("head"), frozen=("0/w",)))
    assert {leaf.path: leaf.kind for leaf in frozen.leaves}["w"] == "global frozen"


@pytest.mark.parametrize(
    "make",
    [
        algorithm,
        lambda made: fr.fedavg(made, solver(), sgd(1.0)),
        lambda made: compressed(algorithm(made), bits=4),
        lambda made: fr.local_only(made, solver()),
    ],
    ids=["fedrecon", "fedavg", "compressed", "local_only"],
)
def test_bytes_are_those_of_a_round(make):
    for made, data in ((rating_model(scale=True), federation()), (model("head"), clients())):
        trained = make(made)
        simulation = fr.Simulation(trained, data, fr.Everyone())
        (round,) = simulation.rounds(simulation.init(), 1)
        shown = fr.describe(trained)
        rows = [0] * len(data)
        if shown.rows:
            rows = [len(np.unique(data.take(np.array([i])).column("item"))) for i in range(len(data))]
        down = sum(shown.down + sum(n * row.down for row in shown.rows) for n in rows)
        assert down == round.bytes_down
        if trained.compression is None:
            up = sum(shown.up + sum(n * row.up for row in shown.rows) for n in rows)
            assert up == round.bytes_up
        elif not shown.rows:
            assert shown.up * len(data) == round.bytes_up


def test_rows_of_tables_are_named_with_their_fields():
    shown = fr.describe(rating_model())
    (rows,) = shown.rows
    assert set(rows.leaves) == {"item/factors", "item/bias"}
    assert (rows.down, rows.up) == (12, 16)
    assert {leaf.sent for leaf in shown.leaves if leaf.kind == "global"} == {"rows by item"}
    assert f"{ITEMS} x 2" in repr(shown)
    assert "for each row of item/bias, item/factors that it touches 12 and 16 bytes" in repr(shown)


def test_what_is_no_model_is_refused():
    with pytest.raises(TypeError, match="model"):
        fr.describe({"w": 1})
