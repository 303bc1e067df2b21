"""What every algorithm is: pure functions in a record, cut where the network is."""

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Literal, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, PyTree

from fedrecon.core._examples import Examples
from fedrecon.core._mean import Mean
from fedrecon.core._model import Model, Objective, Params, leaf_at, without_tables
from fedrecon.core._random import fold_in
from fedrecon.core._tags import tagged
from fedrecon.solvers._gradient import LocalSolver, Metrics
from fedrecon.solvers._minibatches import COSTS
from fedrecon.solvers._optimizers import describe


class ServerState(NamedTuple):
    """All that the server holds between rounds.

    Attributes:
        global_params: The global parameters.
        opt_state: The server optimiser's state.
        aggregator_state: The aggregator's state.
        round: Rounds done, int32.
    """

    global_params: Params
    opt_state: Any
    aggregator_state: Any
    round: Int[Array, ""]


class Broadcast(NamedTuple):
    """All that reaches a client.

    Attributes:
        global_params: The global parameters; of tables, the rows that the client asked for.
        round: Rounds done before this one: schedules and adaptive epochs need it.
        extra: What else an algorithm announces, for instance a clipping norm.
    """

    global_params: Params
    round: Int[Array, ""]
    extra: PyTree[Any] = ()


class Update(NamedTuple):
    """All that leaves a client.

    Attributes:
        delta: New minus old global parameters, weighted; of a table that `rows` names, of the touched rows.
        rows: For such a table which rows those are; their shape leads that of the table's delta. Empty where
            the delta is dense.
        metrics: Means over the client's examples, scalars.
        statistics: What an aggregator asks for.
    """

    delta: Mean
    rows: dict[str, Any]
    metrics: dict[str, Mean]
    statistics: PyTree[Any] = ()


@dataclass(frozen=True, eq=False, repr=False)
class Algorithm:
    """A federated algorithm.

    Attributes:
        model: The view of the model that is trained.
        personal_model: The view under which what `personalize` returns is read.
        init: `key -> ServerState`.
        init_client_state: `(global_params, key) -> client_state`: what a client holds before its first round;
            `()` for a stateless algorithm.
        client_update: `(Broadcast, client_state, Examples, key) -> (Update, client_state)`.
        server_update: `(ServerState, Update summed over the cohort) -> ServerState`. It must be pure: where a
            cohort is summed in several parts, it may be computed for each, and all but the whole one's result
            is thrown away.
        personalize: `(Broadcast, client_state, support, key) -> local_params`: evaluation, serving, export.
        name: For records and run folders, by which these know the run again: it must not change.
        hyperparameters: For records and run folders: what it was made of, under names that must not change
            either. Classes and functions among them are known by their tags, see `tags.tagged`.
        exchanges: What rounds would move over a network, for the count of bytes: `"parameters"`, down and
            up; `"nothing"`; or `"examples"`, which have left the clients once before the first round.
    """

    model: Model
    personal_model: Model
    init: Callable[..., ServerState]
    init_client_state: Callable[..., Any]
    client_update: Callable[..., tuple[Update, Any]]
    server_update: Callable[..., ServerState]
    personalize: Callable[..., Params]
    name: str = "algorithm"
    hyperparameters: Mapping[str, Any] = field(default_factory=dict)
    exchanges: Literal["parameters", "nothing", "examples"] = "parameters"

    def __repr__(self) -> str:
        inside = ", ".join(f"{k}={_show(v)}" for k, v in self.hyperparameters.items())
        return f"{self.name}({inside})"


@runtime_checkable
class Aggregator(Protocol):
    """Turns the sum of a cohort's updates into the server optimiser's pseudo-gradient."""

    def init(self, global_params: Params) -> Any:
        """The state that the aggregator keeps."""

    def __call__(self, state: Any, update: Update) -> tuple[Params, Any]:
        """The pseudo-gradient and the next state."""


@tagged("aggregator/weighted_mean")
@dataclass(frozen=True)
class WeightedMean:
    """The negative mean of the deltas under the realised weights."""

    def init(self, global_params: Params) -> Any:
        return ()

    def __call__(self, state: Any, update: Update) -> tuple[Params, Any]:
        return jax.tree.map(jnp.negative, update.delta.value()), state


@tagged("client_weight/examples")
def by_examples(loss: Mean) -> Float[Array, ""]:
    """Client weight: the query examples (tokens, for text) that the update phase processed."""
    return loss.weight


@tagged("client_weight/uniform")
def uniform(loss: Mean) -> Float[Array, ""]:
    """Client weight: 1 for every client with a query example, so that others do not dilute the mean."""
    return jnp.where(loss.weight > 0, 1.0, 0.0)


def subkeys(key: Any, count: int, first: int = 0) -> list[Any]:
    """Independent keys, those numbered `first` and on.

    Unlike those of `jax.random.split`, one that is not used costs nothing, while each that is used has to be
    compiled. For the same reason they are numbered rather than derived from each other.
    """
    return [fold_in(key, first + i) for i in range(count)]


