"""Model-agnostic meta-learning: global parameters that are a good start for a client's tuning."""

from dataclasses import replace
from typing import Any

import jax
import optax

from fedrecon.algorithms._base import Aggregator, Algorithm, Broadcast, ClientWeightFn, Update
from fedrecon.algorithms._building_blocks import (
    WeightedMean,
    by_examples,
    cost_of,
    solve_delta,
    subkeys,
    update_of,
    with_usable_tables,
)
from fedrecon.algorithms._fedavg import fedavg
from fedrecon.algorithms._finetuning import finetuning
from fedrecon.algorithms._full_gradient import full_gradient
from fedrecon.core._examples import Examples
from fedrecon.core._model import Model, fully_global, on_global, personal_copy
from fedrecon.core._splits import AlternateBatches, Split
from fedrecon.core._state import only_state, state_within, with_state
from fedrecon.core._types import ClientState, PRNGKey
from fedrecon.solvers._local_solver import LocalSolver


def maml(
    model: Model,
    tune: LocalSolver,
    update: LocalSolver,
    server_optimizer: optax.GradientTransformation,
    split: Split = AlternateBatches(5),
    client_weight: ClientWeightFn = by_examples,
    aggregator: Aggregator = WeightedMean(),
) -> Algorithm:
    """Descends the query loss of parameters that were tuned on the support set, through the tuning.

    `full_gradient` over a personal copy of all parameters: d/dg loss(tune(g; support); query).

    Args:
        model: The model to train, all of whose parameters become global, as by `fedrecon.core.fully_global`.
        tune: The solver that fits a client's copy of all parameters to its support set; it must be
            differentiable.
        update: The solver that changes the global parameters.
        server_optimizer: The server's Optax optimiser, applied to the negative weighted mean of the deltas.
        split: Cuts a client's examples into support and query set in training; by default alternate batches
            of 5 examples.
        client_weight: Computes a client's weight in the mean of the deltas from its mean loss; by default the
            number of examples that the update phase processed.
        aggregator: Turns the sum of the cohort's updates into the server's pseudo-gradient; by default the
            weighted mean of the deltas.

    Returns:
        The algorithm; `personalize` returns local parameters of the view
        `personal_copy(fully_global(model))`.

    References:
        Finn, Abbeel and Levine, Model-Agnostic Meta-Learning, ICML 2017; Fallah, Mokhtari and Ozdaglar,
        Personalized Federated Learning with Theoretical Guarantees, NeurIPS 2020 (Per-FedAvg).
    """
    shared = with_usable_tables(with_usable_tables(fully_global(model), update), tune)
    copies = personal_copy(shared)
    trained = full_gradient(
        copies, tune, update, server_optimizer, split, client_weight=client_weight, aggregator=aggregator
    )
    # The view that is trained is `shared`, which declares its tables: a client then copies its own rows only.
    settings = dict(trained.hyperparameters)
    settings = {"tune": settings.pop("reconstruct"), **settings}
    return replace(trained, model=shared, name="maml", hyperparameters=settings)


def first_order_maml(
    model: Model,
    tune: LocalSolver,
    update: LocalSolver,
    server_optimizer: optax.GradientTransformation,
    split: Split = AlternateBatches(5),
    client_weight: ClientWeightFn = by_examples,
    aggregator: Aggregator = WeightedMean(),
) -> Algorithm:
    """`maml` without second derivatives: the change of the tuned parameters is applied to the global ones.

    The delta is update(t; query) - t for t = tune(g; support).

    Args:
        model: The model to train, all of whose parameters become global, as by `fedrecon.core.fully_global`.
        tune: The solver that fits a client's copy of all parameters to its support set.
        update: The solver that changes the tuned copy on the query set.
        server_optimizer: The server's Optax optimiser, applied to the negative weighted mean of the deltas.
        split: Cuts a client's examples into support and query set in training; by default alternate batches
            of 5 examples.
        client_weight: Computes a client's weight in the mean of the deltas from its mean loss; by default the
            number of examples that the update phase processed.
        aggregator: Turns the sum of the cohort's updates into the server's pseudo-gradient; by default the
            weighted mean of the deltas.

    Returns:
        The algorithm; `personalize` returns local parameters of the view
        `personal_copy(fully_global(model))`.

    References:
        Finn, Abbeel and Levine, Model-Agnostic Meta-Learning, ICML 2017, section 5.2.
    """
    base = fedavg(model, update, server_optimizer, client_weight, aggregator)
    model = with_usable_tables(base.model, tune)
    tuned = finetuning(replace(base, model=model, personal_model=model), tune)
    state = state_within("0", model.state)

    def client_update(
        broadcast: Broadcast, client_state: ClientState, examples: Examples, key: PRNGKey
    ) -> tuple[Update, Any]:
        k_split, k_global = subkeys(key, 2)
        support, query = split(examples, k_split)
        copy, _ = tuned.personalize(broadcast, client_state, support, key)
        objective = on_global(model, ())
        delta, rows, metrics = solve_delta(update, objective, copy, query, k_global, broadcast.round)
        if state:  # is averaged, so that it changes from the server's and not from the tuned copy's
            parts = (only_state(x, state) for x in (delta, copy, broadcast.global_params))
            delta = with_state(delta, state, jax.tree.map(lambda d, new, old: d + new - old, *parts))
        more = cost_of(tune, support, broadcast.round)
        return update_of(delta, rows, metrics, client_weight, other_costs=more), client_state

    settings = {"tune": tune, **base.hyperparameters, "split": split}
    return replace(tuned, client_update=client_update, name="first_order_maml", hyperparameters=settings)
