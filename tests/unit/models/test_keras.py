"""Models of Keras on JAX: statistics, streams and frozen layers, against the same network in plain JAX."""

import os
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tests.batch_norm import EPSILON, FEATURES, HIDDEN, MOMENTUM, clients, measured, model, start

import fedrecon as fr
from fedrecon.core import leaves_of

os.environ.setdefault("KERAS_BACKEND", "jax")
keras: Any = pytest.importorskip("keras", reason="Keras is not installed")


def net(rate: float = 0.0, **norm: Any) -> Any:
    """The network of `tests.batch_norm`, with dropout."""
    layers = [
        keras.Input((FEATURES,)),
        keras.layers.Dense(HIDDEN, use_bias=False, name="body"),
        keras.layers.BatchNormalization(
            momentum=MOMENTUM, epsilon=EPSILON, center=False, scale=False, name="norm", **norm
        ),
        keras.layers.Dropout(rate, name="drop"),
        keras.layers.Dense(1, use_bias=False, name="head"),
    ]
    made = keras.Sequential(layers)
    made.get_layer("body").set_weights([start()["w"]])
    made.get_layer("head").set_weights([start()["head"][:, None]])
    return made


def squared(call: Any, batch: Any, training: bool) -> fr.Mean:
    scores = call(batch["x"], training=training, mask=batch["example_mask"])[..., 0]
    return fr.Mean.of(jnp.square(scores - batch["y"]))


def keras_model(made: Any = None, **others: Any) -> Any:
    given: dict[str, Any] = {
        "loss": lambda call, batch: squared(call, batch, training=True),
        "metrics": lambda call, batch: {"mse": squared(call, batch, training=False)},
        "local": fr.is_local("head"),
    }
    return fr.models.from_keras(net() if made is None else made, **(given | others))


def renamed(results: Any) -> Any:
    """Results by the names that the plain network has for the statistics."""
    names = {"moving_mean": "mean", "moving_variance": "var"}
    return {names.get(name, name): x for name, x in results.items()}


@pytest.mark.parametrize("state", ["averaged", "local"])
def test_a_model_computes_what_the_same_network_does_in_plain_jax(state):
    local = ["norm"] if state == "local" else []
    made = keras_model(local=fr.is_local("head", *local))
    part = int(bool(local))
    assert made.state == (f"{part}/norm/moving_mean", f"{part}/norm/moving_variance")
    results, expected = renamed(measured(made)), measured(model("head", *local))
    assert results.keys() == expected.keys()
    for name, x in expected.items():
        np.testing.assert_allclose(results[name], x, rtol=1e-4, atol=1e-5, err_msg=name)


def test_rounds_move_weights_and_statistics_and_not_the_keras_model():
    before = net(0.2)
    made = keras_model(before)
    solver = fr.Solver(fr.optimizer("sgd", learning_rate=0.1), 3, epochs=2)
    algorithm = fr.fedrecon(
        made, solver, solver, fr.optimizer("adam", learning_rate=0.1), fr.AlternateBatches(3)
    )
    simulation = fr.Simulation(algorithm, clients(), fr.Everyone())
    first = simulation.init()
    *_, last = simulation.rounds(first, 2)
    after = leaves_of(last.state.global_params)
    assert set(after) == {"body/kernel", "norm/moving_mean", "norm/moving_variance"}
    for name, x in leaves_of(first.global_params).items():
        assert np.any(np.asarray(after[name]) != np.asarray(x)) and np.all(np.isfinite(after[name])), name
    np.testing.assert_allclose(before.trainable_variables[0].value, start()["w"], rtol=1e-6)
    evaluation = fr.evaluate(algorithm, last.state, clients(), split=fr.AlternateBatches(3))
    assert np.isfinite(evaluation.over_examples()["mse"])


def test_dropout_follows_from_the_key_and_is_off_in_evaluation():
    made = keras_model(net(0.5), predict=lambda call, x: call(x["x"], training=False)[..., 0])
    key = jax.random.key(0)
    params = made.init_global(key), made.init_local(made.init_global(key), key)
    batch = {"x": jnp.ones((2, FEATURES)) * jnp.array([[1.0], [2.0]]), "y": jnp.zeros(2)}
    batch["example_mask"] = jnp.ones(2, bool)
    draws = {tuple(np.asarray(made.loss(*params, batch, k).total)) for k in jax.random.split(key, 20)}
    assert len(draws) > 3
    one = made.loss(*params, batch, key).total
    np.testing.assert_array_equal(one, made.loss(*params, batch, key).total)
    np.testing.assert_array_equal(one, made.loss(*params, batch, jax.random.key_data(key)).total)
    errors = made.metrics(*params, batch)["mse"].total
    np.testing.assert_allclose(errors, np.square(made.predict(*params, batch)), rtol=1e-6)


def test_layers_that_are_not_trainable_are_frozen_and_no_state():
    frozen = net()
    frozen.get_layer("body").trainable = False
    made = keras_model(frozen)
    assert made.frozen == ("0/body/kernel",)
    assert made.state == ("0/norm/moving_mean", "0/norm/moving_variance")
    assert not np.any(measured(made)["body"])


def test_what_makes_no_model_is_refused(monkeypatch):
    with pytest.raises(TypeError, match=r"model must be a keras.Model or another layer of Keras, got str"):
        keras_model("net")
    with pytest.raises(ValueError, match="model must be built"):
        keras_model(keras.Sequential([keras.layers.Dense(1)]))
    with pytest.raises(ValueError, match="local names the path 'hed'"):
        keras_model(local=fr.is_local("hed"))
    decayed = keras.Sequential(
        [keras.Input((2,)), keras.layers.Dense(1, kernel_regularizer="l2", name="head")]
    )
    with pytest.raises(ValueError, match="model must add no losses of its own, got 1"):
        keras_model(decayed)
    monkeypatch.setattr(keras.config, "backend", lambda: "torch")
    with pytest.raises(ValueError, match="the backend of Keras must be 'jax', got 'torch'"):
        keras_model()
