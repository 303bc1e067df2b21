"""A client by itself: what it asks for, what it answers, and that it answers as in the simulator."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tests.small import ITEMS, federation, rating_model, sgd, solver

from fedrecon.algorithms._base import Broadcast
from fedrecon.algorithms._ditto import ditto
from fedrecon.algorithms._fedrecon import fedrecon
from fedrecon.core._model import leaves_of
from fedrecon.core._splits import AlternateBatches
from fedrecon.deployment._client import Client
from fedrecon.errors import DataError

CLIENTS = federation(repeats=True)
MODEL = rating_model(two_fields=True, scale=True)
ALGORITHM = fedrecon(MODEL, solver(), solver(), sgd(1.0), AlternateBatches(2))
WHOLE = Broadcast(jax.jit(MODEL.init_global)(jax.random.key(0)), jnp.int32(0))


def client(name="c8", algorithm=ALGORITHM, **others):
    return Client(algorithm, CLIENTS[name], name, 3, **others)


def cut(broadcast, rows):
    params = leaves_of(broadcast.global_params)
    small = {leaf: np.asarray(params[leaf])[ids] for leaf, ids in rows.items()}
    given = {"item": {name: small[f"item/{name}"] for name in ("factors", "bias")}, "scale": params["scale"]}
    return broadcast._replace(global_params=given)


def test_rows_are_those_of_the_examples_in_ascending_order():
    data, rows = CLIENTS["c8"], client().rows
    wanted = np.unique(np.concatenate([data["item"], data["previous"]]))
    np.testing.assert_array_equal(rows["item/factors"], wanted)
    assert rows["item/factors"].dtype == np.int32


def test_order_of_distinct_items_does_not_show():
    data = {"item": np.array([7, 3, 5]), "previous": np.array([0, 1, 2]), "rating": np.ones(3)}
    model = rating_model()
    rows = Client(fedrecon(model, solver(), solver(), sgd(1.0)), data, "ann").rows
    assert rows["item/factors"].tolist() == [3, 5, 7]


def test_rows_and_whole_tables_give_the_same_answer():
    whole = client().update(WHOLE)
    own = client()
    by_rows = own.update(cut(WHOLE, own.rows))
    jax.tree.map(np.testing.assert_array_equal, whole, by_rows)


def test_update_is_that_of_the_algorithm_on_whole_tables():
    own = client()
    update = own.update(WHOLE)
    padded = client(length=40).update(WHOLE)
    rows = own.rows["item/factors"]
    assert update.delta.total["item"]["factors"].shape == (len(rows), 2)
    assert update.delta.total["scale"].shape == ()
    for a, b in zip(jax.tree.leaves(update), jax.tree.leaves(padded), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_all_rows_that_were_asked_for_are_sent_whichever_the_query_set_has():
    own = client("c8")
    update = own.update(WHOLE)
    assert {leaf: ids.tolist() for leaf, ids in update.rows.items()} == {
        leaf: ids.tolist() for leaf, ids in own.rows.items()
    }


def test_state_goes_on_from_round_to_round():
    algorithm = ditto(rating_model(), solver(), solver(), sgd(1.0))
    broadcast = Broadcast(jax.jit(algorithm.model.init_global)(jax.random.key(0)), jnp.int32(0))
    own = client(algorithm=algorithm)
    assert own.state is None
    own.update(broadcast)
    first = own.state
    own.update(broadcast._replace(round=jnp.int32(1)))
    again = client(algorithm=algorithm, state=first)
    again.update(broadcast._replace(round=jnp.int32(1)))
    jax.tree.map(np.testing.assert_array_equal, own.state, again.state)
    assert any(np.any(a != b) for a, b in zip(*map(jax.tree.leaves, (first, own.state)), strict=True))


def test_client_without_examples_answers_with_weight_0():
    update = Client(ALGORITHM, CLIENTS.take([0]), "c0", 3).update(WHOLE)
    assert float(update.delta.weight) == 0
    assert all(not np.any(x) for x in jax.tree.leaves(update.delta.total))


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"item": WHOLE.global_params["item"]}, "must have the leaves"),
        ({**WHOLE.global_params, "scale": np.ones(2)}, "'scale' must be of shape"),
        (
            {**WHOLE.global_params, "item": {"factors": np.ones((ITEMS - 1, 2)), "bias": np.ones(ITEMS)}},
            "'item/factors' must be of shape",
        ),
    ],
)
def test_wrong_broadcast_is_refused(params, message):
    with pytest.raises(ValueError, match=message):
        client().update(WHOLE._replace(global_params=params))


def test_examples_of_another_client_are_refused():
    with pytest.raises(DataError, match="alone"):
        Client(ALGORITHM, CLIENTS, "c1")


def test_item_that_the_table_has_not_is_refused():
    data = {**CLIENTS["c2"], "item": np.full(2, ITEMS)}
    with pytest.raises(DataError, match=f"from 0 to {ITEMS - 1}"):
        Client(ALGORITHM, data, "ann")
