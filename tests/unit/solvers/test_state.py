"""Solvers fit parameters and replace state, which they do not differentiate by."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from tests.batch_norm import MOMENTUM, Network, homes, model, start

from fedrecon.core._examples import Examples
from fedrecon.core._model import leaves_of, on_both, on_global, on_local
from fedrecon.solvers._gradient import Solver
from fedrecon.solvers._implicit_diff import ImplicitDifferentiation
from fedrecon.solvers._newton import Newton
from fedrecon.solvers._state import for_state

KEY = jax.random.key(0)


def examples(client: int = 8, padding: int = 2) -> Examples:
    home = homes()[client]
    data = {name: jnp.asarray(x, jnp.float32) for name, x in home.items()}
    return Examples(data, jnp.ones(len(home["y"]), bool)).padded(len(home["y"]) + padding)


def moved(client: int = 8) -> Network:
    home = homes()[client]
    return Network.at_start().step(home["x"], home["y"], 0.0, (), moves=True)


@pytest.mark.parametrize(
    "optimizer",
    [
        optax.sgd(0.1),
        optax.adamw(0.1, weight_decay=0.5),
        optax.chain(optax.clip_by_global_norm(0.01), optax.adam(0.1)),
        optax.sgd(0.1, momentum=0.9),
    ],
)
def test_no_optimiser_touches_the_state(optimizer):
    made = model("head")
    solver = Solver(optimizer, None, schedule=lambda round: 0.5)
    new, _ = solver(on_global(made, start_local(made)), made.init_global(KEY), examples(), KEY)
    np.testing.assert_allclose(new["norm"]["mean"], moved().mean, rtol=1e-5)
    np.testing.assert_allclose(new["norm"]["var"], moved().var, rtol=1e-5)
    delta, _, _ = solver.solve_delta(
        on_global(made, start_local(made)), made.init_global(KEY), examples(), KEY
    )
    np.testing.assert_allclose(delta["norm"]["mean"], moved().mean, rtol=1e-5)


def start_local(made):
    return made.init_local(made.init_global(KEY), KEY)


@pytest.mark.parametrize("solver", [Solver(optax.sgd(0.1), 2), Newton(damping=0.1)])
def test_a_client_without_examples_keeps_its_state(solver):
    made = model("head", "norm")
    objective = on_local(made, made.init_global(KEY))
    params = start_local(made)
    nobody = replace(examples(), mask=jnp.zeros(examples().size, bool))
    new, _ = for_state(solver, objective)(objective, params, nobody, KEY)
    np.testing.assert_array_equal(new["norm"]["mean"], params["norm"]["mean"])
    np.testing.assert_array_equal(new["norm"]["var"], params["norm"]["var"])


def by_hand(objective, params, examples, key, round=None):
    """A solver that is a plain function: a step along the gradient."""

    def value(params):
        return objective.fn(params, objective.frozen, examples.batch, key).where(examples.mask).sum().value()

    gradient = jax.grad(value)(params)
    return jax.tree.map(lambda x, g: x - 0.1 * g, params, gradient), {}


@pytest.mark.parametrize(
    "solver", [Newton(damping=0.1), ImplicitDifferentiation(Newton(damping=0.1)), by_hand]
)
def test_other_solvers_fit_the_parameters_and_then_the_state_is_replaced(solver):
    without, made = model("head"), model("head", "norm")
    held = on_local(without, without.init_global(KEY))
    expected, _ = solver(held, start_local(without), examples(), KEY)
    objective = on_local(made, made.init_global(KEY))
    whole = for_state(solver, objective)
    new, _ = whole(objective, start_local(made), examples(), KEY)
    np.testing.assert_allclose(new["head"], expected["head"], rtol=1e-5)
    np.testing.assert_allclose(new["norm"]["mean"], moved().mean, rtol=1e-5)
    np.testing.assert_allclose(new["norm"]["var"], moved().var, rtol=1e-5)
    delta, rows, _ = whole.solve_delta(objective, start_local(made), examples(), KEY)
    np.testing.assert_allclose(delta["head"], new["head"] - start()["head"], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(delta["norm"]["var"], moved().var - 1, rtol=1e-4)
    assert rows == {}


def test_solvers_that_replace_no_state_refuse_it():
    made = model("head", "norm")
    objective = on_local(made, made.init_global(KEY))
    for solver in (Newton(), ImplicitDifferentiation(by_hand)):
        with pytest.raises(ValueError, match=r"fits no state, but the objective has .*norm/mean"):
            solver(objective, start_local(made), examples(), KEY)


def test_a_solver_of_all_parameters_moves_the_state_at_every_step():
    made = model("head", "norm/var")
    params = made.init_global(KEY), start_local(made)
    new, _ = Solver(optax.sgd(0.0), 3, epochs=2)(on_both(made), params, examples(6), KEY)
    home, net = homes()[6], Network.at_start()
    for first in (0, 3, 6, 0, 3, 6):
        batch = slice(first, first + 3)
        net = net.step(home["x"][batch], home["y"][batch], 0.0, (), moves=True)
    leaves = leaves_of(new)
    np.testing.assert_allclose(leaves["0/norm/mean"], net.mean, rtol=1e-5)
    np.testing.assert_allclose(leaves["1/norm/var"], net.var, rtol=1e-5)
    assert abs(float(leaves["1/norm/var"][0]) - MOMENTUM**6) > 0.01


def test_a_loss_that_reads_state_has_no_gradient_there():
    made = model("head", "norm")
    objective = on_local(made, made.init_global(KEY))
    reading = replace(
        objective,
        fn=lambda params, frozen, batch, key: objective.metrics(params, frozen, batch)["mse"],
        next_state=lambda params, frozen, batch, key: params,
    )
    new, _ = Solver(optax.sgd(0.1), None)(reading, start_local(made), examples(), KEY)
    np.testing.assert_array_equal(new["norm"]["mean"], np.zeros(3))
    assert np.any(new["head"] != np.float32(start()["head"]))
