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
from fedrecon.evaluation._evaluate import evaluate
from fedrecon.experiment.training.train import train
from fedrecon.solvers._optimizers import optimizer

CLIENTS = federation(lengths=(5, 6, 7, 9, 12))
STEP = optimizer("sgd", learning_rate=1.0)


def algorithms():
    return {
        "fedrecon": fedrecon(rating_model(), solver(), solver(), STEP),
        "ditto": ditto(rating_model(), solver(), solver(), STEP, strength=0.1),
    }


@pytest.mark.parametrize("name", algorithms())
def test_a_result_is_the_same_in_another_process(name, run_python, tmp_path):
    algorithm = algorithms()[name]
    result = train(algorithm, CLIENTS, 2, clients_per_round=3, test=CLIENTS)
    (tmp_path / "result").write_bytes(pickle.dumps(result))
    measured = evaluate(algorithm, result.state, CLIENTS, client_states=result.client_states)
    shown = run_python(
        f"""
import pickle
from tests.small import federation
from fedrecon.evaluation._evaluate import evaluate
result = pickle.load(open({str(tmp_path / "result")!r}, "rb"))
clients = federation(lengths=(5, 6, 7, 9, 12))
again = evaluate(result.algorithm, result.state, clients, client_states=result.client_states)
print(result)
print(result.algorithm)
print(repr(again.over_examples()["mse"]), len(result.records), result.records.path)
"""
    )
    lines = [repr(result), repr(algorithm)]
    lines.append(f"{measured.over_examples()['mse']!r} {len(result.records)} None")
    assert shown.splitlines() == lines


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
