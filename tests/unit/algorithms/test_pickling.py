"""Algorithms and results go from one process to another, as pickles."""

import copy
import pickle
import sys

import jax
import numpy as np
import pytest
from tests.small import federation, rating_model, solver

from fedrecon.algorithms._ditto import ditto
from fedrecon.algorithms._fedrecon import fedrecon
from fedrecon.experiment.training.train import train
from fedrecon.solvers._optimizers import optimizer

CLIENTS = federation(lengths=(5, 6, 7, 9, 12))
STEP = optimizer("sgd", learning_rate=1.0)


def algorithms():
    return {
        "fedrecon": fedrecon(rating_model(), solver(), solver(), STEP),
        "ditto": ditto(rating_model(), solver(), solver(), STEP, strength=0.1),
    }


# Tests check types by wrappers, which no pickle takes: so the result is made in a process without them, too.
PICKLE = """
import pickle
from tests.unit.algorithms.test_pickling import CLIENTS, algorithms
from fedrecon.evaluation._evaluate import evaluate
from fedrecon.experiment.training.train import train

def show(result):
    again = evaluate(result.algorithm, result.state, CLIENTS, client_states=result.client_states)
    print(result, result.algorithm, repr(again.over_examples()["mse"]), len(result.records))
"""


@pytest.mark.parametrize("name", algorithms())
def test_a_result_is_the_same_in_another_process(name, run_python, tmp_path):
    path = str(tmp_path / "result")
    train_it = f"result = train(algorithms()[{name!r}], CLIENTS, 2, clients_per_round=3)\n"
    here = run_python(f"{PICKLE}{train_it}pickle.dump(result, open({path!r}, 'wb'))\nshow(result)")
    there = run_python(f"{PICKLE}result = pickle.load(open({path!r}, 'rb'))\nshow(result)")
    assert here == there and "Result(2 of 2 rounds)" in here


def test_client_states_are_pickled_as_they_are(tmp_path):
    result = train(algorithms()["ditto"], CLIENTS, 3, clients_per_round=3, out=tmp_path / "run")
    states = result.client_states
    again = pickle.loads(pickle.dumps(states))
    for one, other in zip(*(jax.tree.leaves(x.get(CLIENTS.keys, 5)) for x in (states, again)), strict=True):
        np.testing.assert_array_equal(one, other)
    assert again.get(CLIENTS.keys, 5).seen.any()
    none = type(states)(jax.tree.map(np.asarray, states.get(CLIENTS.keys[:1], 1).value), CLIENTS.keys)
    assert not pickle.loads(pickle.dumps(none)).get(CLIENTS.keys, 5).seen.any()


def test_without_cloudpickle_the_message_names_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "cloudpickle", None)
    with pytest.raises(TypeError, match=r"only the package cloudpickle can pickle.*pip install cloudpickle"):
        pickle.dumps(algorithms()["fedrecon"])


def test_a_copy_is_the_algorithm_itself():
    algorithm = algorithms()["fedrecon"]
    assert copy.copy(algorithm) is algorithm and copy.deepcopy([algorithm])[0] is algorithm
