"""The LSTM against two others on the same weights: Keras', frozen, and Flax's."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen

from fedrecon.models.next_word._lstm import lstm

# Outputs and gradients of keras.layers.LSTM(5, return_sequences=True) of Keras 3.15.1 on its JAX backend, for
# the weights and the input of the file; gradients are those of sum(outputs * upward).
KERAS = Path(__file__).parent / "data" / "keras_lstm.npz"


@jax.jit
def outputs(kernel, recurrent, bias, x):
    return jnp.swapaxes(lstm(kernel, recurrent, bias, jnp.swapaxes(x, 0, 1)), 0, 1)


def test_outputs_and_gradients_are_those_of_keras():
    with np.load(KERAS) as file:
        given = dict(file)
    arguments = [given[name] for name in ("kernel", "recurrent", "bias", "x")]
    np.testing.assert_allclose(outputs(*arguments), given["h"], rtol=1e-5, atol=1e-6)
    gradients = jax.jit(jax.grad(lambda *a: jnp.sum(outputs(*a) * given["upward"]), argnums=(0, 1, 2, 3)))(
        *arguments
    )
    for name, gradient in zip(("by_kernel", "by_recurrent", "by_bias", "by_x"), gradients, strict=True):
        np.testing.assert_allclose(gradient, given[name], rtol=1e-5, atol=1e-5)


def test_outputs_are_those_of_flax():
    rng = np.random.default_rng(1)
    units, inputs = 6, 4
    kernel, recurrent, bias = (
        rng.normal(size=shape).astype(np.float32)
        for shape in ((inputs, 4 * units), (units, 4 * units), 4 * units)
    )
    x = rng.normal(size=(3, 9, inputs)).astype(np.float32)
    params = {}
    for i, gate in enumerate("ifgo"):
        own = np.s_[i * units : (i + 1) * units]
        params[f"i{gate}"] = {"kernel": kernel[:, own]}
        params[f"h{gate}"] = {"kernel": recurrent[:, own], "bias": bias[own]}
    found = jax.jit(linen.RNN(linen.OptimizedLSTMCell(units)).apply)({"params": {"cell": params}}, x)
    np.testing.assert_allclose(outputs(kernel, recurrent, bias, x), found, rtol=1e-5, atol=1e-5)
