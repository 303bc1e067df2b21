"""Nodes whose files number items otherwise than the run: they are renumbered by value, or refused."""

import numpy as np
import pytest
from tests.small import rating_model, sgd, solver

from fedrecon.algorithms._fedrecon import fedrecon
from fedrecon.core._splits import AlternateBatches
from fedrecon.data._clients import Clients
from fedrecon.data._sampling import Uniform
from fedrecon.deployment import Address, Client, Node, Server, Store
from fedrecon.errors import DataError, UncheckedWarning
from fedrecon.evaluation._evaluate import evaluate

pd = pytest.importorskip("pandas")  # not in the environment that has Flower
ALGORITHM = fedrecon(rating_model(), solver(), solver(), sgd(1.0), AlternateBatches(2))
NAMES = [f"i{n}" for n in range(12)]


def framed(rows):
    return Clients.from_table(pd.DataFrame(rows, columns=["client", "item", "rating"]))


TRAINED = framed([("all", name, 1.0) for name in NAMES])  # the run numbers i5 by 5
ITEMS = TRAINED.vocabularies["item"].tolist()
OWN = framed([("ann", name, float(i)) for i, name in enumerate(("i7", "i3", "i5", "i9"))])


def test_the_file_numbers_its_items_otherwise():
    assert OWN.column("item").tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize("vocabularies", [TRAINED.vocabularies, {"item": ITEMS}], ids=["arrays", "lists"])
def test_clients_are_renumbered_as_the_run_numbers(vocabularies):
    client = Client(ALGORITHM, OWN, "ann", vocabularies=vocabularies)
    assert {tuple(rows.tolist()) for rows in client.rows.values()} == {(3, 5, 7, 9)}
    node = Node(ALGORITHM, Store(OWN), vocabularies=vocabularies)
    prepared = node._client(Address(node.run, 0, 0, "ann"))
    assert {tuple(rows.tolist()) for rows in prepared.rows.values()} == {(3, 5, 7, 9)}


def test_texts_that_the_run_does_not_number_are_left_out():
    rows = {"client": ["ann"] * 3, "item": ["i7", "i3", "i5"], "rating": [1.0] * 3, "genre": list("xyz")}
    clients = Clients.from_table(pd.DataFrame(rows))
    client = Client(ALGORITHM, clients, "ann", vocabularies=TRAINED.vocabularies)
    assert {tuple(x.tolist()) for x in client.rows.values()} == {(3, 5, 7)}


def client_of(clients, **others):
    return Client(ALGORITHM, clients, "ann", **others)


def node_of(clients, **others):
    return Node(ALGORITHM, Store(clients), **others)


@pytest.mark.parametrize("make", [client_of, node_of])
def test_original_ids_without_the_vocabularies_of_the_run_are_refused(make):
    with pytest.raises(DataError, match="field 'item' of the clients has original ids, which other"):
        make(OWN)
    strangers = framed([("ann", "x", 1.0), ("ann", "y", 1.0)])
    with pytest.raises(DataError, match="none of the ids of the field 'item' is known to the run"):
        make(strangers, vocabularies=TRAINED.vocabularies)
    numbers = Clients.from_arrays({"ann": {"item": np.arange(3), "rating": np.ones(3)}})
    with pytest.raises(DataError, match="must name the original ids of the field 'item'"):
        make(numbers, vocabularies=TRAINED.vocabularies)
    make(numbers)


def test_items_that_the_run_does_not_know_are_left_out_with_a_warning():
    more = framed([("ann", name, 1.0) for name in ("i7", "new", "i3")])
    with pytest.warns(RuntimeWarning, match="1 example of the clients was left out"):
        client = Client(ALGORITHM, more, "ann", vocabularies=TRAINED.vocabularies)
    assert {tuple(rows.tolist()) for rows in client.rows.values()} == {(3, 7)}


def test_the_servers_state_knows_by_what_it_was_trained():
    server = Server(ALGORITHM, ["ann"], Uniform(1), vocabularies=TRAINED.vocabularies)
    right = OWN._with(
        columns={"item": np.array([7, 3, 5, 9], np.int32), "rating": OWN.column("rating")},
        vocabularies=TRAINED.vocabularies,
    )
    split = AlternateBatches(2)
    one, other = (evaluate(ALGORITHM, server.state, x, split=split).over_examples() for x in (OWN, right))
    assert one == other
    unknown = Server(ALGORITHM, ["ann"], Uniform(1))
    with pytest.warns(UncheckedWarning, match="not checked: the clients number the field 'item' by"):
        evaluate(ALGORITHM, unknown.state, OWN, split=split)
