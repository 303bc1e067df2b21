"""The training loop: what it refuses, how it prints, and single steps by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from fedrecon.core._examples import Examples
from fedrecon.core._mean import Mean
from fedrecon.core._model import Objective
from fedrecon.solvers._gradient import Solver
from fedrecon.solvers._local_solver import LocalSolver
from fedrecon.solvers._newton import Newton
from fedrecon.solvers._optimizers import optimizer, schedule

SGD = optimizer("sgd", learning_rate=0.25)
X = np.array([1.0, 2.0, 4.0, 8.0], np.float32)


def objective(**others):
    """The sum of (a - x)² / 2 over the examples."""
    return Objective(lambda a, frozen, batch, key: Mean.of(jnp.square(a - batch["x"]) / 2), **others)


def fit(solver, start=0.0, count=3, round=None, **others):
    examples = Examples({"x": X}, jnp.arange(4) < count)
    run = jax.jit(lambda a, r: solver(objective(**others), a, examples, jax.random.key(0), r))
    return run(jnp.float32(start), round)


def test_batches_of_the_examples_in_their_order():
    found, metrics = fit(Solver(SGD, 2))
    a = 0 + 0.25 * 1.5  # the mean of 1 and 2
    b = a + 0.25 * (4 - a)  # the last batch is short
    np.testing.assert_allclose(found, b)
    losses = (0.5 + 2.0) + (4 - a) ** 2 / 2  # before each step
    np.testing.assert_allclose(metrics["loss"], (losses, 3))


def test_sum_instead_of_mean():
    found, _ = fit(Solver(SGD, None, reduction="sum"))
    np.testing.assert_allclose(found, 0.25 * 7)


@pytest.mark.parametrize("known", [False, True])
@pytest.mark.parametrize("weight", [1.0, 3.0, [1.0, 3.0]])
def test_a_mean_is_by_the_weights_of_the_loss_whether_they_are_known_before_tracing_or_not(weight, known):
    def loss(x, frozen, batch, key):
        weights = np.broadcast_to(np.asarray(weight, np.float32), batch["x"].shape)
        errors = batch["x"] * jnp.square(x - batch["x"])
        return Mean(errors * weights, weights if known else weights + 0 * batch["x"])

    data = {"x": jnp.array([1.0, 2.0, 3.0, 4.0, 0.0, 0.0])}
    examples = Examples(data, jnp.array([True, True, True, False, False, False]))
    found, metrics = Solver(optax.sgd(0.1), 2)(Objective(loss), jnp.array(0.5), examples, jax.random.key(0))
    w = np.broadcast_to(weight, 2)
    wanted = 0.5
    for batch, taken in ((np.array([1.0, 2.0]), w), (np.array([3.0]), w[:1])):
        wanted -= 0.1 * np.sum(taken * batch * 2 * (wanted - batch)) / np.sum(taken)
    np.testing.assert_allclose(found, wanted, rtol=1e-6)
    assert metrics["loss"].weight == np.sum(w) + w[0]


def test_penalty_counts_once_over_the_examples():
    found, _ = fit(Solver(SGD, 2, reduction="sum"), start=1.0, penalty=lambda a, frozen: 3.0 * a)
    a = 1 + 0.25 * ((0 + 1) - 3 * 2 / 3)
    np.testing.assert_allclose(found, a + 0.25 * ((4 - a) - 3 * 1 / 3))


def test_no_examples_no_steps():
    found, metrics = fit(Solver(optimizer("adam", learning_rate=0.1), 2, epochs=2), start=5.0, count=0)
    assert found == 5.0
    np.testing.assert_array_equal(metrics["loss"], (0, 0))


@pytest.mark.parametrize(("round", "steps"), [(None, 1), (0, 1), (1, 2), (5, 3)])
def test_growing_epochs(round, steps):
    _, metrics = fit(Solver(SGD, None, epochs=3, adaptive_epochs=True), round=round)
    assert metrics["loss"].weight == 3 * steps


def test_schedule_over_rounds():
    falling = schedule("linear_schedule", init_value=1.0, end_value=0.0, transition_steps=4)
    full, _ = fit(Solver(SGD, None))
    for round in (0, 1, 4):
        found, _ = fit(Solver(SGD, None, schedule=falling), round=round)
        np.testing.assert_allclose(found, full * (1 - round / 4))


def test_metrics_are_those_before_each_step():
    _, metrics = fit(Solver(SGD, 2), metrics=lambda a, frozen, batch: {"a": Mean.of(a + 0 * batch["x"])})
    np.testing.assert_allclose(metrics["a"], (0 * 2 + 0.375, 3))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"batch_size": 0}, "batch_size must be a whole number of at least 1, got 0"),
        ({"batch_size": -5}, "batch_size must be a whole number of at least 1, got -5"),
        ({"batch_size": 2.5}, "batch_size must be a whole number of at least 1, got 2.5"),
        ({"epochs": 0}, "epochs must be a whole number of at least 1, got 0"),
        ({"epochs": None}, "epochs must be a whole number of at least 1, got None"),
        ({"max_steps": 0}, "max_steps must be a whole number of at least 1, got 0"),
        ({"reduction": "median"}, "reduction must be 'mean' or 'sum', got 'median'"),
    ],
)
def test_out_of_range(settings, message):
    with pytest.raises((ValueError, TypeError), match=message.partition(" ")[0]) as caught:
        Solver(SGD, **{"batch_size": 2} | settings)
    if isinstance(caught.value, ValueError):  # else a type checker saw it first
        assert message in str(caught.value)


def test_prints_what_is_not_the_default():
    assert repr(Solver(SGD, 5)) == "Solver(sgd(learning_rate=0.25), batch_size=5)"
    long = Solver(optax.adam(0.1), None, epochs=3, shuffle=True, reduction="sum")
    assert repr(long) == "Solver(optax:chain, batch_size=None, epochs=3, shuffle=True, reduction='sum')"


def test_stages():
    assert isinstance(Solver(SGD, 1), LocalSolver)
    assert isinstance(Newton(), LocalSolver)


@pytest.mark.parametrize(
    ("fn", "kind", "message"),
    [
        (
            lambda a, frozen, batch, key: Mean.of(jnp.square(a)),
            ValueError,
            r"total of shape \(2,\); got \(\)",
        ),
        (lambda a, frozen, batch, key: jnp.square(a - batch["x"]), TypeError, "must return a Mean"),
    ],
)
def test_loss_of_the_wrong_form(fn, kind, message):
    examples = Examples({"x": X}, jnp.arange(4) < 3)
    with pytest.raises(kind, match=message):
        jax.eval_shape(
            lambda a: Solver(SGD, 2)(Objective(fn), a, examples, jax.random.key(0)), jnp.float32(0)
        )


def test_clients_that_take_a_stage_one_after_the_other_end_where_they_would_side_by_side():
    def loss(a, frozen, batch, key):
        return Mean.of(jnp.square(a * frozen - batch["x"]))

    def run(sequential):
        solver = Solver(SGD, 2, sequential=sequential)

        def client(start, frozen, x, count):
            given = Examples({"x": x}, jnp.arange(5) < count)
            return solver.solve_delta(Objective(loss, frozen), start, given, jax.random.key(0))

        starts, data = jnp.array([1.0, -2.0, 0.5]), jnp.sin(jnp.arange(15.0)).reshape(3, 5)
        return jax.jit(jax.vmap(client, (0, None, 0, 0)))(starts, jnp.array(0.7), data, jnp.array([5, 0, 3]))

    for a, b in zip(*map(jax.tree.leaves, (run(False), run(True))), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6)
    assert repr(Solver(SGD, 2, sequential=True)).endswith("sequential=True)")
