"""How clients that keep local parameters are served."""

from collections.abc import Callable
from typing import Any

from fedrecon.algorithms._base import Broadcast, subkeys
from fedrecon.core._examples import Examples
from fedrecon.core._model import Model, Params, on_local
from fedrecon.solvers._gradient import LocalSolver


def refit(model: Model, reconstruct: LocalSolver) -> Callable[..., Params]:
    """`personalize` of such clients: fits what one kept to its support set, the global parameters frozen."""

    def personalize(broadcast: Broadcast, client_state: Any, support: Examples, key: Any) -> Params:
        (k_solve,) = subkeys(key, 1, first=3)
        objective = on_local(model, broadcast.global_params)
        return reconstruct(objective, client_state, support, k_solve, broadcast.round)[0]

    return personalize
