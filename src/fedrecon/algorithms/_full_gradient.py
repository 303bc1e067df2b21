"""Federated Reconstruction whose global gradient goes through the reconstruction."""

from dataclasses import replace
from typing import Any

import optax

from fedrecon.algorithms._base import Aggregator, Algorithm, Broadcast, ClientWeightFn, Update
from fedrecon.algorithms._building_blocks import (
    WeightedMean,
    by_examples,
    cost_of,
    solve_delta,
    subkeys,
    update_of,
)
from fedrecon.algorithms._fedrecon import fedrecon
from fedrecon.core._costs import GRADIENT_STEPS
from fedrecon.core._examples import AlternateBatches, Examples, Split
from fedrecon.core._mean import Mean
from fedrecon.core._model import Model, on_global
from fedrecon.core._types import ClientState, Params, PRNGKey
from fedrecon.solvers._implicit_diff import ImplicitDifferentiation
from fedrecon.solvers._local_solver import LocalSolver, as_solver
from fedrecon.solvers._newton import Newton


def full_gradient(
    model: Model,
    reconstruct: LocalSolver,
    update: LocalSolver,
    server_optimizer: optax.GradientTransformation,
    split: Split = AlternateBatches(5),
    client_weight: ClientWeightFn = by_examples,
    aggregator: Aggregator = WeightedMean(),
) -> Algorithm:
    """Federated Reconstruction that accounts for how the local parameters follow the global ones.

    `fedrecon` holds the reconstructed l fixed while it descends the query loss in g. Here
    l(g) = reconstruct(l; g, support) is part of what is differentiated: d/dg loss(g, l(g); query), at every
    step of `update` anew. A `Solver` is differentiated through its steps; `Newton` at its optimum, see
    `ImplicitDifferentiation`, which does the same for any other solver. The penalty shapes l(g) and counts in
    g while l is fixed.

    A step of an optimiser that divides by a root of past gradients has no derivative where they are all 0:
    for Adam and its like set `eps_root` in `reconstruct`.

    Args:
        model: The model to train, with global and local parameters.
        reconstruct: The solver that fits the local parameters to the support set; it must be differentiable.
        update: Changes the global parameters. All its steps work on all rows of tables that the client has.
        server_optimizer: Applied to the negative weighted mean of the deltas.
        split: Support and query set of a client in training.
        client_weight: A client's weight in the mean, from the mean of its loss.
        aggregator: The aggregator that turns the sum of the cohort's updates into the server's
            pseudo-gradient; the weighted mean by default.

    Returns:
        The algorithm; its clients keep nothing, and are served as in `fedrecon`.

    References:
        Finn, Abbeel and Levine, Model-Agnostic Meta-Learning, ICML 2017; Singhal et al., Federated
        Reconstruction, NeurIPS 2021, section 4.2, which leaves the derivative of l out.
    """
    through: LocalSolver = as_solver(reconstruct).vectorized()
    if isinstance(reconstruct, Newton):
        through = ImplicitDifferentiation(reconstruct)
    changing = as_solver(update).vectorized()
    base = fedrecon(
        model, through, update, server_optimizer, split, client_weight=client_weight, aggregator=aggregator
    )
    model = base.model

    def client_update(
        broadcast: Broadcast, client_state: ClientState, examples: Examples, key: PRNGKey
    ) -> tuple[Update, Any]:
        k_split, k_global = subkeys(key, 2)
        support, query = split(examples, k_split)

        def local(params: Params) -> Params:
            return base.personalize(broadcast._replace(global_params=params), client_state, support, key)

        old = broadcast.global_params
        before, both = local(old), model.loss_and_metrics
        objective = replace(
            on_global(model, before),
            fn=lambda params, _, batch, key: model.loss(params, local(params), batch, key),
            metrics=lambda params, _, batch: model.metrics(params, local(params), batch),
            both=both and (lambda params, _, batch, key: both(params, local(params), batch, key)),
            tables=(),  # the support set reads other rows than a step's batch
            frozen_tables=(),
        )
        delta, rows, metrics = solve_delta(changing, objective, old, query, k_global, broadcast.round)
        steps = metrics[GRADIENT_STEPS].total if GRADIENT_STEPS in metrics else 1
        again = cost_of(reconstruct, support, broadcast.round, before)  # in every step
        more = {name: Mean(mean.total * steps, mean.weight) for name, mean in again.items()}
        return update_of(delta, rows, metrics, client_weight, other_costs=more), client_state

    settings = dict(base.hyperparameters) | {"reconstruct": reconstruct}
    settings.pop("joint")
    return replace(base, client_update=client_update, name="full_gradient", hyperparameters=settings)
