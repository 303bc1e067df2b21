"""The matrix products of next-word training alone: same shapes, counts, and order where one needs another."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp


def multiplications(g: Any) -> int:
    """Of one token's forward pass, by the model's global parameters."""
    matrices = (g["lstm"]["kernel"], g["lstm"]["recurrent"], g["dense"]["kernel"], g["output"]["kernel"])
    return sum(matrix.size for matrix in matrices)


def step(g: Any, inputs: Any, length: int, gradients: bool) -> tuple[Any, ...]:
    """The products of one step: forward, back to the inputs, and by the weights if `gradients`.

    Args:
        g: The model's global parameters.
        inputs: Any numbers, `[token, embedding]`.
        length: Tokens of a sentence.
        gradients: Whether the weights are trained.
    """
    kernel, recurrent = g["lstm"]["kernel"], g["lstm"]["recurrent"]
    dense, output = g["dense"]["kernel"], g["output"]["kernel"]
    units, sentences = recurrent.shape[0], inputs.shape[0] // length

    def in_turn(start: Any, product: Callable[[Any], Any], fit: Callable[[Any], Any]) -> Any:
        """Products one after the other, as the states of a sentence are."""

        def one(x: Any, _: Any) -> Any:
            z = product(x)
            return fit(z), z

        return jax.lax.scan(one, start, None, length=length)[1].reshape(len(inputs), -1)

    z = inputs @ kernel
    s = in_turn(z[:sentences, :units], lambda h: h @ recurrent, lambda z: z[:, :units])
    h = s[:, :units]
    d = h @ dense
    scores = d @ output
    by_d = scores @ output.T
    by_h = by_d @ dense.T
    back = in_turn(s[:sentences], lambda z: z @ recurrent.T, lambda h: jnp.concatenate([h] * 4, -1))
    by_inputs = s @ kernel.T
    found: tuple[Any, ...] = (z, by_h, back, by_inputs)
    if gradients:
        found += (inputs.T @ s, h.T @ s, h.T @ by_d, d.T @ scores)
    return found


def steps(g: Any, inputs: Any, length: int, gradients: bool, count: int) -> Any:
    """So many steps one after the other; returns a number that depends on all."""

    def one(small: Any, _: Any) -> Any:
        # All of each product, so that none is left out or computed in part.
        found = jax.lax.optimization_barrier(step(g, inputs + small, length, gradients))
        return 1e-20 * sum(x[0, 0] for x in found), None

    return jax.lax.scan(one, jnp.float32(0), None, length=count)[0]