def stateless(global_params: Params, key: Any) -> tuple[()]:
    """`init_client_state` of stateless clients."""
    return ()


def solve_delta(
    solver: LocalSolver, objective: Objective, params: Params, examples: Examples, key: Any, round: Any
) -> tuple[Params, dict[str, Any], Metrics]:
    """How a stage changes parameters: `Solver.solve_delta`, or for stages without it the difference.

    The metrics tell what it took, too.
    """
    if hasattr(solver, "solve_delta"):
        change, rows, metrics = solver.solve_delta(objective, params, examples, key, round)
    else:
        new, metrics = solver(objective, params, examples, key, round)
        change, rows = jax.tree.map(jnp.subtract, new, params), {}
    return change, rows, metrics | cost_of(solver, examples, round)


def rows_below(part: str, rows: dict[str, Any]) -> dict[str, Any]:
    """Of tables in a pair of trees, such as `(global_params, local_params)`, those of `"0"` or of `"1"`."""
    return {leaf.removeprefix(f"{part}/"): ids for leaf, ids in rows.items() if leaf.startswith(f"{part}/")}


def cost_of(solver: LocalSolver, examples: Examples, round: Any, fitted: Params = 0) -> Metrics:
    """What a stage takes with a client's examples, as metrics; empty for one that does not say.

    Args:
        solver: A solver, or what stands for one.
        examples: That it processes.
        round: Rounds done before.
        fitted: The parameters that it fits. If they have no leaf, there is nothing to do.
    """
    cost = getattr(solver, "cost", None)
    found = cost(examples, round) if cost is not None and jax.tree.leaves(fitted) else {}
    return {name: Mean(jnp.asarray(x, jnp.float32), jnp.ones(())) for name, x in found.items()}


def update_of(
    delta: Params,
    rows: dict[str, Any],
    metrics: Metrics,
    client_weight: Callable[[Mean], Any] = by_examples,
    client_state: Any = (),
    other_costs: Mapping[str, Mean] = MappingProxyType({}),
) -> Update:
    """What a client sends after its update phase.

    A delta, a metric or something to keep that is not finite drops the client from the mean and from the
    metrics, and is counted: `metrics["dropped"]` is the share of clients it happened to,
    `metrics["empty"]` the share that had no query example.

    Args:
        delta: New minus old global parameters; of a table that `rows` names, of these rows.
        rows: See `solve_delta`.
        metrics: What its update stage returned, with `"loss"`.
        client_weight: From the mean of the loss, its weight being the examples processed, to the client's
            weight.
        client_state: What the client would keep; see `client_state_after`.
        other_costs: What other stages took, as `cost_of` tells it; counted with that of the update stage.
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


def client_state_after(update: Update, new: Any, old: Any) -> Any:
    """What a client keeps: `new`, or `old` if `update_of` dropped it."""
    return jax.tree.map(lambda a, b: jnp.where(update.metrics["dropped"].total > 0, b, a), new, old)


def server(
    model: Model, optimizer: optax.GradientTransformation, aggregator: Aggregator
) -> tuple[Callable[..., ServerState], Callable[..., ServerState]]:
    """The server's half, common to all algorithms: `(init, server_update)`.

    FedAvg is `sgd(1.0)`, FedYogi is `yogi(...)` (Reddi et al., 2021). A round that brought no weight
    leaves all but the round's number as it was.
    """

    def init(key: Any) -> ServerState:
        params = model.init_global(key)
        return ServerState(params, optimizer.init(params), aggregator.init(params), jnp.zeros((), jnp.int32))

    def server_update(state: ServerState, update: Update) -> ServerState:
        gradient, aggregator_state = aggregator(state.aggregator_state, update)
        gradient = jax.tree.map(lambda g, x: g.astype(x.dtype), gradient, state.global_params)
        updates, opt_state = optimizer.update(gradient, state.opt_state, state.global_params)
        params = optax.apply_updates(state.global_params, updates)
        new = ServerState(params, opt_state, aggregator_state, state.round)
        some = update.delta.weight > 0
        client_state = jax.tree.map(lambda a, b: jnp.where(some, a, b), new, state)
        return client_state._replace(round=state.round + 1)

    return init, server_update


def with_usable_tables(model: Model, update: Any, joint: bool = False) -> Model:
    """`model`, its tables dense where the update stage's optimiser cannot be given rows.

    Warns once where that happens, since it costs speed.

    Args:
        model: The view that is trained.
        update: The stage that changes the global parameters.
        joint: Whether it changes the local ones with them.
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
    locality = getattr(update, "locality", None)
    if locality is not None and locality(params, tables) != "dense":
        return model
    names = ", ".join(t.leaf for t in model.tables)
    warnings.warn(
        f"{update!r} does not treat the rows of a table ({names}) one by one, so that every client works "
        "on whole tables; it costs speed and bytes, not accuracy",
        stacklevel=3,
    )
    return without_tables(model)


def _show(value: Any) -> str:
    if isinstance(value, optax.GradientTransformation):
        return describe(value)
    return getattr(value, "__name__", None) or repr(value)
