"""Whole numbers at every door: NumPy's are taken and become `int`, booleans and fractions are refused."""

import os
import subprocess
import sys

import numpy as np
import pytest

from fedrecon.errors import DataError, plain, whole_number

# In a process of its own, where no annotation is checked at run time, as for users.
PROGRAM = """
import pathlib
import re
import tempfile

import numpy as np
import fedrecon as fr
from examples.own_model import homes, init, loss
from fedrecon.core._pooled_view import pooled
from fedrecon.data._pooling import in_batches, numbered
from fedrecon.datasets import ratings, text
from fedrecon.evaluation import Ranking
from fedrecon.datasets.ratings._interactions import interactions, leave_one_out, with_negatives
from fedrecon.datasets.ratings._population import population
from fedrecon.datasets.ratings._synthetic import ridge_rmse
from fedrecon.datasets.text._vocabulary import Vocabulary
from fedrecon.models.next_word._model import next_word_lstm
from fedrecon.models.next_word._transformer import next_word_transformer

sets = homes(12).split({"train": 0.5, "test": 0.5}, seed=0)
train = sets["train"]
model = fr.partition(init, loss, local=fr.is_local("head"))
sgd = fr.optimizer("sgd", learning_rate=0.1)
step = fr.Solver(sgd, batch_size=5)
algorithm = fr.fedrecon(model, step, step, fr.optimizer("sgd", learning_rate=1.0))
state = fr.Simulation(algorithm, train, fr.Uniform(2)).init()
rated, planted = ratings.synthetic(6, 9)
written, _ = text.synthetic(3, sentences=4)
lstm = dict(words=4, buckets=2, output_buckets=2, embedding=4, hidden=3)
transformer = dict(words=4, buckets=2, output_buckets=2, embedding=4, heads=2, layers=1, rank=1)
arranged = dict(seed=0, words=5, buckets=2, output_buckets=2)


def each(function, **usual):
    return {name: (lambda x, name=name: function(**{**usual, name: x})) for name in usual}


DOORS = {
    **each(lambda **given: fr.Solver(sgd, **given), batch_size=2, epochs=2, max_steps=2),
    **each(fr.Newton, iterations=2),
    **{f"clients_per_round {c.__name__}": c for c in (fr.Uniform, fr.Poisson, fr.Weighted, fr.Passes)},
    **{f"batch_size {c.__name__}": c for c in (fr.AlternateBatches, fr.HalfBatches)},
    **{
        f"{name} train": door
        for name, door in each(
            lambda **given: fr.train(algorithm, train, **given),
            rounds=1, clients_per_round=2, seed=2, evaluate_every=2, checkpoint_every=2,
        ).items()
    },
    **{
        f"{name} Simulation": door
        for name, door in each(
            lambda **given: fr.Simulation(algorithm, train, fr.Uniform(2), **given),
            seed=2, clients_per_block=2, devices=1,
        ).items()
    },
    "count Simulation.rounds": lambda x: list(
        fr.Simulation(algorithm, train, fr.Uniform(2)).rounds(state, x)
    ),
    **{
        f"{name} evaluate": door
        for name, door in each(
            lambda **given: fr.evaluate(algorithm, state, train, **given), seed=2, devices=1
        ).items()
    },
    **{
        f"{name} Personalization": door
        for name, door in each(
            lambda **given: fr.Personalization(algorithm, state, train.num_examples, **given),
            seed=2, clients_per_block=2, devices=1,
        ).items()
    },
    "count TopK": lambda x: fr.TopK(x, "item", 9),
    "items TopK": lambda x: fr.TopK(1, "item", x),
    "num_items Ranking": lambda x: Ranking(x),
    "negatives Ranking": lambda x: Ranking(9, negatives=x),
    "the K of hr@K": lambda x: Ranking(9, metrics=(("hr", x),)),
    "cap": train.cap,
    "seed shuffled": train.shuffled,
    "seed split": lambda x: train.split({"train": 0.5}, x),
    "batch_size in_batches": lambda x: in_batches(numbered(train), x, 0),
    "seed in_batches": lambda x: in_batches(numbered(train), 2, x),
    "num_clients pooled": lambda x: pooled(model, x),
    "least_items": lambda x: interactions(rated, least_items=x),
    "back": lambda x: leave_one_out(rated, x),
    "count with_negatives": lambda x: with_negatives(rated, x, 9, 0),
    "num_items with_negatives": lambda x: with_negatives(rated, 2, x, 0),
    "seed with_negatives": lambda x: with_negatives(rated, 2, 9, x),
    "batch_size ridge_rmse": lambda x: ridge_rmse(planted, rated, x),
    **{
        f"{name} ratings.synthetic": door
        for name, door in each(ratings.synthetic, num_clients=3, num_items=9, num_factors=2, seed=2).items()
    },
    **{
        f"{name} population": door
        for name, door in each(
            lambda **given: next(population(**given)), num_clients=3, num_items=30, seed=2
        ).items()
    },
    **{
        f"{name} text.synthetic": door
        for name, door in each(
            text.synthetic, num_clients=3, sentences=2, kinds=2, words=3, own_words=2, length=5, seed=2
        ).items()
    },
    **{
        f"{name} text.arrange": door
        for name, door in each(lambda **given: text.arrange(written, **given), **arranged).items()
    },
    "buckets Vocabulary": lambda x: Vocabulary(["a"], x),
    "output_buckets Vocabulary": lambda x: Vocabulary(["a"], 2, x),
    "size most_frequent": lambda x: Vocabulary.most_frequent(written, x, 2),
    **{
        f"{name} {function.__name__}": door
        for function in (fr.models.matrix_factorization, fr.models.implicit_factorization)
        for name, door in each(function, num_items=9, factors=2).items()
    },
    **{f"{name} lstm": door for name, door in each(next_word_lstm, **lstm).items()},
    **{f"{name} transformer": door for name, door in each(next_word_transformer, **transformer).items()},
}
# What another parameter of the same call asks for.
GOOD = {"num_items": 30, "items TopK": 9, "devices": 1, "embedding": 4, "length": 5}


def is_plain(made):
    # No integer of NumPy may be stored or printed of what a door made.
    stored = vars(made).values() if hasattr(made, "__dict__") else ()
    return not re.search(r"np\\.u?int", repr(made)) and not any(isinstance(x, np.integer) for x in stored)


for door, call in DOORS.items():
    name = door.split(" ")[0]
    good = GOOD.get(door, GOOD.get(name, 2))
    assert is_plain(call(np.uint8(good))), door  # a type whose own arithmetic overflows soonest
    for bad, shown in ((True, "True"), (np.True_, "True"), (np.float64(2.5), "2.5"), ("2", "'2'")):
        try:
            call(bad)
        except ValueError as error:
            message = str(error)
            right = message.startswith(f"{name} ") and "must be a whole number" in message
            assert right and message.endswith(f", got {shown}"), (door, message)
        else:
            raise AssertionError(f"{door} takes {bad!r}")
given = {"rounds": 1, "clients_per_round": 2, "seed": 3, "evaluate_every": 1, "checkpoint_every": 1}
with tempfile.TemporaryDirectory() as folder:
    for name, kind in (("int", int), ("numpy", np.int64)):
        numbers = {parameter: kind(value) for parameter, value in given.items()}
        fr.train(algorithm, train, **numbers, out=f"{folder}/{name}")
    for file in ("config.toml", "fingerprint.json"):
        one, other = (pathlib.Path(folder, name, file).read_text() for name in ("int", "numpy"))
        assert one == other, (one, other)
print(len(DOORS), "doors")
"""


