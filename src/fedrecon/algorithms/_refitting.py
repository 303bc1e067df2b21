"""How clients that keep local parameters are served."""

from fedrecon.algorithms._base import Broadcast, PersonalizeFn
from fedrecon.algorithms._building_blocks import subkeys
from fedrecon.core._examples import Examples
from fedrecon.core._model import Model, on_local
from fedrecon.core._types import ClientState, Params, PRNGKey
from fedrecon.solvers._local_solver import LocalSolver


def refit(model: Model, reconstruct: LocalSolver) -> PersonalizeFn:
    """`personalize` of such clients: fits what one kept to its support set, the global parameters frozen."""

    def personalize(
        broadcast: Broadcast, client_state: ClientState, support: Examples, key: PRNGKey
    ) -> Params:
        (k_solve,) = subkeys(key, 1, first=3)
        objective = on_local(model, broadcast.global_params)
        return reconstruct(objective, client_state, support, k_solve, broadcast.round)[0]

    return personalize
