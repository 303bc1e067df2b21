"""Serving of clients that keep local parameters."""

from fedrecon.algorithms._base import Broadcast, PersonalizeFn
from fedrecon.algorithms._building_blocks import solve_params, subkeys
from fedrecon.core._examples import Examples
from fedrecon.core._model import Model, on_local
from fedrecon.core._types import ClientState, Params, PRNGKey
from fedrecon.solvers._local_solver import LocalSolver


def refit(model: Model, reconstruct: LocalSolver) -> PersonalizeFn:
    """The `personalize` of algorithms whose clients keep their local parameters.

    It fits the kept parameters to the support set, the global ones frozen.

    Args:
        model: The view of the model that is trained.
        reconstruct: The solver that fits the local parameters.
    """

    def personalize(
        broadcast: Broadcast, client_state: ClientState, support: Examples, key: PRNGKey
    ) -> Params:
        (k_solve,) = subkeys(key, 1, first=3)
        objective = on_local(model, broadcast.global_params)
        return solve_params(reconstruct, objective, client_state, support, k_solve, broadcast.round)[0]

    return personalize
