"""Building blocks of algorithms: the server's half, updates, client weights and random keys."""

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from fedrecon._kernels import summed_gradients
from fedrecon._kernels.optimizer_step import optimizer_step
from fedrecon.algorithms._base import (
    Aggregator,
    ClientWeightFn,
    InitFn,
    ServerState,
    ServerUpdateFn,
    Update,
)
from fedrecon.core._costs import COSTS
from fedrecon.core._examples import Examples
from fedrecon.core._mean import Mean
from fedrecon.core._model import Model, Objective, leaf_at, without_tables
from fedrecon.core._random import fold_in
from fedrecon.core._state import state_within, with_state
from fedrecon.core._tags import tagged
from fedrecon.core._types import (
    AggregatorState,
    ClientState,
    Metrics,
    Params,
    PRNGKey,
    RoundNumber,
    Rows,
)
from fedrecon.solvers._local_solver import LocalSolver, as_solver
from fedrecon.solvers._state import for_state


@tagged("aggregator/weighted_mean")
@dataclass(frozen=True)
class WeightedMean:
    """The negative mean of the deltas under the realised weights."""

    def init(self, global_params: Params) -> Any:
        return ()

    def __call__(self, state: AggregatorState, update: Update) -> tuple[Params, Any]:
        return jax.tree.map(jnp.negative, update.delta.value()), state


@tagged("client_weight/examples")
def by_examples(loss: Mean) -> Float[Array, ""]:
    """Client weight: the query examples (tokens, for text) that the update phase processed."""
    return loss.weight


@tagged("client_weight/uniform")
def uniform(loss: Mean) -> Float[Array, ""]:
    """Client weight: 1 for every client with a query example, so that others do not dilute the mean."""
    return jnp.where(loss.weight > 0, 1.0, 0.0)


def subkeys(key: PRNGKey, count: int, first: int = 0) -> list[Any]:
    """Independent random keys that follow from one.

    Unlike with `jax.random.split`, a key that is not used costs nothing; each that is used has to be
    compiled. For the same reason they are numbered instead of derived from each other.

    Args:
        key: The key from which the others follow.
        count: The number of keys.
        first: The number of the first key; 0 by default. Keys of different numbers are independent.
    """
    # By convention algorithms use 0 for the split, 1 for the update phase, 2 for initial local parameters and
    # states, 3 for their fit, and 4 and 5 for the same in fine-tuning. Algorithms that share a number share
    # the draw, so that their results on one seed differ by the algorithm alone.
    return [fold_in(key, first + i) for i in range(count)]


def stateless(global_params: Params, key: PRNGKey) -> tuple[()]:
    """The `init_client_state` of stateless algorithms, which returns `()`."""
    return ()


def solve_params(
    solver: LocalSolver,
    objective: Objective,
    params: Params,
    examples: Examples,
    key: PRNGKey,
    round: RoundNumber,
) -> tuple[Params, Metrics]:
    """The parameters that a solver fits and its metrics, with the model's state replaced along the way.

    Args:
        solver: The solver that fits the parameters.
        objective: The objective to minimise.
        params: The parameters before.
        examples: The examples to fit the parameters to.
        key: The random key of the solver's draws.
        round: The number of rounds done before this one.
    """
    return for_state(solver, objective)(objective, params, examples, key, round)


def solve_delta(
    solver: LocalSolver,
    objective: Objective,
    params: Params,
    examples: Examples,
    key: PRNGKey,
    round: RoundNumber,
) -> tuple[Params, Rows, Metrics]:
    """The change of parameters by a solver: its `solve_delta`, or the difference for solvers without one.

    Args:
        solver: The solver that fits the parameters.
        objective: The objective to minimise.
        params: The parameters before.
        examples: The examples to fit the parameters to.
        key: The random key of the solver's draws.
        round: The number of rounds done before this one.

    Returns:
        The change, new minus old; the row numbers of the tables that changed only in some rows, by their
        paths; and the solver's metrics, to which its costs are added.
    """
    change, rows, metrics = for_state(solver, objective).solve_delta(objective, params, examples, key, round)
    return change, rows, metrics | cost_of(solver, examples, round)


def rows_below(part: str, rows: Rows) -> Rows:
    """The row numbers of the tables in one tree of a pair such as `(global_params, local_params)`.

    Args:
        part: The tree of the pair, `"0"` or `"1"`.
        rows: The row numbers of tables by their paths in the pair, such as `"0/item/factors"`.

    Returns:
        The row numbers by the paths in the tree.
    """
    return {leaf.removeprefix(f"{part}/"): ids for leaf, ids in rows.items() if leaf.startswith(f"{part}/")}


def cost_of(solver: LocalSolver, examples: Examples, round: RoundNumber, fitted: Params = 0) -> Metrics:
    """The cost of a solver with a client's examples, as metrics; empty for a solver that does not tell it.

    Args:
        solver: The solver whose cost is counted.
        examples: The examples that the solver processes.
        round: The number of rounds done before this one.
        fitted: The parameters that the solver fits; a pytree without leaves costs nothing.
    """
    cost = as_solver(solver).cost(examples, round) if jax.tree.leaves(fitted) else {}
    return {name: Mean(jnp.asarray(x, jnp.float32), jnp.ones(())) for name, x in cost.items()}


