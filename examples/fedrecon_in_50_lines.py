"""Predicts who answers which question right, while what is known of a student stays with the student."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fedrecon import Clients, Mean, Solver, Table, fedrecon, is_local, optimizer, partition, train

# Data of your own: arrays for each client. From a data frame: Clients.from_table(frame, client="student").
rng = np.random.default_rng(0)
topics, ease = rng.normal(size=(80, 2)), rng.normal(size=80)
answers: dict[str, Any] = {}
for student in range(1000):
    asked = rng.choice(80, size=rng.integers(30, 41), replace=False)
    score = 3 * topics[asked] @ rng.normal(size=2) + ease[asked] + rng.normal()
    answers[f"student {student}"] = {"question": asked, "right": score > rng.logistic(size=len(asked))}
students = Clients.from_arrays(answers).split({"train": 0.8, "validation": 0.1, "test": 0.1}, seed=0)


def init(key: Any) -> Any:
    """A model of your own: a tree of parameters, of which the student's will be local."""
    question = {"topics": 0.3 * jax.random.normal(key, (80, 2)), "ease": jnp.zeros(80)}
    return {"question": question, "student": {"skills": jnp.zeros(2), "level": jnp.zeros(())}}


def _score(params: Any, batch: Any) -> Any:
    question, student, asked = params["question"], params["student"], batch["question"]
    return question["topics"][asked] @ student["skills"] + question["ease"][asked] + student["level"]


def loss(params: Any, batch: Any, key: Any = None) -> Mean:
    """The logistic loss, one entry per example."""
    score = _score(params, batch)
    return Mean.of(jnp.logaddexp(0, score) - batch["right"] * score)


def metrics(params: Any, batch: Any) -> dict[str, Mean]:
    """What is reported, likewise."""
    hit = (_score(params, batch) > 0) == batch["right"]
    return {"cross_entropy": loss(params, batch), "accuracy": Mean.of(hit.astype(jnp.float32))}


tables = (Table("question/topics", ("question",)), Table("question/ease", ("question",)))
model = partition(init, loss, metrics, local=is_local("student"), tables=tables)
sgd, adam = optimizer("sgd", learning_rate=0.3), optimizer("adam", learning_rate=0.03)
algorithm = fedrecon(model, Solver(sgd, batch_size=5, epochs=5), Solver(sgd, batch_size=5), adam)
print(train(algorithm, students["train"], 300, evaluate=students["validation"], test=students["test"]))
