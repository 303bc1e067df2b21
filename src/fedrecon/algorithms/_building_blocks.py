"""What algorithms are put together from: the server's half, what a client sends, weights of clients, keys."""

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

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
    """Independent keys, those numbered `first` and on.

    Unlike those of `jax.random.split`, one that is not used costs nothing, while each that is used has to be
    compiled. For the same reason they are numbered rather than derived from each other.
    """
    return [fold_in(key, first + i) for i in range(count)]


def stateless(global_params: Params, key: PRNGKey) -> tuple[()]:
    """`init_client_state` of stateless clients."""
    return ()


def solve_delta(
    solver: LocalSolver,
    objective: Objective,
    params: Params,
    examples: Examples,
    key: PRNGKey,
    round: RoundNumber,
) -> tuple[Params, Rows, Metrics]:
    """How a solver changes parameters: `Solver.solve_delta`, or for solvers without it the difference.

    The metrics tell what it took, too.
    """
    change, rows, metrics = as_solver(solver).solve_delta(objective, params, examples, key, round)
    return change, rows, metrics | cost_of(solver, examples, round)


def rows_below(part: str, rows: Rows) -> Rows:
    """Of tables in a pair of trees, such as `(global_params, local_params)`, those of `"0"` or of `"1"`."""
    return {leaf.removeprefix(f"{part}/"): ids for leaf, ids in rows.items() if leaf.startswith(f"{part}/")}


def cost_of(solver: LocalSolver, examples: Examples, round: RoundNumber, fitted: Params = 0) -> Metrics:
    """What a solver takes with a client's examples, as metrics; empty for one that does not say.

    Args:
        solver: The solver whose cost is counted.
        examples: The examples that the solver processes.
        round: The number of rounds done before this one.
        fitted: The parameters that it fits. If they have no leaf, there is nothing to do.
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
    """What a client sends after its update phase.

    A delta, a metric or something to keep that is not finite drops the client from the mean and from the
    metrics, and is counted: `metrics["dropped"]` is the share of clients it happened to,
    `metrics["empty"]` the share that had no query example.

    Args:
        delta: New minus old global parameters; of a table that `rows` names, of these rows.
        rows: By the path of a table, the row numbers of its delta, as `solve_delta` returns them.
        metrics: The means that the update solver returned; `"loss"` must be among them.
        client_weight: From the mean of the loss, its weight being the examples processed, to the client's
            weight.
        client_state: The state that the client would keep; see `client_state_after`.
        other_costs: The costs of other solvers, as `cost_of` returns them, which are added to that of the
            update solver.
    """
    cost = {name: metrics[name] for name in COSTS if name in metrics}
    metrics = {name: mean for name, mean in metrics.items() if name not in cost}
    for name, mean in other_costs.items():
        cost[name] = Mean(cost[name].total + mean.total, mean.weight) if name in cost else mean
    weight = client_weight(metrics["loss"])
    # A sum is finite only if all its terms are; it takes a fraction of the time of a look at each. One that
    # overflows although its terms are finite would spoil the cohort's sum as well.
    sums = [jnp.sum(x) for x in jax.tree.leaves((delta, metrics, weight, client_state))]
    finite = jnp.all(jnp.isfinite(jnp.stack(sums)))
    mean = Mean.of(delta, weight).where(finite)
    metrics = {name: mean.where(finite) for name, mean in metrics.items()}
    share = {"dropped": ~finite, "empty": finite & (metrics["loss"].weight == 0)}
    counts = {name: Mean(x.astype(jnp.float32), jnp.ones(())) for name, x in share.items()}
    return Update(mean, rows, {**metrics, **counts, **cost})


def client_state_after(update: Update, new: ClientState, old: ClientState) -> Any:
    """What a client keeps: `new`, or `old` if `update_of` dropped it."""
    return jax.tree.map(lambda a, b: jnp.where(update.metrics["dropped"].total > 0, b, a), new, old)


def server(
    model: Model, optimizer: optax.GradientTransformation, aggregator: Aggregator
) -> tuple[InitFn, ServerUpdateFn]:
    """The server's half, common to all algorithms: `(init, server_update)`.

    FedAvg is `sgd(1.0)`, FedYogi is `yogi(...)` (Reddi et al., 2021). A round that brought no weight
    leaves all but the round's number as it was.
    """

    def init(key: PRNGKey, global_params: Params | None = None, /) -> ServerState:
        params = model.init_global(key) if global_params is None else global_params
        return ServerState(params, optimizer.init(params), aggregator.init(params), jnp.zeros((), jnp.int32))

    def server_update(state: ServerState, update: Update) -> ServerState:
        gradient, aggregator_state = aggregator(state.aggregator_state, update)
        gradient = jax.tree.map(lambda g, x: g.astype(x.dtype), gradient, state.global_params)
        updates, opt_state = optimizer.update(gradient, state.opt_state, state.global_params)
        params = optax.apply_updates(state.global_params, updates)
        new = state._replace(global_params=params, opt_state=opt_state, aggregator_state=aggregator_state)
        some = update.delta.weight > 0
        client_state = jax.tree.map(lambda a, b: jnp.where(some, a, b), new, state)
        return client_state._replace(round=state.round + 1)

    return init, server_update


def with_usable_tables(model: Model, update: LocalSolver, joint: bool = False) -> Model:
    """`model`, its tables dense where the update solver's optimiser cannot be given rows.

    Warns once where that happens, since it costs speed.

    Args:
        model: The view of the model that is trained.
        update: The solver that changes the global parameters.
        joint: Whether `update` changes the local parameters together with the global ones.
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
