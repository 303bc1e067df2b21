"""The computations that simulation and deployment share: the first state and one client's part of a round."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fedrecon._kernels.rows import Group
from fedrecon.algorithms._base import Algorithm, Broadcast, ServerState, Update
from fedrecon.core._model import path_of
from fedrecon.core._types import Params
from fedrecon.data._hashing import Purpose, round_keys
from fedrecon.simulation._batches import Batch, examples_of, key_of
from fedrecon.simulation._client_state_store import current_client_state
from fedrecon.simulation._compilation import quick_options


class View(NamedTuple):
    """The shapes in which a client sees its examples and the global parameters.

    Attributes:
        length: The number of examples of the client, padding included.
        cut: The groups of tables that are cut to the client's rows.
        positional: The fields that hold the examples' own positions.
    """

    length: int
    cut: tuple[Group, ...]
    positional: tuple[str, ...]


def client_step(
    algorithm: Algorithm, view: View, broadcast: Broadcast, batch: Batch, *, simulated: bool = False
) -> tuple[Update, Any]:
    """Computes a client's update and its next state.

    Args:
        algorithm: The algorithm whose `client_update` is called, or if `simulated` its `unprotected_update`.
        view: The view in which the client sees its data.
        broadcast: The round's broadcast, in which the tables of `view.cut` have only the rows that `batch`
            names.
        batch: The client's part of a `Batch`, without the axes of blocks and clients.
        simulated: Whether the update may have metrics that no client sends, since nobody else gets it; False
            by default.

    Returns:
        The update, whose rows are numbered as those of `broadcast` are, and the client's state.
    """
    examples = examples_of(batch.data, batch.count, view.length, view.positional)
    key = key_of(batch.key)
    client_state = current_client_state(algorithm, broadcast.global_params, batch.client_state, key)
    unprotected = algorithm.unprotected_update if simulated else None
    return (unprotected or algorithm.client_update)(broadcast, client_state, examples, key)


def first_state(
    algorithm: Algorithm, seed: int, global_params: Params | None = None
) -> tuple[ServerState, Any]:
    """The server's state before the first round, and the random key with which it was drawn.

    Args:
        algorithm: The algorithm whose `init` makes the state.
        seed: The seed from which the random key follows.
        global_params: The global parameters at the start; None, the default, to draw them by the algorithm's
            `init`.

    Raises:
        ValueError: The global parameters do not have the model's structure, shapes and types.
    """
    key = key_of(round_keys(seed, Purpose.INITIAL_PARAMS, 0, np.uint64(0)))
    init = jax.jit(algorithm.init, compiler_options=quick_options())
    if global_params is None:
        return init(key), key
    # The optimiser's and the aggregator's state are made for the given start: many hold a copy of it.
    return init(key, _like(global_params, jax.eval_shape(algorithm.model.init_global, key))), key


def _like(given: Params, wanted: Params) -> Params:
    """The given global parameters as JAX arrays, checked against the model's.

    Args:
        given: The global parameters that the caller gives.
        wanted: Shapes and types of the model's global parameters.

    Raises:
        ValueError: The structure, a shape or a type differs.
    """
    structures = [str(jax.tree.structure(x)) for x in (wanted, given)]
    if structures[0] != structures[1]:
        raise ValueError(
            f"initial global parameters must have the model's structure {structures[0]}, got {structures[1]}"
        )

    def leaf(path: Any, x: Any, like: Any) -> Any:
        # A pytree of one array has no names.
        name = f"initial global parameter {path_of(path)!r}" if path else "initial_global_params"
        if jnp.shape(x) != like.shape:
            raise ValueError(f"{name} must be of shape {like.shape}, got {jnp.shape(x)}")
        array = jnp.asarray(x)  # in JAX's type: unless 64-bit types are enabled, float64 becomes float32
        if array.dtype != like.dtype:
            raise ValueError(f"{name} must be of type {like.dtype}, as the model's own, got {array.dtype}")
        # With an explicit type, since a Python number is weakly typed, and a weak type would compile the
        # round a second time once the parameters are those of a first round.
        return jnp.asarray(array, like.dtype)

    return jax.tree_util.tree_map_with_path(leaf, given, wanted)
