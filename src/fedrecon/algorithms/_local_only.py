"""Local training: every client trains alone, for comparison."""

from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import optax

from fedrecon.algorithms._base import Algorithm, Broadcast, Update
from fedrecon.algorithms._building_blocks import (
    WeightedMean,
    cost_of,
    server,
    solve_params,
    stateless,
    update_of,
    with_usable_tables,
)
from fedrecon.algorithms._finetuning import finetuning
from fedrecon.core._examples import Examples
from fedrecon.core._model import Model, fully_global, on_global
from fedrecon.core._types import ClientState, PRNGKey
from fedrecon.solvers._local_solver import LocalSolver


def local_only(model: Model, fit: LocalSolver) -> Algorithm:
    """Local training without federation: a client fits a copy of the initial parameters to its support set.

    A federated algorithm should be better than this. Rounds change nothing but their number; their metrics
    tell how well a client fits all of its own examples.

    Args:
        model: The model to train, all of whose parameters become global, as by `fedrecon.core.fully_global`.
        fit: The solver that fits all parameters to the client's support set.

    Returns:
        The algorithm. Updates have weight 0, and `personalize` returns local parameters of the view
        `personal_copy(fully_global(model))`.
    """
    model = with_usable_tables(fully_global(model), fit)
    init, server_update = server(model, optax.identity(), WeightedMean())

    def client_update(
        broadcast: Broadcast, client_state: ClientState, examples: Examples, key: PRNGKey
    ) -> tuple[Update, Any]:
        initial = broadcast.global_params
        _, metrics = solve_params(fit, on_global(model, ()), initial, examples, key, broadcast.round)
        nothing = jax.tree.map(jnp.zeros_like, initial)
        metrics |= cost_of(fit, examples, broadcast.round)
        return update_of(nothing, {}, metrics, client_weight=lambda loss: jnp.zeros(())), client_state

    def personalize(
        broadcast: Broadcast, client_state: ClientState, support: Examples, key: PRNGKey
    ) -> tuple[()]:
        return ()

    untrained = Algorithm(
        model=model,
        personal_model=model,
        init=init,
        init_client_state=stateless,
        client_update=client_update,
        server_update=server_update,
        personalize=personalize,
    )
    served = finetuning(untrained, fit)
    return replace(served, name="local_only", hyperparameters={"fit": fit}, exchanges="nothing")
