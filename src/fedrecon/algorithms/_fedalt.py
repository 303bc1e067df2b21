"""FedAlt: clients keep their local parameters, and fit local and global ones in turn."""

from typing import Any

import optax

from fedrecon.algorithms._base import Aggregator, Algorithm, Broadcast, ClientWeightFn, Update
from fedrecon.algorithms._building_blocks import (
    WeightedMean,
    by_examples,
    client_state_after,
    cost_of,
    server,
    solve_delta,
    subkeys,
    update_of,
    with_usable_tables,
)
from fedrecon.algorithms._refitting import refit
from fedrecon.core._examples import Examples
from fedrecon.core._model import Model, on_global
from fedrecon.core._types import ClientState, PRNGKey
from fedrecon.solvers._local_solver import LocalSolver


def fedalt(
    model: Model,
    reconstruct: LocalSolver,
    update: LocalSolver,
    server_optimizer: optax.GradientTransformation,
    client_weight: ClientWeightFn = by_examples,
    aggregator: Aggregator = WeightedMean(),
) -> Algorithm:
    """Alternating updates: first the local parameters, then the global ones, both on all examples.

    A client starts from the local parameters l that it kept, fits them, l' = reconstruct(l; g, examples),
    changes the global ones, g' = update(g; l', examples), sends g' - g and keeps l'. With fresh l in every
    round it is `fedrecon` without a split.

    Args:
        model: The model to train, with global and local parameters, which `with_local` can choose.
        reconstruct: The solver that fits the local parameters to all examples of the client, the global ones
            frozen.
        update: The solver that changes the global parameters on all examples, the local ones frozen.
        server_optimizer: The server's Optax optimiser, applied to the negative weighted mean of the deltas.
        client_weight: Computes a client's weight in the mean of the deltas from its mean loss; by default the
            number of examples that the update phase processed.
        aggregator: Turns the sum of the cohort's updates into the server's pseudo-gradient; by default the
            weighted mean of the deltas.

    Returns:
        The algorithm; its clients keep their local parameters, which the model initialises in their first
        round. A served client fits them to its support set, the global ones frozen: a seen client from those
        that it kept, an unseen one from those that the model initialises.

    References:
        Pillutla et al., Federated Learning with Partial Model Personalization, ICML 2022.
    """
    model = with_usable_tables(model, update)
    init, server_update = server(model, server_optimizer, aggregator)
    personalize = refit(model, reconstruct)

    def client_update(
        broadcast: Broadcast, client_state: ClientState, examples: Examples, key: PRNGKey
    ) -> tuple[Update, Any]:
        (k_global,) = subkeys(key, 1, first=1)
        old, local = broadcast.global_params, personalize(broadcast, client_state, examples, key)
        objective = on_global(model, local)
        delta, rows, metrics = solve_delta(update, objective, old, examples, k_global, broadcast.round)
        more = cost_of(reconstruct, examples, broadcast.round, local)
        sent = update_of(delta, rows, metrics, client_weight, local, more)
        return sent, client_state_after(sent, local, client_state)

    settings = {"reconstruct": reconstruct, "update": update, "server_optimizer": server_optimizer}
    settings |= {"client_weight": client_weight, "aggregator": aggregator}
    return Algorithm(
        model=model,
        personal_model=model,
        init=init,
        init_client_state=model.init_local,
        client_update=client_update,
        server_update=server_update,
        personalize=personalize,
        name="fedalt",
        hyperparameters=settings,
    )
