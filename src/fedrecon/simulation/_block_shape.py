"""How wide blocks are, in how many shapes, and whether two programs share a pass."""

from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Int

from fedrecon.algorithms._base import Algorithm
from fedrecon.core._types import Params
from fedrecon.simulation._block_plan import MOST_PLACES, Plan, plan_evaluation
from fedrecon.simulation._compilation import heavy
from fedrecon.simulation._second_thread import gains_from_second_thread
from fedrecon.solvers._local_solver import AbstractSolver

# Where clients' changes are summed as one gradient: so many clients side by side, as long as copies of the
# parameters for them would take no more than so many bytes; blocks of at most so many examples; and so many
# slots. Measured with experiments/ranking.toml (docs/performance_notes.md).
# Blocks of more examples take more than 32 MB of memory, which is fetched from the system page by page for
# every block and given back after it.
_CLIENTS, _BYTES, _PLACES, _SLOTS = 32, 2**26, 2**13, 2
_EVALUATED_PLACES = 2**14  # of a block, where two are computed at a time


class BlockShape(NamedTuple):
    """What a plan of blocks is chosen by.

    Attributes:
        clients: The largest number of clients of a block; None, the default, leaves the choice to the plan.
        most_slots: The largest number of slots; 2 by default.
        most_places: The largest number of examples of a block that has more than one client; 2^18 by default.
        parts: The number of programs that share the blocks of a pass: 1, the default, or 2 that a CPU
            computes side by side.
    """

    clients: int | None = None
    most_slots: int = 2
    most_places: int = MOST_PLACES
    parts: int = 1

    @staticmethod
    def of(algorithm: Algorithm, shapes: Params, clients: int | None, devices: int) -> "BlockShape":
        """The shape for an algorithm.

        Args:
            algorithm: The algorithm that is simulated.
            shapes: The shapes of its global parameters.
            clients: Clients side by side, where they are set; None leaves the choice to this function.
            devices: How many devices share the clients of a block.
        """
        if jax.default_backend() != "cpu":
            return BlockShape(clients)
        parts = 2 if devices == 1 and gains_from_second_thread(algorithm) else 1
        if clients is not None or not heavy(shapes, algorithm.model.tables):
            return BlockShape(clients, parts=parts)
        update = algorithm.hyperparameters.get("update")
        summable = isinstance(update, AbstractSolver) and update.takes_one_gradient()
        if not summable or algorithm.privacy is not None:
            # One after the other: XLA scatters into many large deltas side by side far more slowly there.
            return BlockShape(1, parts=parts)
        size = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(shapes))
        return BlockShape(max(min(_CLIENTS, _BYTES // size), 1), _SLOTS, _PLACES, parts)


def evaluation_plan(
    algorithm: Algorithm, global_params: Params, num_examples: Int[np.ndarray, "client"]
) -> Plan:
    """The plan by which clients are evaluated.

    Args:
        algorithm: The algorithm that personalises them.
        global_params: The global parameters, or their shapes.
        num_examples: The number of examples of every client.
    """
    large = heavy(global_params, algorithm.model.tables)
    if not gains_from_second_thread(algorithm):
        return plan_evaluation(num_examples, large)
    # Newton goes through no padding, see `Newton.expand_by_pieces`: more shapes would spare little.
    return plan_evaluation(num_examples, large, _EVALUATED_PLACES, most_slots=2)
