"""A cohort as arrays: padding, renumbered rows, and the errors of a client's data."""

from dataclasses import replace

import jax
import numpy as np
import pytest
from tests.small import ITEMS, federation, rating_model

from fedrecon.core._model import Model, Table
from fedrecon.data._clients import Clients
from fedrecon.errors import DataError
from fedrecon.simulation._batches import Layout, examples_of, key_of
from fedrecon.simulation._block_plan import Slot

SHAPES = {
    "item": {
        "factors": jax.ShapeDtypeStruct((ITEMS, 2), "float32"),
        "bias": jax.ShapeDtypeStruct((ITEMS,), "float32"),
    }
}
KEYS = np.arange(8, dtype=np.uint32).reshape(4, 2)


def layout(clients, model=None):
    return Layout(model or rating_model(), clients, SHAPES)


def clients_of(item, **others):
    return Clients.from_arrays(
        {"ann": {"item": [0], **{f: x[:1] for f, x in others.items()}}, "bob": {"item": item, **others}}
    )


def test_blocks_of_padded_clients():
    clients = federation(lengths=(3, 0, 5, 2))
    batch = layout(clients).batch(Slot(2, 2, 6), np.array([2, 0, 3]), KEYS[:3], cut=())
    assert batch.count.tolist() == [[5, 3], [2, 0]]
    assert batch.real.tolist() == [[True, True], [True, False]]
    assert batch.key.tolist() == [[[0, 1], [2, 3]], [[4, 5], [0, 0]]]
    assert batch.rows == {}
    for place, client in (((0, 0), "c2"), ((0, 1), "c0"), ((1, 0), "c3")):
        for field, x in clients[client].items():
            found = batch.data[field][place]
            assert found[: len(x)].tolist() == x.tolist()
            assert not found[len(x) :].any()


def test_ids_that_repeat_are_renumbered_to_the_rows_of_the_client():
    model = rating_model(two_fields=True)
    clients = federation(repeats=True, lengths=(3, 0, 12, 2))
    found = layout(clients, model)
    assert found.positional == ()
    batch = found.batch(Slot(1, 4, 13), np.arange(4), KEYS)
    rows = batch.rows["item+previous"][0]
    assert rows.shape == (4, 26)
    for i, client in enumerate(("c0", "c1", "c2", "c3")):
        own = np.unique(np.concatenate([clients[client]["item"], clients[client]["previous"]]))
        assert rows[i, : len(own)].tolist() == own.tolist()
        assert (rows[i, len(own) :] == ITEMS).all()
        for field in ("item", "previous"):
            n = len(clients[client][field])
            assert rows[i][batch.data[field][0, i, :n]].tolist() == clients[client][field].tolist()
            assert (batch.data[field][0, i] < 26).all()
    assert found.touched(np.arange(4))["item+previous"].tolist() == [
        len(np.unique(np.concatenate([c["item"], c["previous"]])))
        for c in map(clients.__getitem__, clients.ids)
    ]


def test_ids_that_never_repeat_are_positions():
    clients = federation(lengths=(3, 0, 5))
    found = layout(clients)
    assert found.positional == ("item",)
    batch = found.batch(Slot(1, 3, 6), np.arange(3), KEYS[:3])
    assert "item" not in batch.data
    rows = batch.rows["item"][0]
    assert rows[2].tolist() == [*clients["c2"]["item"].tolist(), ITEMS]
    assert (rows[1] == ITEMS).all()
    assert found.touched(np.array([2, 1])).keys() == {"item"}
    assert found.touched(np.array([2, 1]))["item"].tolist() == [5, 0]


def test_whole_tables_where_a_client_could_touch_as_many_rows():
    found = layout(federation(lengths=(3, 5)))
    (group,) = found.groups
    assert found.by_rows(group, Slot(1, 2, ITEMS - 1))
    assert not found.by_rows(group, Slot(1, 2, ITEMS))
    batch = found.batch(Slot(1, 2, ITEMS), np.arange(2), KEYS[:2])
    assert batch.rows == {}
    assert "item" in batch.data


@pytest.mark.parametrize(
    ("item", "message"),
    [
        (
            [3, ITEMS],
            rf"'item' must hold numbers from 0 to {ITEMS - 1}, .* client 'bob' has \[{ITEMS}\] at example 1",
        ),
        ([3, 5, -1], r"client 'bob' has \[-1\] at example 2"),
        ([2.0, 1.0], "field 'item' indexes a table, so it must hold whole numbers, got float32"),
        ([2**40, 1], "field 'item' holds 64-bit numbers that do not fit 32 bits"),
    ],
    ids=["too large", "negative", "float", "64 bits"],
)
def test_ids_that_are_refused(item, message):
    with pytest.raises(DataError, match=message):
        layout(clients_of(item))


def test_ids_with_axes_that_are_refused():
    model = replace(rating_model(), tables=(Table("item/bias", ("words",)),))
    with pytest.raises(DataError, match=rf"client 'bob' has \[{ITEMS}, 7\] at example 1"):
        layout(clients_of([1, 1], words=np.array([[0, 1], [ITEMS, 7]])), model)


@pytest.mark.parametrize("kind", [np.int8, np.uint8])
def test_ids_of_a_small_type(kind):
    shapes = {"item": {"bias": jax.ShapeDtypeStruct((256,), "float32")}}
    model = replace(rating_model(), tables=(Table("item/bias", ("item",)),))
    clients = clients_of(np.array([3, 3, 5], kind))
    found = Layout(model, clients, shapes)
    batch = found.batch(Slot(1, 2, 4), np.arange(2), KEYS[:2])
    assert batch.rows["item"].tolist() == [[[0, 256, 256, 256], [3, 5, 256, 256]]]
    assert batch.data["item"].tolist() == [[[0, 1, 1, 1], [0, 0, 1, 2]]]
    assert found.touched(np.arange(2))["item"].tolist() == [1, 2]


def test_another_field_of_64_bits():
    with pytest.raises(DataError, match=r"field 'time' holds 64-bit numbers .* clients.select"):
        layout(clients_of([1, 2], time=np.array([2**40, 0])))
    layout(clients_of([1, 2], time=np.array([2**40, 0])).select("item"))


@pytest.mark.parametrize(
    ("table", "kind", "message"),
    [
        (
            Table("item/bias", ("itm",)),
            DataError,
            r"indexed by the field 'itm', but the clients have \['item'\]; did you mean 'item'",
        ),
        (Table("item/bia", ("item",)), ValueError, "leaf 'item/bia', .*; did you mean 'item/bias'"),
    ],
    ids=["field", "leaf"],
)
def test_tables_with_unknown_names(table, kind, message):
    model: Model = replace(rating_model(), tables=(table,))
    with pytest.raises(kind, match=message):
        layout(clients_of([1]), model)


def test_examples_of_a_client():
    examples = examples_of({"x": np.arange(4)}, 3, 4, ("item",))
    assert examples.mask.tolist() == [True, True, True, False]
    assert isinstance(examples.data["item"], np.ndarray)
    assert examples.data["item"].tolist() == [0, 1, 2, 3]
    assert examples.positional == ("item",)


def test_keys_are_of_one_kind_whatever_the_default():
    with jax.default_prng_impl("rbg"):
        key = key_of(np.array([1, 2], np.uint32))
    assert "fry" in str(key.dtype)
