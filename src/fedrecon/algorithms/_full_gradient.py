"""Federated Reconstruction whose global gradient goes through the reconstruction."""

from dataclasses import replace
from typing import Any

import jax
import optax
from jax.tree_util import KeyPath
from jaxtyping import Array

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
from fedrecon.core._check_parameters import below
from fedrecon.core._costs import GRADIENT_STEPS
from fedrecon.core._examples import Examples
from fedrecon.core._mean import Mean
from fedrecon.core._model import Model, on_global, path_of
from fedrecon.core._splits import AlternateBatches, Split
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
    """Federated Reconstruction with the gradient through the reconstruction.

    `fedrecon` holds the reconstructed l fixed while it descends the query loss in g. Here
    l(g) = reconstruct(l; g, support) is differentiated as well: d/dg loss(g, l(g); query), with l(g) computed
    again in every step of `update`. A `Solver` is differentiated through its steps, `Newton` at its optimum,
    by `ImplicitDifferentiation`, which does the same for any other solver. The penalty takes part in l(g),
    and in the update phase counts as a function of g alone.

    A step of an optimiser that divides by a root of past gradients has no derivative where they are all 0:
    for Adam and its like set `eps_root` in `reconstruct`.

    Args:
        model: The model to train, with global and local parameters.
        reconstruct: The solver that fits the local parameters to the support set; it must be differentiable.
        update: The solver that changes the global parameters; its steps work on all of the client's rows.
        server_optimizer: The server's Optax optimiser, applied to the negative weighted mean of the deltas.
        split: Cuts a client's examples into support and query set in training; by default alternate batches
            of 5 examples.
        client_weight: Computes a client's weight in the mean of the deltas from its mean loss; by default the
            number of examples that the update phase processed.
        aggregator: Turns the sum of the cohort's updates into the server's pseudo-gradient; by default the
            weighted mean of the deltas.

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
            params = _held(model, params)
            return base.personalize(broadcast._replace(global_params=params), client_state, support, key)

        old = broadcast.global_params
        before, both, following = local(old), model.loss_and_metrics, model.next_state
        objective = replace(
            on_global(model, before),
            fn=lambda params, _, batch, key: model.loss(params, local(params), batch, key),
            metrics=lambda params, _, batch: model.metrics(params, local(params), batch),
            both=both and (lambda params, _, batch, key: both(params, local(params), batch, key)),
            next_state=following
            and (lambda params, _, batch, key: following(params, local(params), batch, key)[0]),
            # Steps are not cut to the batch's rows: l(g) reads the rows of the support set as well.
            tables=(),
            frozen_tables=(),
        )
        delta, rows, metrics = solve_delta(changing, objective, old, query, k_global, broadcast.round)
        steps = metrics[GRADIENT_STEPS].total if GRADIENT_STEPS in metrics else 1
        again = cost_of(reconstruct, support, broadcast.round, before)  # the cost recurs in every step
        more = {name: Mean(mean.total * steps, mean.weight) for name, mean in again.items()}
        return update_of(delta, rows, metrics, client_weight, other_costs=more), client_state

    settings = dict(base.hyperparameters) | {"reconstruct": reconstruct}
    settings.pop("joint")
    return replace(base, client_update=client_update, name="full_gradient", hyperparameters=settings)


def _held(model: Model, global_params: Params) -> Params:
    """Global parameters with the gradient stopped at frozen leaves, from which local parameters may start."""

    def leaf(path: KeyPath, x: Array) -> Array:
        frozen = any(below(name, f"0/{path_of(path)}") for name in model.frozen)
        return jax.lax.stop_gradient(x) if frozen else x

    return jax.tree_util.tree_map_with_path(leaf, global_params)
