"""pFedMe: clients descend the Moreau envelopes of their losses."""

from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import optax

from fedrecon.algorithms._base import Aggregator, Algorithm, Broadcast, ClientWeightFn, Update
from fedrecon.algorithms._building_blocks import (
    WeightedMean,
    cost_of,
    solve_delta,
    solve_params,
    subkeys,
    uniform,
    update_of,
    with_usable_tables,
)
from fedrecon.algorithms._ditto import check_strength
from fedrecon.algorithms._fedavg import fedavg
from fedrecon.core._examples import Examples
from fedrecon.core._mean import Mean
from fedrecon.core._model import Model, Objective, on_global, personal_copy
from fedrecon.core._state import without_state
from fedrecon.core._types import Batch, ClientState, Metrics, Number, Params, PRNGKey, RoundNumber
from fedrecon.solvers._local_solver import LocalSolver, as_solver
from fedrecon.solvers._proximal import proximal, squared_distance

_VALID = "_valid"  # name of the batch field that is true on examples and false on padding


def pfedme(
    model: Model,
    solve: LocalSolver,
    update: LocalSolver,
    server_optimizer: optax.GradientTransformation,
    strength: float = 15.0,
    client_weight: ClientWeightFn = uniform,
    aggregator: Aggregator = WeightedMean(),
) -> Algorithm:
    """Personal models θ near a global one w, which descends F(w) = min_θ f(θ) + strength/2 |θ - w|².

    f is the mean loss of a batch. A step of `update` on a batch first finds θ̂ = solve(w), from w, and then
    takes ∇F(w) = strength (w - θ̂) for its gradient: with SGD the paper's w <- w - η λ (w - θ̂).
    A client takes the R local rounds of the paper as the steps of `update`, and sends w' - w. The server
    takes `sgd(β)` and weighs clients alike.

    It departs from the paper in two points: batches are those of a pass over the examples and not drawn with
    replacement, and clients outside a round's cohort, whose results would not be used, do not compute. θ̂
    follows from w and the examples, so that clients keep no state.

    Args:
        model: The model to train, all of whose parameters become global, as by `fedrecon.core.fully_global`.
        solve: The solver that finds θ̂ on a batch, or on the support set of a served client. The paper's
            takes K steps on all of it: a `Solver` with `batch_size=None` and `epochs=K`.
        update: The solver that changes the client's copy of w.
        server_optimizer: The server's Optax optimiser; the paper's is `sgd(β)` with β from 1 to 4.
        strength: λ of the paper, at least 0, 15 by default; the paper's experiments take 15 to 30.
        client_weight: Computes a client's weight in the mean of the deltas from its mean loss; by default 1
            for every client with a query example.
        aggregator: Turns the sum of the cohort's updates into the server's pseudo-gradient; by default the
            weighted mean of the deltas.

    Returns:
        The algorithm. The loss that it reports is F, and its other metrics are those of w. Seen and unseen
        clients are served by θ̂ on their support set; `personalize` returns local parameters of the view
        `personal_copy(fully_global(model))`.

    Raises:
        ValueError: `strength` is below 0 or NaN.

    References:
        T. Dinh, Tran and Nguyen, Personalized Federated Learning with Moreau Envelopes, NeurIPS 2020,
        Algorithm 1.
    """
    check_strength(strength)
    base = fedavg(model, update, server_optimizer, client_weight, aggregator)
    shared = with_usable_tables(base.model, solve)
    finding, changing = as_solver(solve).vectorized(), as_solver(update).vectorized()

    changed = on_global(shared, ())

    def envelope(round: RoundNumber, count: Number) -> Objective:
        def nearest(params: Params, examples: Examples, key: PRNGKey) -> Params:
            # The penalty counts once for all of a client's examples, so that a batch has its share of it.
            share = jnp.sum(examples.mask) / jnp.maximum(count, 1)
            objective = replace(on_global(shared, ()), penalty=lambda p, _: share * shared.penalty(p, ()))
            return solve_params(finding, proximal(objective, params, strength), params, examples, key, round)[
                0
            ]

        def fn(params: Params, frozen: Params, batch: Batch, key: PRNGKey) -> Mean:
            data = _without_mask(batch)
            # θ̂ counts as a constant in the gradient: it minimises the term, whose derivative by θ is 0
            # there.
            start = jax.lax.stop_gradient(params)
            nearby = jax.lax.stop_gradient(nearest(start, Examples(data, batch[_VALID]), key))
            total, weight = shared.loss(nearby, (), data, key)
            near = without_state(nearby, changed.state)
            distance = squared_distance(without_state(params, changed.state), near)
            return Mean(total + weight * strength / 2 * distance, weight)

        following = changed.next_state

        return Objective(
            fn=fn,
            tables=shared.tables,
            metrics=lambda params, frozen, batch: shared.metrics(params, (), _without_mask(batch)),
            state=changed.state,
            next_state=following and (lambda p, f, batch, key: following(p, f, _without_mask(batch), key)),
        )

    def client_update(
        broadcast: Broadcast, client_state: ClientState, examples: Examples, key: PRNGKey
    ) -> tuple[Update, Any]:
        marked = Examples({**examples.data, _VALID: examples.mask}, examples.mask, examples.positional)
        objective, old = envelope(broadcast.round, examples.count()), broadcast.global_params
        delta, rows, metrics = solve_delta(changing, objective, old, marked, key, broadcast.round)
        more = _cost(update, solve, examples, broadcast.round)
        return update_of(delta, rows, metrics, client_weight, other_costs=more), client_state

    def personalize(
        broadcast: Broadcast, client_state: ClientState, support: Examples, key: PRNGKey
    ) -> Params:
        (k_solve,) = subkeys(key, 1, first=3)
        objective = proximal(on_global(shared, ()), broadcast.global_params, strength)
        start = broadcast.global_params
        return solve_params(finding, objective, start, support, k_solve, broadcast.round)[0], ()

    return replace(
        base,
        model=shared,
        personal_model=personal_copy(shared),
        client_update=client_update,
        personalize=personalize,
        name="pfedme",
        hyperparameters={"solve": solve, **base.hyperparameters, "strength": strength},
    )


def _cost(update: LocalSolver, solve: LocalSolver, examples: Examples, round: RoundNumber) -> Metrics:
    """The cost of `solve` in all steps of `update`; empty if `update` does not tell the number of steps."""
    counts = as_solver(update).examples_per_step(examples, round)
    if counts is None:
        return {}

    def in_step(count: Number) -> Metrics:
        batch = Examples({}, jnp.arange(examples.size) < count)
        return jax.tree.map(lambda x: jnp.where(count > 0, x, 0), cost_of(solve, batch, round))

    costs = jax.vmap(in_step)(counts)
    return {name: Mean(jnp.sum(mean.total), jnp.ones(())) for name, mean in costs.items()}


def _without_mask(batch: Batch) -> Batch:
    return {name: x for name, x in batch.items() if name != _VALID}
