"""Ditto: federated averaging, with a personal model for each client that stays near the global one."""

from dataclasses import replace
from typing import Any

import optax

from fedrecon.algorithms._base import Aggregator, Algorithm, Broadcast, ClientWeightFn, Update
from fedrecon.algorithms._building_blocks import (
    WeightedMean,
    by_examples,
    client_state_after,
    cost_of,
    solve_delta,
    solve_params,
    subkeys,
    update_of,
)
from fedrecon.algorithms._fedavg import fedavg
from fedrecon.core._examples import Examples
from fedrecon.core._model import Model, on_global, personal_copy, without_tables
from fedrecon.core._types import ClientState, Params, PRNGKey
from fedrecon.errors import plain
from fedrecon.solvers._local_solver import LocalSolver
from fedrecon.solvers._proximal import proximal


def ditto(
    model: Model,
    update: LocalSolver,
    fit: LocalSolver,
    server_optimizer: optax.GradientTransformation,
    strength: float = 1.0,
    client_weight: ClientWeightFn = by_examples,
    aggregator: Aggregator = WeightedMean(),
) -> Algorithm:
    """Every client keeps a personal model v, drawn towards the global one w.

    In its rounds a client sends what federated averaging sends, and fits v' = fit(v) to its mean loss plus
    strength/2 |v - w|², for the w that it received. The first v is that w (the paper leaves it open). A v
    that is not finite drops the client from the round.

    Since v follows w in all its parameters, tables are whole ones: a client keeps as much as the model
    holds.

    Args:
        model: The model to train, all of whose parameters become global, as by `fedrecon.core.fully_global`.
        update: The solver that trains the global model on all of a client's examples.
        fit: The solver that trains the client's personal model on all of its examples.
        server_optimizer: The server's Optax optimiser, applied to the negative weighted mean of the deltas.
        strength: λ of the paper, at least 0, 1 by default: with 0, v is trained without regard to w; a large
            one makes v equal to w.
        client_weight: Computes a client's weight in the mean of the deltas from its mean loss; by default the
            number of examples that the update phase processed.
        aggregator: Turns the sum of the cohort's updates into the server's pseudo-gradient; by default the
            weighted mean of the deltas.

    Returns:
        The algorithm; its clients keep v. A served client fits v to its support set: a seen client from the v
        that it kept, an unseen one from w. `personalize` returns local parameters of the view
        `personal_copy(fully_global(model))`.

    Raises:
        ValueError: `strength` is below 0 or NaN.

    References:
        Li et al., Ditto: Fair and Robust Federated Learning Through Personalization, ICML 2021, Algorithm 1.
    """
    check_strength(strength)
    base = fedavg(without_tables(model), update, server_optimizer, client_weight, aggregator)
    shared = base.model

    def fitted(broadcast: Broadcast, client_state: Params, examples: Examples, key: PRNGKey) -> Params:
        (k_fit,) = subkeys(key, 1, first=3)
        objective = proximal(on_global(shared, ()), broadcast.global_params, strength)
        return solve_params(fit, objective, client_state, examples, k_fit, broadcast.round)[0]

    def client_update(
        broadcast: Broadcast, client_state: ClientState, examples: Examples, key: PRNGKey
    ) -> tuple[Update, Any]:
        old, objective = broadcast.global_params, on_global(shared, ())
        delta, rows, metrics = solve_delta(update, objective, old, examples, key, broadcast.round)
        personal = fitted(broadcast, client_state, examples, key)
        more = cost_of(fit, examples, broadcast.round)
        sent = update_of(delta, rows, metrics, client_weight, personal, more)
        return sent, client_state_after(sent, personal, client_state)

    def personalize(
        broadcast: Broadcast, client_state: ClientState, support: Examples, key: PRNGKey
    ) -> Params:
        return fitted(broadcast, client_state, support, key), ()

    return replace(
        base,
        personal_model=personal_copy(shared),
        init_client_state=lambda global_params, key: global_params,
        client_update=client_update,
        personalize=personalize,
        name="ditto",
        hyperparameters={**base.hyperparameters, "fit": fit, "strength": strength},
    )


def check_strength(strength: float) -> None:
    """Raises ValueError for a factor of a proximal term that is below 0 or NaN."""
    if not strength >= 0:
        raise ValueError(f"strength must be at least 0, got {plain(strength)}")
