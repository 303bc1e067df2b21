"""Clients that number their items otherwise than those trained on: mapped by value, or refused."""

import pickle
import warnings

import jax
import numpy as np
import pandas as pd
import pytest
from tests.small import ITEMS, rating_model, sgd, solver

from fedrecon.algorithms._base import ServerState
from fedrecon.algorithms._fedrecon import fedrecon
from fedrecon.core._splits import AlternateBatches
from fedrecon.data._clients import Clients
from fedrecon.data._sampling import Uniform
from fedrecon.errors import DataError, UncheckedWarning
from fedrecon.evaluation._evaluate import evaluate
from fedrecon.experiment.training.train import train
from fedrecon.serving._personalization import Personalization, TopK
from fedrecon.simulation._simulation import Simulation
from fedrecon.simulation._trained_state import TrainedState

ALGORITHM = fedrecon(rating_model(), solver(), solver(), sgd(1.0), AlternateBatches(2))
SPLIT = AlternateBatches(2)


def rows(seed, clients, items):
    random = np.random.default_rng(seed)
    return [
        (f"{seed}-{c}", item, float(random.integers(1, 6)))
        for c in range(clients)
        for item in random.permutation(items)[:8]
    ]


def framed(table):
    return Clients.from_table(pd.DataFrame(table, columns=["client", "item", "rating"]))


NAMES = [f"i{n}" for n in range(12)]
TRAIN = framed(rows(0, 6, NAMES))
SERVED = rows(1, 4, NAMES)
OWN = framed(SERVED)  # numbered by first appearance, otherwise than TRAIN
NUMBER = {name: i for i, name in enumerate(TRAIN.vocabularies["item"].tolist())}
RIGHT = OWN.with_columns(item=np.zeros(32, np.int32))._with(
    columns={
        "item": np.array([NUMBER[x] for _, x, _ in SERVED], np.int32),
        "rating": OWN.column("rating"),
    },
    vocabularies=TRAIN.vocabularies,
)


@pytest.fixture(scope="module")
def result():
    return train(
        ALGORITHM, TRAIN, 3, test=RIGHT, evaluation_split=SPLIT, evaluate={"some": RIGHT.take([0, 1])}
    )


def test_clients_are_numbered_otherwise():
    assert OWN.column("item").tolist() != RIGHT.column("item").tolist()
    assert list(NUMBER) != OWN.vocabularies["item"].tolist()


def same(one, other):
    for name in one.per_client:
        np.testing.assert_array_equal(one.per_client[name].total, other.per_client[name].total)


def test_training_maps_the_clients_that_it_evaluates(result):
    other = train(ALGORITHM, TRAIN, 3, test=OWN, evaluation_split=SPLIT, evaluate={"some": OWN.take([0, 1])})
    for name in ("test", "some"):
        same(other.evaluations[name], result.evaluations[name])
    frame = pd.DataFrame(rows(0, 6, NAMES), columns=["client", "item", "rating"])
    again = Clients.from_table(frame.astype({"item": pd.CategoricalDtype(NAMES)}))
    assert again.column("item").tolist() != TRAIN.column("item").tolist()
    marks = np.arange(48) % 2
    one, two = (
        train(ALGORITHM, TRAIN, 1, held_out={"test": x.with_columns(held_out=marks)}) for x in (TRAIN, again)
    )
    same(one.evaluations["seen test"], two.evaluations["seen test"])


def test_evaluation_maps_clients(result):
    wanted = evaluate(ALGORITHM, result.state, RIGHT, split=SPLIT)
    same(evaluate(ALGORITHM, result.state, OWN, split=SPLIT), wanted)
    same(wanted, result.evaluations["test"])
    changed = result.state._replace(global_params=result.global_params)
    same(evaluate(ALGORITHM, changed, OWN, split=SPLIT), wanted)


@pytest.mark.parametrize("top", [None, TopK(3, "item", 12), TopK(3, "item", 12, seen=True)])
def test_personalisation_maps_clients(result, top):
    serve = Personalization(ALGORITHM, result.state, OWN.num_examples, top=top)
    found, wanted = serve(OWN), serve(RIGHT)
    assert found.keys() == wanted.keys()
    for name in found:
        np.testing.assert_array_equal(found[name], wanted[name])
    for name, values in serve(OWN.cap(4), OWN).items():
        np.testing.assert_array_equal(values, serve(RIGHT.cap(4), RIGHT)[name])


UNKNOWN = framed([*SERVED, ("1-0", "new", 3.0), ("1-0", "newer", 3.0)])


