"""Federated averaging and its adaptive server optimisers."""

from typing import Any

import optax

from fedrecon.algorithms._base import Aggregator, Algorithm, Broadcast, ClientWeightFn, Update
from fedrecon.algorithms._building_blocks import (
    WeightedMean,
    by_examples,
    server,
    solve_delta,
    stateless,
    update_of,
    with_usable_tables,
)
from fedrecon.core._examples import Examples
from fedrecon.core._model import Model, fully_global, on_global
from fedrecon.core._types import ClientState, PRNGKey
from fedrecon.solvers._local_solver import LocalSolver


def fedavg(
    model: Model,
    update: LocalSolver,
    server_optimizer: optax.GradientTransformation,
    client_weight: ClientWeightFn = by_examples,
    aggregator: Aggregator = WeightedMean(),
) -> Algorithm:
    """Federated averaging: all parameters are global, those that are local in the model included.

    Args:
        model: The model to train, all of whose parameters become global, as by `fedrecon.core.fully_global`.
        update: The solver that trains all parameters on all of a client's examples.
        server_optimizer: The server's Optax optimiser: `sgd(1.0)` for FedAvg, `adam`, `yogi` or `adagrad` for
            FedAdam, FedYogi or FedAdagrad.
        client_weight: Computes a client's weight in the mean of the deltas from its mean loss; by default the
            number of examples that the update phase processed.
        aggregator: Turns the sum of the cohort's updates into the server's pseudo-gradient; by default the
            weighted mean of the deltas.

    Returns:
        The algorithm; its clients keep nothing and `personalize` returns `()`.

    References:
        McMahan et al., Communication-Efficient Learning of Deep Networks from Decentralized Data, 2017;
        Reddi et al., Adaptive Federated Optimization, ICLR 2021.
    """
    model = with_usable_tables(fully_global(model), update)
    init, server_update = server(model, server_optimizer, aggregator)

    def client_update(
        broadcast: Broadcast, client_state: ClientState, examples: Examples, key: PRNGKey
    ) -> tuple[Update, Any]:
        old, objective = broadcast.global_params, on_global(model, ())
        delta, rows, metrics = solve_delta(update, objective, old, examples, key, broadcast.round)
        return update_of(delta, rows, metrics, client_weight), client_state

    def personalize(
        broadcast: Broadcast, client_state: ClientState, support: Examples, key: PRNGKey
    ) -> tuple[()]:
        return ()

    settings = {"update": update, "server_optimizer": server_optimizer}
    settings |= {"client_weight": client_weight, "aggregator": aggregator}
    return Algorithm(
        model=model,
        personal_model=model,
        init=init,
        init_client_state=stateless,
        client_update=client_update,
        server_update=server_update,
        personalize=personalize,
        name="fedavg",
        hyperparameters=settings,
    )
