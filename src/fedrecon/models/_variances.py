"""Running variances that stay usable under the noise of a private round."""

from typing import Any

import jax
import jax.numpy as jnp

from fedrecon.core._model import path_of
from fedrecon.core._types import Params

_VARIANCE = "var"  # the name that Flax gives to the running variance of its layers


def with_usable_variances(params: Params, state: tuple[str, ...]) -> Params:
    """The parameters, with 0 for running variances below 0, to which noise on a mean of states may move them.

    Args:
        params: The parameters, state among them.
        state: The paths of the leaves that are state.
    """

    def leaf(path: Any, x: Any) -> Any:
        name = path_of(path)
        return jnp.maximum(x, 0) if name in state and name.rpartition("/")[2] == _VARIANCE else x

    return jax.tree_util.tree_map_with_path(leaf, params) if state else params
