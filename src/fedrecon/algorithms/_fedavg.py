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
    """Federated averaging: every parameter is global, the local ones one value shared by all clients.

    Args:
        model: The model to train; all its parameters count as global, see `fedrecon.core.fully_global`.
        update: Trains all parameters on all of a client's examples.
        server_optimizer: `sgd(1.0)` for FedAvg, `adam`, `yogi`, `adagrad` for FedAdam, FedYogi, FedAdagrad.
        client_weight: A client's weight in the mean, from the mean of its loss.
        aggregator: The aggregator that turns the sum of the cohort's updates into the server's
            pseudo-gradient; the weighted mean by default.

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
