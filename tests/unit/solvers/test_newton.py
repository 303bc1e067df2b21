"""Newton's method: its limits and what it leaves alone. Its exactness is among the equivalences."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedrecon.core._examples import Examples
from fedrecon.core._mean import Mean
from fedrecon.core._model import Objective, on_local, without_tables
from fedrecon.models import matrix_factorization
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


def many(loss, count=300, size=400):
    """Newton on more examples than a piece has, and the sums of a loss over all of them at once."""
    rng = np.random.default_rng(0)
    data = {"x": rng.normal(size=(size, 3)).astype(np.float32), "y": rng.normal(size=size).astype(np.float32)}
    examples = Examples(jax.tree.map(jnp.asarray, data), jnp.arange(size) < count)
    objective = Objective(loss, penalty=lambda x, frozen: jnp.sum(jnp.square(x)))
    found, metrics = Newton()(objective, jnp.zeros(3), examples, jax.random.key(0))
    inputs, target = data["x"][:count], data["y"][:count]
    exact = np.linalg.solve(inputs.T @ inputs + np.eye(3), inputs.T @ target)
    return found, metrics, exact, np.sum(target**2)


def errors(x, frozen, batch, key):
    return Mean.of(jnp.square(batch["x"] @ x - batch["y"]))


@pytest.mark.parametrize("count", [0, 1, 128, 300, 400])
def test_examples_in_pieces_give_the_same(count):
    found, metrics, exact, loss = many(errors, count)
    np.testing.assert_allclose(found, exact, rtol=1e-4, atol=1e-6)
    assert metrics["loss"].weight == count
    np.testing.assert_allclose(metrics["loss"].total, loss, rtol=1e-5)


def test_a_loss_that_reads_the_batch_as_a_whole_gets_it_whole():
    sizes = set()

    def relative(x, frozen, batch, key):
        sizes.add(len(batch["y"]))
        mask = batch["example_mask"]
        scale = jnp.sum(mask) / jnp.sum(jnp.where(mask, jnp.square(batch["y"]), 0))  # of all valid rows
        mean = errors(x, frozen, batch, key)
        return Mean(mean.total * scale, mean.weight)

    _, metrics, _, _ = many(relative)
    assert sizes == {400}
    np.testing.assert_allclose(metrics["loss"].total, 300, rtol=1e-5)


def test_a_loss_that_draws_gets_the_batch_whole():
    sizes = set()

    def drawn(x, frozen, batch, key):
        sizes.add(len(batch["y"]))
        return Mean.of(jnp.square(batch["x"] @ x - batch["y"] * jax.random.uniform(key, batch["y"].shape)))

    many(drawn)
    assert sizes == {400}


@pytest.mark.parametrize("positional", [(), ("item",)])
def test_rows_of_tables_in_pieces_are_those_of_whole_tables(positional):
    model = matrix_factorization(500, 3, item_bias=True, user_bias=True, user_penalty=2.0, init="normal")
    global_params = model.init_global(jax.random.key(0))
    start = model.init_local(global_params, jax.random.key(1))
    rng = np.random.default_rng(0)
    data = {"item": rng.permutation(500)[:300].astype(np.int32), "rating": rng.normal(size=300)}
    examples = Examples(jax.tree.map(jnp.asarray, data), jnp.arange(300) < 280, positional)
    fit_under = lambda model: Newton()(on_local(model, global_params), start, examples, jax.random.key(0))  # noqa: E731
    rows, dense = fit_under(model), fit_under(without_tables(model))
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-5), rows, dense)
