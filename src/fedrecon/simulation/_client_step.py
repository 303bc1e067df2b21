"""What a simulation and a deployment compute alike: the first state, and one client's part of a round."""

from typing import Any, NamedTuple

import jax
import numpy as np

from fedrecon._kernels.rows import Group
from fedrecon.algorithms._base import Algorithm, Broadcast, ServerState, Update
from fedrecon.data._hashing import Purpose, round_keys
from fedrecon.simulation._batches import Batch, examples_of, key_of
from fedrecon.simulation._client_state_store import current_client_state
from fedrecon.simulation._compilation import quick_options


class View(NamedTuple):
    """How a client sees its data: as so many examples, with tables cut to rows.

    Attributes:
        length: Examples, padding included.
        cut: The groups of tables that are cut to the client's rows.
        positional: Fields that hold the examples' own positions.
    """

    length: int
    cut: tuple[Group, ...]
    positional: tuple[str, ...]


def client_step(algorithm: Algorithm, view: View, broadcast: Broadcast, batch: Batch) -> tuple[Update, Any]:
    """What a client sends in a round, and its next state.

    Args:
        algorithm: Whose `client_update` is used.
        view: How the client sees its data.
        broadcast: With the tables of `view.cut` cut to the rows that `batch` names.
        batch: The client's part of a `Batch`, without the axes of blocks and clients.

    Returns:
        The update, whose rows are numbered as those of `broadcast` are, and the client's state.
    """
    examples = examples_of(batch.data, batch.count, view.length, view.positional)
    key = key_of(batch.key)
    client_state = current_client_state(algorithm, broadcast.global_params, batch.client_state, key)
    return algorithm.client_update(broadcast, client_state, examples, key)


def first_state(algorithm: Algorithm, seed: int) -> tuple[ServerState, Any]:
    """The server's state before the first round, and the key that it was drawn with."""
    key = key_of(round_keys(seed, Purpose.INITIAL_PARAMS, 0, np.uint64(0)))
    return jax.jit(algorithm.init, compiler_options=quick_options())(key), key