def test_every_door_takes_numpys_and_refuses_what_is_none(repository):
    path = os.pathsep.join([str(repository / "src"), str(repository)])
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": path},
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout.split()[0]) > 60


@pytest.mark.parametrize("value", [3, np.int8(3), np.uint64(3), np.array(3)])
def test_integers_become_int(value):
    assert type(whole_number("count", value, 1, 3)) is int


@pytest.mark.parametrize(
    ("value", "limits", "message"),
    [
        (True, (), "count must be a whole number, got True"),
        (np.False_, (0,), "count must be a whole number of at least 0, got False"),
        (3.0, (1,), "count must be a whole number of at least 1, got 3.0"),
        (np.float32(0.5), (1,), "count must be a whole number of at least 1, got 0.5"),
        (None, (1,), "count must be a whole number of at least 1, got None"),
        ("3", (1,), "count must be a whole number of at least 1, got '3'"),
        (np.int64(0), (1,), "count must be a whole number of at least 1, got 0"),
        (np.int64(9), (1, 8), "count must be a whole number from 1 to 8, got 9"),
        (np.array([3]), (1,), r"count must be a whole number of at least 1, got array\(\[3\]\)"),
    ],
)
def test_what_is_refused_is_named(value, limits, message):
    with pytest.raises(DataError, match=f"^{message}$"):
        whole_number("count", value, *limits, error=DataError)


def test_values_are_shown_as_pythons_own():
    assert [plain(x) for x in (np.int64(3), np.float64(0.1), np.str_("a"), "a", 3)] == [
        "3",
        "0.1",
        "'a'",
        "'a'",
        "3",
    ]