def update_of(
    delta: Params,
    rows: Rows,
    metrics: Metrics,
    client_weight: ClientWeightFn = by_examples,
    client_state: ClientState = (),
    other_costs: Mapping[str, Mean] = MappingProxyType({}),
) -> Update:
    """The update of a client after its update phase.

    If a delta, a metric or the client state is not finite, the client is dropped from the mean and from the
    metrics, and is counted: `metrics["dropped"]` is the share of such clients, `metrics["empty"]` the share
    of clients without a query example.

    Args:
        delta: The change of the global parameters, new minus old; a table that `rows` names has only the
            changes of these rows.
        rows: The row numbers of a table's delta by the table's path, as `solve_delta` returns them.
        metrics: The means that the update solver returned; `"loss"` must be among them.
        client_weight: Computes the client's weight from its mean loss, whose weight is the number of examples
            that the update phase processed; by default that number.
        client_state: The client's next state, which `client_state_after` rejects if the client is dropped;
            `()` by default.
        other_costs: The costs of other solvers, as `cost_of` returns them, which are added to those of the
            update solver; none by default.
    """
    cost = {name: metrics[name] for name in COSTS if name in metrics}
    metrics = {name: mean for name, mean in metrics.items() if name not in cost}
    for name, mean in other_costs.items():
        cost[name] = Mean(cost[name].total + mean.total, mean.weight) if name in cost else mean
    weight = client_weight(metrics["loss"])
    # A sum is finite only if all its terms are, and is much faster than a test of each term, which needs an
    # array in between. A sum that overflows although its terms are finite drops the client as well; it would
    # have spoiled the cohort's sum.
    step = summed_gradients.step_of(delta)
    seen = delta if step is None else step.entries  # else the delta would be computed for its sum alone
    sums = [jnp.sum(x) for x in jax.tree.leaves((seen, metrics, weight, client_state))]
    finite = jnp.all(jnp.isfinite(jnp.stack(sums)))
    mean = Mean.of(delta, weight).where(finite)
    if step is not None:
        summed_gradients.note(mean.total, step._replace(kept=finite, weight=mean.weight))
    metrics = {name: mean.where(finite) for name, mean in metrics.items()}
    share = {"dropped": ~finite, "empty": finite & (metrics["loss"].weight == 0)}
    counts = {name: Mean(x.astype(jnp.float32), jnp.ones(())) for name, x in share.items()}
    return Update(mean, rows, {**metrics, **counts, **cost})


def client_state_after(update: Update, new: ClientState, old: ClientState) -> Any:
    """The client state after a round: `new`, or `old` if `update_of` dropped the client."""
    return jax.tree.map(lambda a, b: jnp.where(update.metrics["dropped"].total > 0, b, a), new, old)


def server(
    model: Model, optimizer: optax.GradientTransformation, aggregator: Aggregator
) -> tuple[InitFn, ServerUpdateFn]:
    """The server's half, which all algorithms share.

    Args:
        model: The view of the model that is trained.
        optimizer: The server's Optax optimiser: `sgd(1.0)` for FedAvg, `yogi(...)` for FedYogi (Reddi et al.,
            2021).
        aggregator: Turns the sum of the cohort's updates into the server's pseudo-gradient.

    Returns:
        The functions `init` and `server_update` of the algorithm. A round whose sum has weight 0 changes
        nothing but the number of rounds. State of the model, such as the statistics of batch normalisation,
        takes the step that the aggregator gives, the weighted mean of the clients' changes, and no step of
        the optimiser.
    """
    averaged = state_within("0", model.state)

    def init(key: PRNGKey, global_params: Params | None = None, /) -> ServerState:
        params = model.init_global(key) if global_params is None else global_params
        return ServerState(params, optimizer.init(params), aggregator.init(params), jnp.zeros((), jnp.int32))

    def server_update(state: ServerState, update: Update) -> ServerState:
        gradient, aggregator_state = aggregator(state.aggregator_state, update)
        gradient = jax.tree.map(lambda g, x: g.astype(x.dtype), gradient, state.global_params)
        change = jax.tree.map(jnp.negative, gradient) if averaged else None
        if averaged:  # a norm over all leaves must not count state
            gradient = with_state(gradient, averaged, jax.tree.map(jnp.zeros_like, gradient))
        updates, opt_state = optimizer_step(optimizer, gradient, state.opt_state, state.global_params)
        if averaged:
            updates = with_state(updates, averaged, change)
        params = optax.apply_updates(state.global_params, updates)
        new = state._replace(global_params=params, opt_state=opt_state, aggregator_state=aggregator_state)
        some = update.delta.weight > 0
        # Without any weight the old state stays whole: even a pseudo-gradient of 0 would let momentum move
        # the parameters, and a moving mean decay.
        client_state = jax.tree.map(lambda a, b: jnp.where(some, a, b), new, state)
        return client_state._replace(round=state.round + 1)

    return init, server_update


def with_usable_tables(model: Model, update: LocalSolver, joint: bool = False) -> Model:
    """The model, without tables if the update solver's optimiser cannot work on some of their rows only.

    A warning says so, since it costs speed.

    Args:
        model: The view of the model that is trained.
        update: The solver that changes the global parameters.
        joint: Whether `update` changes the local parameters together with the global ones; False by default.
    """
    if not model.tables:
        return model
    params = jax.eval_shape(model.init_global, jax.random.key(0))
    tables = model.tables
    if joint:
        params = (params, jax.eval_shape(model.init_local, params, jax.random.key(0)))
        tables = tuple(type(t)(f"0/{t.leaf}", t.fields) for t in tables)
    for table in tables:
        leaf_at(params, table.leaf)
    if as_solver(update).locality(params, tables) != "dense":
        return model
    names = ", ".join(t.leaf for t in model.tables)
    warnings.warn(
        f"{update!r} does not treat the rows of a table ({names}) one by one, so that every client works "
        "on whole tables; it costs speed and bytes, not accuracy",
        stacklevel=3,
    )
    return without_tables(model)
