"""A step of an optimiser, in the precision of what it changes."""

from contextlib import nullcontext
from typing import Any

import jax
import jax.numpy as jnp
import optax

from fedrecon.core._types import OptState, Params


def optimizer_step(
    optimizer: optax.GradientTransformation, gradient: Params, state: OptState, params: Params
) -> tuple[Any, Any]:
    """The updates and the next state, as `optimizer.update` gives them.

    Where JAX computes in 64 bits, numbers that Optax makes of a count are 64 bits wide, such as Adam's
    1 - 0.999ᵗ, of which 32 bits lose five of seven digits at the start. Parameters of 32 bits would then
    be trained otherwise than without 64 bits. So all of a step is computed in 32 bits where all arrays are.

    Args:
        optimizer: The optimiser.
        gradient: The gradient, or what stands for it.
        state: The optimiser's state.
        params: The parameters that the updates are added to.
    """
    narrow = jnp.result_type(float) == jnp.float64 and all(
        jnp.result_type(x).itemsize <= 4 for x in jax.tree.leaves((gradient, state, params))
    )
    with jax.enable_x64(False) if narrow else nullcontext():
        updates, state = optimizer.update(gradient, state, params)
    return updates, state
