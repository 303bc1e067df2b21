"""Arguments of another kind are named: outside of tests, where no annotation is checked at run time."""

import os
import subprocess
import sys

PROGRAM = """
import numpy as np
import fedrecon as fr
from examples.own_model import homes, init, loss

sets = homes(12).split({"train": 0.5, "test": 0.5}, seed=0)
model = fr.partition(init, loss, local=fr.is_local("head"))
sgd = fr.Solver(fr.optimizer("sgd", learning_rate=0.1), batch_size=5)
algorithm = fr.fedrecon(model, sgd, sgd, fr.optimizer("sgd", learning_rate=1.0))
train = sets["train"]
for call in (
    lambda: fr.train(model, train, 1),
    lambda: fr.train(algorithm, sets, 1),
    lambda: fr.train(algorithm, train, 1, test=sets),
    lambda: fr.train(algorithm, train, 1, evaluate={"mine": 3}),
    lambda: fr.evaluate(algorithm, {"hidden": 1}, train),
    lambda: fr.Personalization(algorithm, {"hidden": 1}, train.num_examples),
    lambda: fr.partition(init, loss, local="head"),
    lambda: fr.partition(init, loss, local=fr.is_local("head"), tables=fr.Table("hidden", ("home",))),
    lambda: fr.Table("hidden", "home"),
    lambda: train.cap(2.5),
    lambda: train.column("weather forecast"),
    lambda: train.sorted_by("time"),
):
    try:
        call()
        print("nothing")
    except Exception as error:
        print(f"{type(error).__name__}: {error}")
"""

SAID = """
TypeError: algorithm must be of the class Algorithm, got Model
TypeError: clients must be of the class Clients, got dict
TypeError: the clients 'test' must be of the class Clients, got dict
TypeError: the clients 'mine' must be of the class Clients, got int
TypeError: state must be of the class ServerState, got dict
TypeError: state must be of the class ServerState, got dict
TypeError: local must be is_local(...) or a function of a leaf's path, got 'head'
TypeError: tables must be a tuple, such as (Table(leaf='hidden', fields=('home',)),), got a Table
TypeError: fields must be a tuple of names, such as ('home',), got 'home'
DataError: cap must be a whole number of at least 1, got 2.5
DataError: the clients have the fields ['weather', 'consumption'], not 'weather forecast'
DataError: the clients have the fields ['weather', 'consumption'], not 'time'
"""


def test_what_is_of_another_kind_is_named(repository):
    path = os.pathsep.join([str(repository / "src"), str(repository)])
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": path},
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == SAID.strip().splitlines()