def test_examples_of_unknown_items_are_left_out_with_a_warning(result):
    text = "2 examples of the clients were left out, of ids unknown to the training clients"
    with pytest.warns(RuntimeWarning, match=text):
        same(evaluate(ALGORITHM, result.state, UNKNOWN, split=SPLIT), result.evaluations["test"])
    with pytest.warns(RuntimeWarning, match=text):
        Personalization(ALGORITHM, result.state, UNKNOWN.num_examples)(UNKNOWN)
    with pytest.warns(RuntimeWarning, match="2 examples of 'test' were left out"):
        other = train(ALGORITHM, TRAIN, 3, test=UNKNOWN, evaluation_split=SPLIT)
    same(other.evaluations["test"], result.evaluations["test"])


WITHOUT = Clients.from_arrays({"ann": {"item": [0, 1, 2], "rating": [1.0, 2.0, 3.0]}})
STRANGERS = framed([("ann", "x", 1.0), ("ann", "y", 2.0)])


@pytest.mark.parametrize(
    ("clients", "message"),
    [
        (WITHOUT, "the clients must name the original ids of the field 'item', as those of the run do"),
        (STRANGERS, "none of the ids of the field 'item' is known to the run: theirs are like 'x'"),
    ],
)
def test_clients_that_cannot_be_mapped_are_refused(result, clients, message):
    with pytest.raises(DataError, match=message):
        evaluate(ALGORITHM, result.state, clients, split=SPLIT)
    with pytest.raises(DataError, match=message):
        Personalization(ALGORITHM, result.state, clients.num_examples)(clients)
    for given in ({"test": clients}, {"evaluate": clients}, {"held_out": {"test": clients}}):
        with pytest.raises(DataError, match=message):
            train(ALGORITHM, TRAIN, 1, **given)


def test_original_ids_that_the_training_clients_did_not_have_are_refused():
    plain = Clients.from_arrays({i: {"item": np.arange(6), "rating": np.ones(6)} for i in range(3)})
    message = "field 'item' of the clients has original ids, that of the training clients had none"
    result = train(ALGORITHM, plain, 1)
    with pytest.raises(DataError, match=message):
        evaluate(ALGORITHM, result.state, OWN, split=SPLIT)
    with pytest.raises(DataError, match=message):
        train(ALGORITHM, plain, 1, test=OWN)
    evaluate(ALGORITHM, result.state, WITHOUT, split=SPLIT)


def test_states_of_a_simulation_know_their_vocabularies():
    simulation = Simulation(ALGORITHM, TRAIN, Uniform(3))
    state = next(simulation.rounds(simulation.init(), 1)).state
    for known in (simulation.init(), state, state._replace(round=state.round)):
        wanted = evaluate(ALGORITHM, known, RIGHT, split=SPLIT)
        same(evaluate(ALGORITHM, known, OWN, split=SPLIT), wanted)


def test_a_state_that_does_not_know_them_is_told():
    simulation = Simulation(ALGORITHM, TRAIN, Uniform(3))
    known = simulation.init()
    plain, copied = ServerState(*known), jax.tree.map(lambda x: x, known)
    for state in (plain, copied, TrainedState.of(plain, None)):
        with pytest.warns(UncheckedWarning, match="not checked: the clients number the field 'item'"):
            evaluate(ALGORITHM, state, OWN, split=SPLIT)
        with pytest.warns(UncheckedWarning, match="not checked"):
            Personalization(ALGORITHM, state, OWN.num_examples)(OWN)
        evaluate(ALGORITHM, state, WITHOUT, split=SPLIT)
    told = TrainedState.of(plain, {"item": TRAIN.vocabularies["item"].tolist()})
    same(evaluate(ALGORITHM, told, OWN, split=SPLIT), evaluate(ALGORITHM, told, RIGHT, split=SPLIT))


def test_decimals_of_another_type_are_the_same_ids():
    numbers = framed([("a", str(n), 1.0) for n in range(5)] * 2)
    mixed = framed([("b", "x", 1.0), *(("b", str(n), 2.0) for n in (4, 2, 0))])
    assert numbers.vocabularies["item"].dtype == np.int64 and mixed.vocabularies["item"].dtype == object
    result = train(ALGORITHM, numbers, 1)
    with pytest.warns(RuntimeWarning, match="1 example of the clients was left out"):
        evaluate(ALGORITHM, result.state, mixed, split=SPLIT)


def test_the_state_is_as_others(result):
    assert isinstance(result.state, TrainedState)
    again = pickle.loads(pickle.dumps(jax.device_get(result.state)))
    assert [len(jax.tree.leaves(x)) for x in (again, result.state)] == [
        len(jax.tree.leaves(tuple(result.state)))
    ] * 2
    simulation = Simulation(ALGORITHM, TRAIN, Uniform(3))
    for _ in simulation.rounds(result.state, 2):
        pass
    assert simulation.compilations <= 2  # as from a state of its own
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        evaluate(ALGORITHM, next(simulation.rounds(result.state, 1)).state, RIGHT, split=SPLIT)
    assert len(NAMES) <= ITEMS
