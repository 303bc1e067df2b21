"""The gradient through the reconstruction: as derived by hand, and as finite differences."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tests.small import examples, federation, rating_model, sgd, solver

from fedrecon.algorithms._base import Broadcast
from fedrecon.algorithms._fedrecon import fedrecon
from fedrecon.algorithms._full_gradient import full_gradient
from fedrecon.algorithms._maml import first_order_maml, maml
from fedrecon.core._examples import Examples
from fedrecon.core._mean import Mean
from fedrecon.core._model import Model, fully_global
from fedrecon.core._splits import AlternateExamples
from fedrecon.solvers._gradient import Solver
from fedrecon.solvers._implicit_diff import ImplicitDifferentiation
from fedrecon.solvers._newton import Newton

DESCENT = solver(1.0, None, reduction="sum")  # its delta is the negative gradient of the summed loss
X, Y = np.array([1.0, -0.5, 2.0, 0.3, 1.5, 0.7]), np.array([2.0, 1.0, -1.0, 0.5, 3.0, 0.2])
RATE, START, PENALTY, G = 0.15, 0.4, 0.8, 0.6


def line(penalty: float = 0.0) -> Model:
    """y = g x + l."""

    def loss(g: Any, x: Any, batch: Any, key: Any) -> Mean:
        return Mean.of(jnp.square(batch["y"] - g * batch["x"] - x))

    return Model(
        init_global=lambda key: jnp.float32(G),
        init_local=lambda g, key: jnp.float32(START),
        loss=loss,
        metrics=lambda g, x, batch: {},
        penalty=lambda g, x: penalty * jnp.square(x),
    )


def delta(algorithm: Any, given: Examples, params: Any) -> Any:
    broadcast = Broadcast(params, jnp.int32(0))
    update, _ = jax.jit(algorithm.client_update)(broadcast, (), given, jax.random.key(2))
    return update.delta.value()


GIVEN = Examples({"x": np.float32(X), "y": np.float32(Y)}, np.ones(6, bool))
(XS, YS), (XQ, YQ) = ((X[i::2], Y[i::2]) for i in (0, 1))


def test_through_two_steps_as_derived_by_hand():
    # l <- l - 2 RATE (l - mean(y - g x)), twice; dl/dg follows the same recursion.
    local, slope = START, 0.0
    for _ in range(2):
        local, slope = (
            local - 2 * RATE * (local - np.mean(YS - G * XS)),
            slope - 2 * RATE * (slope + np.mean(XS)),
        )
    wanted = 2 * np.sum((YQ - G * XQ - local) * (XQ + slope))
    stages = solver(RATE, None, epochs=2), DESCENT
    found = delta(full_gradient(line(), *stages, sgd(1.0), AlternateExamples()), GIVEN, jnp.float32(G))
    np.testing.assert_allclose(found, wanted, rtol=1e-5)
    held = delta(fedrecon(line(), *stages, sgd(1.0), AlternateExamples()), GIVEN, jnp.float32(G))
    np.testing.assert_allclose(held, 2 * np.sum((YQ - G * XQ - local) * XQ), rtol=1e-5)


@pytest.mark.parametrize(
    "stage", [Newton(), ImplicitDifferentiation(solver(0.05, None, epochs=100, reduction="sum"))]
)
def test_at_the_optimum_as_derived_by_hand(stage):
    local, slope = np.sum(YS - G * XS) / (3 + PENALTY), -np.sum(XS) / (3 + PENALTY)
    wanted = 2 * np.sum((YQ - G * XQ - local) * (XQ + slope))
    algorithm = full_gradient(line(PENALTY), stage, DESCENT, sgd(1.0), AlternateExamples())
    np.testing.assert_allclose(delta(algorithm, GIVEN, jnp.float32(G)), wanted, rtol=1e-4)


def test_maml_as_derived_by_hand():
    # Tuned are g and l: t = (g, l) - 2 RATE mean(r (x, 1)) with r = g x + l - y, and dt/d(g, l) = I - RATE H.
    design, query = (np.stack([x, np.ones_like(x)], 1) for x in (XS, XQ))
    start = np.array([G, START])
    tuned = start - 2 * RATE / 3 * design.T @ (design @ start - YS)
    direct = -2 * query.T @ (query @ tuned - YQ)
    through = (np.eye(2) - 2 * RATE / 3 * design.T @ design) @ direct
    params = jnp.float32(G), jnp.float32(START)
    for algorithm, wanted in ((maml, through), (first_order_maml, direct)):
        made = algorithm(line(), solver(RATE, None), DESCENT, sgd(1.0), AlternateExamples())
        np.testing.assert_allclose(delta(made, GIVEN, params), wanted, rtol=1e-5)


CLIENTS = federation(repeats=True, lengths=(8,))


@pytest.mark.parametrize(
    ("make", "stage"),
    [
        (full_gradient, solver(0.05, 2, epochs=2)),
        (full_gradient, Newton()),
        (full_gradient, Newton(iterations=3)),
        (maml, Solver(sgd(0.05, momentum=0.9), 2)),
    ],
)
def test_as_finite_differences(make, stage):
    """Of the query loss of reconstructed parameters, along a random direction."""
    model = rating_model(two_fields=True)
    algorithm = make(model, stage, DESCENT, sgd(1.0), AlternateExamples())
    given = examples(CLIENTS, "c0", 10)
    support, query = AlternateExamples()(given, None)
    params = (model if make is full_gradient else fully_global(model)).init_global(jax.random.key(0))
    direction = jax.tree.map(lambda x: jax.random.normal(jax.random.key(x.size), x.shape), params)

    @jax.jit
    def loss(step: Any) -> Any:
        moved = jax.tree.map(lambda x, d: x + step * d, params, direction)
        local = algorithm.personalize(Broadcast(moved, jnp.int32(0)), (), support, jax.random.key(2))
        losses = algorithm.personal_model.loss(moved, local, query.data, None)
        return losses.where(query.mask).sum().total

    step = 1e-2
    differences = [(loss(k * step) - loss(-k * step)) / (2 * k * step) for k in (1, 2)]
    wanted = (4 * differences[0] - differences[1]) / 3  # Richardson's, of fourth order
    gradient = jax.tree.map(jnp.negative, delta(algorithm, given, params))
    found = sum(jnp.vdot(a, b) for a, b in zip(*map(jax.tree.leaves, (gradient, direction)), strict=True))
    np.testing.assert_allclose(found, wanted, rtol=5e-3)
