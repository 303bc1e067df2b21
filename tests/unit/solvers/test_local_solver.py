"""What a solver may tell of itself, and what is taken for granted of a plain function."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from fedrecon import Examples, Mean, Newton, Solver
from fedrecon.core import Objective, Table
from fedrecon.solvers import AbstractSolver, as_solver

EXAMPLES = Examples({"y": jnp.array([1.0, 3.0, 0.0])}, jnp.array([True, True, False]))
OBJECTIVE = Objective(fn=lambda params, frozen, batch, key: Mean.of(jnp.square(params - batch["y"])))
START, KEY = jnp.zeros(()), jax.random.key(0)


def halfway(objective, params, examples, key, round=None):
    """Goes half of the way to the mean."""
    target = Mean.of(examples.data["y"]).where(examples.mask).sum().value()
    return (params + target) / 2, {"loss": Mean(jnp.float32(1.0), jnp.float32(2.0))}


def test_plain_function_has_all_defaults():
    solver = as_solver(halfway)
    assert float(solver(OBJECTIVE, START, EXAMPLES, KEY)[0]) == 1.0
    change, rows, metrics = solver.solve_delta(OBJECTIVE, jnp.float32(1.0), EXAMPLES, KEY)
    assert float(change) == 0.5
    assert rows == {} and set(metrics) == {"loss"}
    assert solver.cost(EXAMPLES) == {}
    assert solver.examples_per_step(EXAMPLES) is None
    assert solver.locality({"item": jnp.zeros((3, 2))}, (Table("item", ("item",)),)) == "dense"
    assert solver.vectorized() is solver


def test_solver_that_derives_from_the_class_is_taken_as_it_is():
    for solver in (Newton(), Solver(optax.sgd(0.1), batch_size=1)):
        assert as_solver(solver) is solver


def test_defaults_may_be_overridden_one_by_one():
    class Counted(AbstractSolver):
        def __call__(self, objective, params, examples, key, round=None):
            return halfway(objective, params, examples, key, round)

        def cost(self, examples, round=None):
            return {"solves": 7}

    solver = as_solver(Counted())
    assert solver.cost(EXAMPLES) == {"solves": 7}
    assert float(solver.solve_delta(OBJECTIVE, START, EXAMPLES, KEY)[0]) == 1.0


def test_class_without_a_call_is_no_solver():
    with pytest.raises(TypeError, match="abstract"):
        AbstractSolver()


def test_gradient_descent_tells_its_steps_and_its_vectorised_form():
    solver = Solver(optax.sgd(0.1), batch_size=1, sequential=True)
    np.testing.assert_array_equal(solver.examples_per_step(EXAMPLES), [1, 1, 0])
    assert solver.sequential and not solver.vectorized().sequential
