"""Compiled programs are shared by calls, and go with the algorithm that they are of."""

import gc
import weakref
from dataclasses import replace

import jax.numpy as jnp
import numpy as np
import pytest
from tests.small import solver

from fedrecon import Clients, Mean, Uniform, fedrecon, is_local, optimizer, partition
from fedrecon.algorithms._base import Broadcast
from fedrecon.core._splits import AlternateExamples, NoSplit
from fedrecon.deployment import Client
from fedrecon.evaluation._evaluate import evaluate, model_metrics
from fedrecon.serving._personalization import Personalization, TopK
from fedrecon.simulation._client_step import first_state
from fedrecon.simulation._programs import program_of
from fedrecon.simulation._simulation import Simulation

CLIENTS = Clients.from_arrays(
    {f"c{i}": {"item": np.arange(4), "y": np.ones(4, np.float32)} for i in range(3)}
)


def algorithm_over(frozen, **solver_settings):
    """An algorithm whose loss closes over an array."""

    def loss(p, batch, key=None):
        return Mean.of((frozen[batch["item"]] @ p["w"] + p["user"] - batch["y"]) ** 2)

    def init(key):
        return {"w": jnp.zeros(frozen.shape[1]), "user": jnp.zeros(())}

    model = partition(
        init,
        loss,
        lambda p, batch: {"mse": loss(p, batch)},
        local=is_local("user"),
        predict=lambda p, features: frozen[features["item"]] @ p["w"] + p["user"],
    )
    fit = solver(**solver_settings)
    return fedrecon(model, fit, fit, optimizer("sgd", learning_rate=1.0), AlternateExamples())


def evaluated(algorithm):
    evaluate(algorithm, first_state(algorithm, 0)[0], CLIENTS, split=AlternateExamples())


def evaluated_by_a_scoring_of_its_own(algorithm):
    def scoring(*arguments):
        assert algorithm.name  # a closure over the algorithm itself
        return model_metrics(*arguments)

    evaluate(algorithm, first_state(algorithm, 0)[0], CLIENTS, split=NoSplit(), scoring=scoring)


def served(algorithm):
    state = first_state(algorithm, 0)[0]
    Personalization(algorithm, state, CLIENTS.num_examples)(CLIENTS)
    Personalization(algorithm, state, CLIENTS.num_examples, top=TopK(2, "item", 9, seen=True))(CLIENTS)


def deployed(algorithm):
    simulation = Simulation(algorithm, CLIENTS, Uniform(2))
    state = next(simulation.rounds(simulation.init(), 1)).state
    Client(algorithm, CLIENTS.take([0]), "c0").update(Broadcast(state.global_params, state.round))


@pytest.mark.parametrize("settings", [{}, {"sequential": True}], ids=["vectorized", "sequential"])
@pytest.mark.parametrize("use", [evaluated, evaluated_by_a_scoring_of_its_own, served, deployed])
def test_what_a_model_closes_over_is_freed_with_its_algorithm(use, settings):
    frozen = jnp.ones((9, 5))
    left = weakref.ref(frozen)
    use(algorithm_over(frozen, **settings))
    del frozen
    gc.collect()
    assert left() is None


def test_equal_calls_share_a_program_and_only_the_last_ones_stay():
    algorithm = algorithm_over(jnp.ones((9, 5)))

    def scaled(algorithm, factor, x):
        return factor * x

    first = program_of(scaled, algorithm, 0, options={})
    assert program_of(scaled, algorithm, 0, options={}) is first
    assert first(2.0) == 0
    for factor in range(1, 40):
        assert program_of(scaled, algorithm, factor, options={})(2.0) == 2.0 * factor
        program_of(scaled, algorithm, 1, options={})  # is used again and again, and so stays
    assert len(algorithm.programs) == 32
    assert program_of(scaled, algorithm, 0, options={}) is not first
    assert [key[1][0] for key in algorithm.programs].count(1) == 1
    assert len(replace(algorithm).programs) == 0


def test_a_second_evaluation_compiles_nothing():
    algorithm = algorithm_over(jnp.ones((9, 5)))
    evaluated(algorithm)
    (program,) = algorithm.programs.values()
    evaluated(algorithm)
    assert list(algorithm.programs.values()) == [program]
    assert program._cache_size() == 1
