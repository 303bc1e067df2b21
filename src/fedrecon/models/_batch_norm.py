"""What layers that normalise a batch need to stay finite in private rounds and on padding."""

from typing import Any

import jax
import jax.numpy as jnp

from fedrecon.core._examples import EXAMPLE_MASK
from fedrecon.core._model import path_of
from fedrecon.core._types import Batch, Params

# The names that Flax and Keras give to the running variance of their layers.
_VARIANCES = ("var", "moving_variance")


def with_usable_variances(params: Params, state: tuple[str, ...]) -> Params:
    """The parameters, with 0 for running variances below 0, to which noise on a mean of states may move them.

    Args:
        params: The parameters, state among them.
        state: The paths of the leaves that are state.
    """

    def leaf(path: Any, x: Any) -> Any:
        name = path_of(path)
        return jnp.maximum(x, 0) if name in state and name.rpartition("/")[2] in _VARIANCES else x

    return jax.tree_util.tree_map_with_path(leaf, params) if state else params


def with_some_valid(batch: Batch) -> Batch:
    """The batch, all of whose rows are marked as valid where none is.

    A layer that normalises a batch divides by the number of its valid rows. What is computed of padding alone
    is thrown away, but where somebody differentiates through it, not a number would spread.
    """
    mask = batch[EXAMPLE_MASK]
    return {**batch, EXAMPLE_MASK: mask | ~jnp.any(mask)}
