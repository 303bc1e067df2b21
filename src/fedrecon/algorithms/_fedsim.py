"""FedSim: clients keep their local parameters, and fit local and global ones at once."""

from dataclasses import replace
from typing import Any

import jax
import optax
from jax.tree_util import KeyPath

from fedrecon._kernels import rows as by_rows
from fedrecon.algorithms._base import Aggregator, Algorithm, Broadcast, ClientWeightFn, Update
from fedrecon.algorithms._building_blocks import (
    WeightedMean,
    by_examples,
    client_state_after,
    rows_below,
    server,
    solve_delta,
    update_of,
    with_usable_tables,
)
from fedrecon.algorithms._refitting import refit
from fedrecon.core._examples import Examples
from fedrecon.core._model import Model, on_both, path_of
from fedrecon.core._types import ClientState, Numbers, Params, PRNGKey
from fedrecon.errors import plain
from fedrecon.solvers._gradient import Solver
from fedrecon.solvers._local_solver import LocalSolver


def fedsim(
    model: Model,
    update: LocalSolver,
    reconstruct: LocalSolver,
    server_optimizer: optax.GradientTransformation,
    local_rate: float = 1.0,
    client_weight: ClientWeightFn = by_examples,
    aggregator: Aggregator = WeightedMean(),
) -> Algorithm:
    """Simultaneous updates: (g', l') = update((g, l); examples); a client sends g' - g and keeps l'.

    Without local parameters it is `fedavg`.

    Args:
        model: The model to train, with global and local parameters, which `with_local` can choose.
        update: The solver that changes global and local parameters together, on all examples.
        reconstruct: The solver that fits the local parameters of a served client, the global ones frozen.
        server_optimizer: The server's Optax optimiser, applied to the negative weighted mean of the deltas.
        local_rate: The factor on the steps of the local parameters, above 0, which gives them a learning rate
            of their own, as in the paper; 1 by default. Only with a `Solver` may it be another.
        client_weight: Computes a client's weight in the mean of the deltas from its mean loss; by default the
            number of examples that the update phase processed.
        aggregator: Turns the sum of the cohort's updates into the server's pseudo-gradient; by default the
            weighted mean of the deltas.

    Returns:
        The algorithm; its clients keep their local parameters, which the model initialises in their first
        round. A served client fits them to its support set: a seen client from those that it kept, an unseen
        one from those that the model initialises.

    Raises:
        ValueError: `local_rate` is not above 0, or is not 1 and `update` is not a `Solver`.

    References:
        Pillutla et al., Federated Learning with Partial Model Personalization, ICML 2022.
    """
    both = _at_rates(update, local_rate)
    model = with_usable_tables(model, both, joint=True)
    init, server_update = server(model, server_optimizer, aggregator)
    personalize = refit(model, reconstruct)

    def client_update(
        broadcast: Broadcast, client_state: ClientState, examples: Examples, key: PRNGKey
    ) -> tuple[Update, Any]:
        start = broadcast.global_params, client_state
        solved = solve_delta(both, on_both(model), start, examples, key, broadcast.round)
        (delta, change), rows, metrics = solved
        local = _moved(client_state, change, rows_below("1", rows))
        sent = update_of(delta, rows_below("0", rows), metrics, client_weight, local)
        return sent, client_state_after(sent, local, client_state)

    settings = {"update": update, "reconstruct": reconstruct, "server_optimizer": server_optimizer}
    settings |= {"local_rate": local_rate, "client_weight": client_weight, "aggregator": aggregator}
    return Algorithm(
        model=model,
        personal_model=model,
        init=init,
        init_client_state=model.init_local,
        client_update=client_update,
        server_update=server_update,
        personalize=personalize,
        name="fedsim",
        hyperparameters=settings,
    )


def _at_rates(update: LocalSolver, local_rate: float) -> LocalSolver:
    """The solver with its steps scaled in the second tree of a pair `(global_params, local_params)`."""
    if local_rate == 1:
        return update
    if not local_rate > 0 or not isinstance(update, Solver):
        raise ValueError(
            f"local_rate must be positive, and 1 for what is no Solver, got {plain(local_rate)} for "
            f"{update!r}"
        )

    def scaled(updates: Params, params: Params) -> Any:
        return updates[0], jax.tree.map(lambda u: local_rate * u, updates[1])

    return replace(update, optimizer=optax.chain(update.optimizer, optax.stateless(scaled)))


def _moved(params: Params, change: Params, rows: dict[str, Any]) -> Params:
    def leaf(path: KeyPath, x: Numbers, dx: Numbers) -> Any:
        ids = rows.get(path_of(path))
        return x + dx if ids is None else by_rows.add(x, ids, dx)

    return jax.tree_util.tree_map_with_path(leaf, params, change)
