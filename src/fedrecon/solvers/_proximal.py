"""The proximal term, which holds parameters near others."""

from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp

from fedrecon.core._mean import Mean
from fedrecon.core._model import Objective
from fedrecon.core._state import without_state
from fedrecon.core._types import Batch, Params, PRNGKey


def proximal(objective: Objective, near: Params, strength: float) -> Objective:
    """The objective with `strength`/2 |params - near|² added to the mean of its loss.

    The term is added to the mean over the examples of each step, as in the papers that use it, and not once
    to the sum over all examples, as `Model.penalty` is. It changes every row of a table, so that the
    objective has no tables, and steps are not cut to the batch's rows. State has no part in it.

    Args:
        objective: The objective to which the term is added.
        near: The parameters near which the others are held.
        strength: The factor of the term, at least 0.
    """
    state = objective.state

    def pulled(loss: Mean, params: Params) -> Mean:
        distance = squared_distance(without_state(params, state), without_state(near, state))
        return Mean(loss.total + loss.weight * strength / 2 * distance, loss.weight)

    def fn(params: Params, frozen: Params, batch: Batch, key: PRNGKey) -> Mean:
        return pulled(objective.fn(params, frozen, batch, key), params)

    def both(params: Params, frozen: Params, batch: Batch, key: PRNGKey) -> tuple[Mean, dict[str, Mean]]:
        loss, metrics = objective.measure(params, frozen, batch, key)
        return pulled(loss, params), metrics

    return replace(objective, fn=fn, both=both, tables=())


def squared_distance(a: Params, b: Params) -> Any:
    """|a - b|² over all leaves."""
    return sum(jnp.sum(jnp.square(x)) for x in jax.tree.leaves(jax.tree.map(jnp.subtract, a, b)))
