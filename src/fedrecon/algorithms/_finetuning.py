"""Fine-tuning: clients tune a personal copy of the parameters that another algorithm learned."""

from dataclasses import replace

from fedrecon.algorithms._base import Algorithm, Broadcast
from fedrecon.algorithms._building_blocks import solve_params, subkeys
from fedrecon.core._examples import Examples
from fedrecon.core._model import on_local, personal_copy
from fedrecon.core._types import ClientState, Params, PRNGKey
from fedrecon.solvers._local_solver import LocalSolver


def finetuning(trained: Algorithm, tune: LocalSolver, part: tuple[str, ...] | None = None) -> Algorithm:
    """Trains as another algorithm does; a served client then tunes all parameters on its support set.

    A client copies the global parameters g, gets local ones l as `trained` gives them, and fits both,
    (g', l') = tune((g, l); support). After `fedavg`, which has no l, this is fine-tuning of a global model;
    after `fedrecon` it is reconstruction and then fine-tuning.

    Args:
        trained: The algorithm that learns the global parameters.
        tune: The solver that fits a client's copy and its local parameters to the support set.
        part: Paths of the global leaves that are tuned, or of subtrees, in the global parameters of
            `trained.model`; after `fedavg` these are `(global_params, local_params)`, so that a path is
            `"0/item/bias"`. The other leaves stay as they are. None, the default, for all.

    Returns:
        The algorithm; `personalize` returns local parameters of the view
        `personal_copy(trained.personal_model, part)`.

    Raises:
        ValueError: `part` is empty or names a path that no global leaf has.

    References:
        Wang et al., Federated Evaluation of On-device Personalization, 2019; for a part of the parameters
        Arivazhagan et al., Federated Learning with Personalization Layers, 2019.
    """
    view = personal_copy(trained.personal_model, part)

    def personalize(
        broadcast: Broadcast, client_state: ClientState, support: Examples, key: PRNGKey
    ) -> Params:
        k_init, k_solve = subkeys(key, 2, first=4)  # algorithms use the keys 0 to 3 of the same client key
        shared = broadcast.global_params
        copy, _ = view.init_local(shared, k_init)
        start = copy, trained.personalize(broadcast, client_state, support, key)
        return solve_params(tune, on_local(view, shared), start, support, k_solve, broadcast.round)[0]

    settings = {"trained": trained, "tune": tune, "part": part}
    return replace(
        trained, personal_model=view, personalize=personalize, name="finetuning", hyperparameters=settings
    )
