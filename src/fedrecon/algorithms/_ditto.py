"""Ditto: federated averaging, and beside it a model of each client's own that stays near the shared one."""

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
    subkeys,
    update_of,
)
from fedrecon.algorithms._fedavg import fedavg
from fedrecon.algorithms._proximal import proximal
from fedrecon.core._examples import Examples
from fedrecon.core._model import Model, on_global, personal_copy, without_tables
from fedrecon.core._types import ClientState, Params, PRNGKey
from fedrecon.errors import plain
from fedrecon.solvers._local_solver import LocalSolver


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
        model: The model to train; all its parameters count as global, see `fedrecon.core.fully_global`.
        update: Trains the global model on all of a client's examples.
        fit: Trains the personal one on all of them.
        server_optimizer: Applied to the negative weighted mean of the deltas.
        strength: λ of the paper, at least 0: 0 trains v alone, a large one makes it w.
        client_weight: A client's weight in the mean, from the mean of its loss.
        aggregator: The aggregator that turns the sum of the cohort's updates into the server's
            pseudo-gradient; the weighted mean by default.

    Returns:
        The algorithm; its clients keep v. Who is served fits it to its support set: a client that was seen
        from what it kept, an unseen one from w. What `personalize` returns is read under
        `personal_copy(fully_global(model))`.

    Raises:
        ValueError: `strength` is negative.

    References:
        Li et al., Ditto: Fair and Robust Federated Learning Through Personalization, ICML 2021, Algorithm 1.
    """
    check_strength(strength)
    base = fedavg(without_tables(model), update, server_optimizer, client_weight, aggregator)
    shared = base.model

    def fitted(broadcast: Broadcast, client_state: Params, examples: Examples, key: PRNGKey) -> Params:
        (k_fit,) = subkeys(key, 1, first=3)
        objective = proximal(on_global(shared, ()), broadcast.global_params, strength)
        return fit(objective, client_state, examples, k_fit, broadcast.round)[0]

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
    """Refuses a negative factor of a proximal term."""
    if not strength >= 0:
        raise ValueError(f"strength must be at least 0, got {plain(strength)}")
