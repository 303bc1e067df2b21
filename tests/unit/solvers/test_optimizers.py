"""Optimisers by name: what they refuse, and how they print."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from fedrecon.solvers._optimizers import describe, optimizer, schedule


def test_it_is_the_one_of_optax():
    ours, theirs = optimizer("yogi", learning_rate=0.1, b1=0.8), optax.yogi(0.1, b1=0.8)
    params, grads = jnp.ones(2), jnp.array([1.0, -2.0])
    found, _ = ours.update(grads, ours.init(params), params)
    wanted, _ = theirs.update(grads, theirs.init(params), params)
    np.testing.assert_array_equal(found, wanted)


def test_yogi_from_zero_is_the_one_of_the_authors():
    rng = np.random.default_rng(0)
    made = optimizer("yogi_zero", learning_rate=0.1)
    params = {"a": jnp.zeros(3), "b": jnp.zeros((2, 2))}
    state = made.init(params)
    step = jax.jit(made.update)
    m = {k: np.zeros(x.shape) for k, x in params.items()}
    v = {k: np.zeros(x.shape) for k, x in params.items()}
    for t in range(1, 6):
        grads = {
            k: (10.0 ** rng.integers(-5, 1) * rng.normal(size=x.shape)).astype(np.float32)
            for k, x in params.items()
        }
        found, state = step(grads, state, params)
        for k, g in grads.items():
            g = g.astype(np.float64)
            m[k] = 0.9 * m[k] + 0.1 * g
            v[k] = v[k] - 0.01 * np.sign(v[k] - g**2) * g**2
            rate = 0.1 * np.sqrt(1 - 0.99**t) / (1 - 0.9**t)
            np.testing.assert_allclose(found[k], -rate * m[k] / (np.sqrt(v[k]) + 1e-3), rtol=1e-5, atol=1e-9)


def test_yogi_from_zero_takes_schedules_and_its_own_arguments():
    falling = schedule("linear_schedule", init_value=0.2, end_value=0.0, transition_steps=2)
    made = optimizer("yogi_zero", learning_rate=falling, eps=0.5)
    grads = jnp.array([1.0])
    first, state = made.update(grads, made.init(grads), grads)
    np.testing.assert_allclose(first, [-0.2 * 0.1 / 0.1 * 0.1 / 0.6], rtol=1e-5)
    second, _ = made.update(0 * grads, state, grads)
    np.testing.assert_allclose(second, [-0.1 * np.sqrt(1 - 0.99**2) / 0.19 * 0.09 / 0.6], rtol=1e-5)
    assert describe(made).startswith("yogi_zero(learning_rate=linear_schedule(")
    with pytest.raises(ValueError, match=r"optimizer 'yogi_zero': .*initial"):
        optimizer("yogi_zero", learning_rate=0.1, initial=1)


@pytest.mark.parametrize(
    ("made", "shown"),
    [
        (optimizer("sgd", learning_rate=0.5), "sgd(learning_rate=0.5)"),
        (optimizer("sgd", learning_rate=0.5, momentum=0.9), "sgd(learning_rate=0.5, momentum=0.9)"),
        (
            optimizer("adam", learning_rate=schedule("cosine_decay_schedule", init_value=0.1, decay_steps=9)),
            "adam(learning_rate=cosine_decay_schedule(init_value=0.1, decay_steps=9))",
        ),
        (optax.adam(0.1), "optax:chain"),
    ],
)
def test_records_show_what_it_was_made_of(made, shown):
    assert describe(made) == shown


@pytest.mark.parametrize("rate", [0, 0.0, -0.1, float("nan"), float("inf")])
def test_learning_rate_must_be_positive(rate):
    with pytest.raises(ValueError, match=f"learning_rate of sgd must be positive and finite, got {rate!r}"):
        optimizer("sgd", learning_rate=rate)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("adm", "optimizer 'adm' is not one of optax's; did you mean 'adam"),
        ("GradientTransformation", "is not one of optax's"),
        ("_src", "is not one of optax's"),
    ],
)
def test_unknown_name(name, message):
    with pytest.raises(ValueError, match=message):
        optimizer(name, learning_rate=0.1)


def test_unknown_argument():
    with pytest.raises(ValueError, match=r"optimizer 'sgd': .*'momentun'"):
        optimizer("sgd", learning_rate=0.1, momentun=0.9)


def test_missing_learning_rate():
    with pytest.raises(ValueError, match=r"optimizer 'sgd': .*learning_rate"):
        optimizer("sgd")


def test_schedule():
    falling = schedule("linear_schedule", init_value=1.0, end_value=0.0, transition_steps=4)
    assert float(falling(2)) == 0.5
    with pytest.raises(ValueError, match=r"'linear_schedul' is not .* did you mean 'linear_schedule"):
        schedule("linear_schedul")
    with pytest.raises(ValueError, match=r"schedule 'linear_schedule': .*'init'"):
        schedule("linear_schedule", init=1.0)


@pytest.mark.parametrize(
    ("name", "given", "message"),
    [
        ("yogi_zero", {"b2": 1.5}, r"b2 of yogi_zero must be a number in \[0, 1\), got 1.5"),
        ("yogi_zero", {"b1": "x"}, r"b1 of yogi_zero must be a number in \[0, 1\), got 'x'"),
        ("adam", {"b1": 1.0}, r"b1 of adam must be a number in \[0, 1\), got 1.0"),
        ("adam", {"eps": -1e-8}, "eps of adam must be a number of at least 0, got -1e-08"),
        ("sgd", {"momentum": -0.5}, r"momentum of sgd must be a number in \[0, 1\), got -0.5"),
        ("sgd", {"learning_rate": "fast"}, "learning_rate of sgd must be a number or a schedule, got 'fast'"),
    ],
)
def test_impossible_hyperparameters(name, given, message):
    with pytest.raises(ValueError, match=message):
        optimizer(name, **{"learning_rate": 0.1, **given})
    for momentum in (None, 0, np.float32(0.9), jnp.float32(0.9), lambda step: 0.9):
        optimizer("sgd", learning_rate=0.1, momentum=momentum)
