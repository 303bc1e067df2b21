"""Newton's method: its limits and what it leaves alone. Its exactness is among the equivalences."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedrecon.core._examples import Examples
from fedrecon.core._mean import Mean
from fedrecon.core._model import Objective
from fedrecon.solvers._newton import Newton


def test_prints():
    assert repr(Newton(2, 0.5)) == "Newton(iterations=2, damping=0.5)"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"iterations": 0}, "iterations must be a whole number of at least 1, got 0"),
        ({"iterations": -3}, "iterations must be a whole number of at least 1, got -3"),
        ({"damping": -0.1}, "damping must not be negative, got -0.1"),
    ],
)
def test_out_of_range(settings, message):
    with pytest.raises(ValueError, match=message):
        Newton(**settings)


def fit(fn, start, penalty=lambda x, frozen: 0.0, count=3, **settings):
    data = {"x": jnp.array([1.0, 2.0, 4.0])}
    examples = Examples(data, jnp.arange(3) < count)
    objective = Objective(lambda x, frozen, batch, key: fn(x, batch["x"]), penalty=penalty)
    return Newton(**settings)(objective, start, examples, jax.random.key(0))


def squares(params, x):
    return Mean.of(jnp.square(params["a"] - x) + jnp.square(params["b"][1] - 3 * x))


START = {"a": jnp.array(9.0), "b": jnp.array([7.0, 7.0])}


def test_one_step_is_exact_and_what_has_no_slope_stays():
    found, metrics = fit(squares, START)
    np.testing.assert_allclose(found["a"], 7 / 3, rtol=1e-5)
    np.testing.assert_allclose(found["b"], [7.0, 7.0], rtol=1e-5)
    assert metrics["loss"].weight == 3
    np.testing.assert_allclose(metrics["loss"].total, squares(START, jnp.array([1.0, 2.0, 4.0])).total.sum())


def test_nothing_to_fit():
    found, metrics = fit(lambda params, x: Mean.of(jnp.square(x)), ())
    assert found == ()
    assert (metrics["loss"].total, metrics["loss"].weight) == (21, 3)


def test_work_is_a_solve_in_every_iteration():
    cost = Newton(iterations=3).cost(Examples({}, np.arange(5) < 4))
    assert {name: int(x) for name, x in cost.items()} == {"solves": 3, "example_passes": 12}


def test_without_examples_and_penalty_the_start_stays():
    found, metrics = fit(squares, START, count=0)
    jax.tree.map(np.testing.assert_array_equal, found, START)
    assert metrics["loss"].weight == 0


def test_without_examples_the_penalty_decides():
    found, _ = fit(
        squares, START, lambda x, frozen: jnp.square(x["a"] - 1) + 2 * jnp.sum(jnp.square(x["b"])), 0
    )
    np.testing.assert_allclose(found["a"], 1, rtol=1e-5)
    np.testing.assert_allclose(found["b"], [0, 0], atol=1e-5)


def test_a_step_that_is_not_finite_changes_nothing():
    found, _ = fit(lambda p, x: Mean.of(jnp.full(3, jnp.nan) * p["a"] ** 2), {"a": jnp.array(2.0)})
    assert found["a"] == 2.0


def test_damping_shortens_the_step():
    # Slope 2 * 3 * (9 - 7/3) = 40, curvature 6: with 2 more the step is 5.
    found, _ = fit(squares, START, damping=2.0)
    np.testing.assert_allclose(found["a"], 4.0, rtol=1e-5)


def test_too_many_parameters():
    with pytest.raises(ValueError, match="Newton takes at most 2,000 parameters, got 2,001; use a Solver"):
        fit(lambda p, x: Mean.of(jnp.ones(3) * p.sum()), jnp.zeros(2001))


def test_loss_of_the_wrong_form():
    with pytest.raises(ValueError, match="one entry per example"):
        fit(lambda p, x: Mean.of(jnp.ones(2) * p["a"]), START)
