"""Federated Reconstruction, the algorithm of the paper."""

from typing import Any

import optax

from fedrecon.algorithms._base import Aggregator, Algorithm, Broadcast, ClientWeightFn, Update
from fedrecon.algorithms._building_blocks import (
    WeightedMean,
    by_examples,
    cost_of,
    rows_below,
    server,
    solve_delta,
    solve_params,
    stateless,
    subkeys,
    update_of,
    with_usable_tables,
)
from fedrecon.core._examples import Examples
from fedrecon.core._model import Model, on_both, on_global, on_local
from fedrecon.core._splits import AlternateBatches, Split
from fedrecon.core._types import ClientState, Params, PRNGKey
from fedrecon.solvers._local_solver import LocalSolver


def fedrecon(
    model: Model,
    reconstruct: LocalSolver,
    update: LocalSolver,
    server_optimizer: optax.GradientTransformation,
    split: Split = AlternateBatches(5),
    joint: bool = False,
    client_weight: ClientWeightFn = by_examples,
    aggregator: Aggregator = WeightedMean(),
) -> Algorithm:
    """Federated Reconstruction: stateless clients rebuild their local parameters in every round.

    A client draws fresh local parameters l, fits them to its support set with the global ones g frozen,
    l' = reconstruct(l; g, support), then changes the global ones on its query set, g' = update(g; l',
    query), and sends g' - g. An unseen client is served by the same reconstruction.

    Args:
        model: The model to train, with global and local parameters.
        reconstruct: The solver that fits the local parameters to the support set, the global ones frozen.
        update: The solver that changes the global parameters on the query set, the local ones frozen.
        server_optimizer: The server's Optax optimiser, applied to the negative weighted mean of the deltas.
            The paper's is `sgd(1.0)` for ratings and Yogi for text.
        split: Cuts a client's examples into support and query set in training; by default alternate batches
            of 5 examples.
        joint: Whether the update phase trains the local parameters along with the global ones, starting
            from the reconstructed ones; False by default.
        client_weight: Computes a client's weight in the mean of the deltas from its mean loss; by default the
            number of examples that the update phase processed.
        aggregator: Turns the sum of the cohort's updates into the server's pseudo-gradient; by default the
            weighted mean of the deltas.

    Returns:
        The algorithm; its clients keep nothing.

    References:
        Singhal et al., Federated Reconstruction: Partially Local Federated Learning, NeurIPS 2021,
        Algorithm 1.
    """
    model = with_usable_tables(model, update, joint)
    init, server_update = server(model, server_optimizer, aggregator)

    def personalize(
        broadcast: Broadcast, client_state: ClientState, support: Examples, key: PRNGKey
    ) -> Params:
        k_init, k_solve = subkeys(key, 2, first=2)
        fresh = model.init_local(broadcast.global_params, k_init)
        objective = on_local(model, broadcast.global_params)
        return solve_params(reconstruct, objective, fresh, support, k_solve, broadcast.round)[0]

    def client_update(
        broadcast: Broadcast, client_state: ClientState, examples: Examples, key: PRNGKey
    ) -> tuple[Update, Any]:
        k_split, k_global = subkeys(key, 2)
        support, query = split(examples, k_split)
        old, local = broadcast.global_params, personalize(broadcast, client_state, support, key)
        if joint:
            both, params = on_both(model), (old, local)
            (delta, _), rows, metrics = solve_delta(update, both, params, query, k_global, broadcast.round)
            rows = rows_below("0", rows)
        else:
            objective = on_global(model, local)
            delta, rows, metrics = solve_delta(update, objective, old, query, k_global, broadcast.round)
        more = cost_of(reconstruct, support, broadcast.round, local)
        return update_of(delta, rows, metrics, client_weight, other_costs=more), client_state

    settings = {"reconstruct": reconstruct, "update": update, "server_optimizer": server_optimizer}
    settings |= {"split": split, "joint": joint, "client_weight": client_weight, "aggregator": aggregator}
    return Algorithm(
        model=model,
        personal_model=model,
        init=init,
        init_client_state=stateless,
        client_update=client_update,
        server_update=server_update,
        personalize=personalize,
        name="fedrecon",
        hyperparameters=settings,
    )
