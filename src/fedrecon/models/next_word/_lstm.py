"""A long short-term memory over whole sentences, with a backward pass of its own.

JAX's derivative of a scan adds up the gradient by the weights step by step, with a small product and an
addition over the whole matrix in each. Here the backward scan carries only the gradient by the state; that by
the weights is one product over all steps afterwards, and is left out where the weights are frozen.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax.custom_derivatives import CustomVJPPrimal
from jaxtyping import Array, Float


@jax.custom_vjp
def lstm(
    kernel: Float[Array, "input gates"],
    recurrent: Float[Array, "unit gates"],
    bias: Float[Array, " gates"],
    x: Float[Array, "time batch input"],
) -> Float[Array, "time batch unit"]:
    """The outputs of an LSTM that starts from zeros, with the gates in Keras' order.

    With z_t = x_t kernel + h_{t-1} recurrent + bias cut into i, f, g, o:
    c_t = σ(f) c_{t-1} + σ(i) tanh(g) and h_t = σ(o) tanh(c_t). Factors of products have the dtype of `x`;
    sums and the state are float32.

    Args:
        kernel: The matrix of the inputs, `[input, 4 * unit]`; its columns are the gates input, forget, cell
            and output.
        recurrent: The matrix of the previous output, `[unit, 4 * unit]`, with the same order of gates.
        bias: The bias of the four gates, `[4 * unit]`.
        x: The inputs, `[time, batch, input]`; their type is the type of the products' factors.

    References:
        Hochreiter and Schmidhuber, Long Short-Term Memory, 1997; with the forget gate of Gers et al., 2000.
    """
    return _steps(kernel, recurrent, bias, x)[0]


def _forward(
    kernel: CustomVJPPrimal, recurrent: CustomVJPPrimal, bias: CustomVJPPrimal, x: CustomVJPPrimal
) -> Any:
    args = kernel.value, recurrent.value, bias.value, x.value
    h, before, gates = _steps(*args)
    # `symbolic_zeros` tells which arguments are differentiated. With frozen weights, as in a reconstruction,
    # the backward pass needs no outputs and writes no array of gates.
    trained = kernel.perturbed or recurrent.perturbed or bias.perturbed
    return h, (args[0], args[1], args[3], h if trained else None, before, gates)


def _steps(
    kernel: Float[Array, "input gates"],
    recurrent: Float[Array, "unit gates"],
    bias: Float[Array, " gates"],
    x: Float[Array, "time batch input"],
) -> Any:
    """The outputs of all steps, the cells before each, and the gates after their activation."""
    zeros = jnp.zeros((x.shape[1], recurrent.shape[0]), jnp.float32)
    of_input, of_output = kernel.astype(x.dtype), recurrent.astype(x.dtype)

    def step(
        carry: tuple[Float[Array, "batch unit"], Float[Array, "batch unit"]], x: Float[Array, "batch input"]
    ) -> Any:
        before, h = carry
        # Both products are computed here, and not that of the inputs for all steps at once: their results are
        # read again while they are in the cache.
        gates = _activate(_product(x, of_input) + _product(h.astype(x.dtype), of_output) + bias)
        i, f, g, o = jnp.split(gates, 4, axis=-1)
        c = f * before + i * g
        h = o * jnp.tanh(c)
        return (c, h), (h, before, gates)

    return jax.lax.scan(step, (zeros, zeros), x)[1]


def _activate(z: Float[Array, "batch gates"]) -> Any:
    """The gates after their activation, all by one tanh: σ(z) = (1 + tanh(z/2)) / 2."""
    units = z.shape[-1] // 4
    half = jnp.concatenate([jnp.full(2 * units, 0.5), jnp.ones(units), jnp.full(units, 0.5)])
    return jnp.tanh(z * half) * half + (1 - half)


def _backward(saved: tuple[Any, ...], dh: Float[Array, "time batch unit"]) -> Any:
    kernel, recurrent, x, h, before, gates = saved
    of_input, of_output = kernel.astype(x.dtype), recurrent.astype(x.dtype)

    def step(
        carry: tuple[Float[Array, "batch unit"], Float[Array, "batch unit"]], now: tuple[Array, Array, Array]
    ) -> Any:
        dc, dh = carry
        above, gates, before = now
        # The derivatives are computed from the gates of one step, which are in the cache; for all steps at
        # once they take longer.
        i, f, g, o = jnp.split(gates, 4, axis=-1)
        t = jnp.tanh(f * before + i * g)
        dh = dh + above
        dc = dc + dh * o * (1 - t * t)
        to_gates = dc * g * i * (1 - i), dc * before * f * (1 - f), dc * i * (1 - g * g), dh * t * o * (1 - o)
        dz = jnp.concatenate(to_gates, -1)
        small = dz.astype(x.dtype)
        # With frozen weights nothing else needs the gradients by this step's gates: they become those by its
        # input at once, and no array `[time, batch, gates]` is written.
        kept = _back(small, of_input).astype(x.dtype) if h is None else dz
        return (dc * f, _back(small, of_output)), kept

    zeros = jnp.zeros_like(before[0])
    _, by_gates = jax.lax.scan(step, (zeros, zeros), (dh, gates, before), reverse=True)
    if h is None:
        return None, None, None, by_gates
    small = by_gates.astype(x.dtype)
    dx = _back(small, of_input).astype(x.dtype)
    previous = jnp.concatenate([jnp.zeros_like(h[:1]), h[:-1]]).astype(x.dtype)
    return _over_time(x, small), _over_time(previous, small), jnp.sum(by_gates, (0, 1)), dx


def _product(x: Float[Array, "... inner"], matrix: Float[Array, "inner outer"]) -> Any:
    return jnp.matmul(x, matrix, preferred_element_type=jnp.float32)


def _back(x: Float[Array, "... inner"], matrix: Float[Array, "outer inner"]) -> Any:
    """The product with a matrix's transpose.

    It is a contraction over the second axes and not a product with `matrix.T`: XLA would move the
    transposition out of the loop and write the transposed matrix, which takes as long as the loop.
    """
    last = ((x.ndim - 1,), (1,))
    return jax.lax.dot_general(x, matrix, (last, ((), ())), preferred_element_type=jnp.float32)


def _over_time(x: Float[Array, "time batch input"], dz: Float[Array, "time batch gates"]) -> Any:
    """The sum of x ⊗ dz over steps and batch, as one product."""
    flat = x.reshape(-1, x.shape[-1]).T
    return _product(flat, dz.reshape(-1, dz.shape[-1]))


lstm.defvjp(_forward, _backward, symbolic_zeros=True)
