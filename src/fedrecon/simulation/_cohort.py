"""The compiled part of a round: blocks of vectorised clients, and the sum of their updates."""

import contextlib
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.tree_util import KeyPath
from jaxtyping import Array, Bool, Float, Int, PyTree

from fedrecon._kernels import summed_gradients
from fedrecon._kernels.gathered_rows import gather, remembering
from fedrecon._kernels.packing import Packed
from fedrecon._kernels.rows import add_rows, take
from fedrecon._kernels.summed_gradients import GradientStep
from fedrecon.algorithms._base import Algorithm, Broadcast, ServerState, Update
from fedrecon.core._mean import Mean, summed
from fedrecon.core._model import leaf_at, path_of, with_leaves
from fedrecon.core._types import Params
from fedrecon.simulation._batches import Batch
from fedrecon.simulation._client_step import View, client_step
from fedrecon.simulation._compilation import heavy
from fedrecon.simulation._late_updates import add_by_stage, in_stages


class Announced(NamedTuple):
    """What clients are told beside the global parameters, see `Broadcast`.

    Attributes:
        round: The number of rounds done before this one.
        extra: Further values; `()` for none.
    """

    round: Int[Array, ""]
    extra: PyTree[Any]


def cohort_update(
    algorithm: Algorithm,
    views: tuple[View, ...],
    global_params: Params,
    announced: Announced,
    batches: tuple[Batch, ...],
    *,
    stages: int = 1,
) -> tuple[Update, Packed, list[Any]]:
    """The sum of a cohort's updates, the metrics of each block by slot, and the clients' new states.

    Args:
        algorithm: The algorithm whose `client_update` is called.
        views: The view of the clients of each slot.
        global_params: The global parameters before the round.
        announced: The number of rounds done, and what the server broadcasts beside the parameters.
        batches: The clients of each slot.
        stages: The number of rounds in which the clients' updates are counted; the sums are by stage,
            `[stage, ...]`, where it is above 1; 1 by default.
    """
    # Deltas of bfloat16 or float16 parameters are summed in float32: after a few hundred addends a sum in
    # bfloat16, which has 8 significant bits, would round further addends away.
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, jnp.promote_types(x.dtype, jnp.float32)), global_params)
    if algorithm.takes_each:
        return _side_by_side(algorithm, views, global_params, announced, batches)
    counts = {name: jnp.zeros(leaf_at(global_params, name).shape[0]) for name in algorithm.row_counts}
    nothing = Mean(*in_stages((zeros, jnp.zeros(())), stages))
    total = Update(nothing, {}, {}, counts or ())
    metrics_by_slot, client_state = [], []
    for batch, view in zip(batches, views, strict=True):
        run = functools.partial(_block, algorithm, view, global_params, announced)
        total, (metrics, new) = jax.lax.scan(run, total, batch)
        metrics_by_slot.append(metrics)
        client_state.append(new)
    # Packed into a vector for each type: each array that a program returns costs the host some microseconds.
    return total, Packed.of(metrics_by_slot), client_state


def _side_by_side(
    algorithm: Algorithm,
    views: tuple[View, ...],
    global_params: Params,
    announced: Announced,
    batches: tuple[Batch, ...],
) -> tuple[Update, Packed, list[Any]]:
    """As `cohort_update`, with the dense delta and the weight of every client, `[client, ...]`, for sums.

    The weights of what fills up a block are 0.
    """
    updates, metrics_by_slot, client_state = [], [], []
    for batch, view in zip(batches, views, strict=True):

        def one(carry: None, block: Batch, view: View = view) -> tuple[None, Any]:
            update, new, _ = _clients_of(algorithm, view, global_params, announced, block)
            delta = jax.tree_util.tree_map_with_path(
                functools.partial(_dense, global_params, update.rows), update.delta.total
            )
            weight = jnp.where(block.real, update.delta.weight, 0)
            sums = {name: mean.sum() for name, mean in update.metrics.items()}
            return carry, (Mean(delta, weight), sums, new)

        _, (means, metrics, new) = jax.lax.scan(one, None, batch)
        updates.append(jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), means))
        metrics_by_slot.append(metrics)
        client_state.append(new)
    each = jax.tree.map(lambda *parts: jnp.concatenate(parts), *updates)
    return Update(each, {}, {}), Packed.of(metrics_by_slot), client_state


def _dense(global_params: Params, rows: dict[str, Any], path: KeyPath, part: Array) -> Array:
    """Deltas of a leaf with whole tables, `[client, ...]`; rows of the same number are summed."""
    name = path_of(path)
    if name not in rows:
        return part
    ids = rows[name].reshape(len(part), -1)
    shape = leaf_at(global_params, name).shape
    values = part.astype(jnp.promote_types(part.dtype, jnp.float32)).reshape(*ids.shape, *shape[1:])
    whole = jnp.zeros((len(part), *shape), values.dtype)
    return whole.at[jnp.arange(len(part))[:, None], ids].add(values, mode="drop")


def one_pass(
    algorithm: Algorithm,
    update_of: Callable[..., Any],
    step: Callable[[ServerState, Update], ServerState] | None,
    state: ServerState,
    batches: tuple[Batch, ...],
) -> tuple[ServerState | None, Update, Packed, list[Any]]:
    """One pass over a cohort: the server's next state if the pass is the whole round, and the sums.

    Args:
        algorithm: The algorithm that is simulated.
        update_of: Sums up a cohort, `cohort_update` of an algorithm and its views, on one device or several.
        step: The server's step, `server_update`; None to leave it to another program, and to return None for
            the state.
        state: The server's state before the round.
        batches: The batches of the pass, one for each slot.
    """
    broadcast = algorithm.broadcast(state)
    announced = Announced(broadcast.round, broadcast.extra)
    update, metrics_by_slot, client_state = update_of(broadcast.global_params, announced, batches)
    return None if step is None else step(state, update), update, metrics_by_slot, client_state


def _block(
    algorithm: Algorithm,
    view: View,
    global_params: Params,
    announced: Announced,
    total: Update,
    block: Batch,
) -> tuple[Update, tuple[dict[str, Mean], Any]]:
    """Computes the updates of the clients of a block, vectorised, and adds them to `total`."""
    steps: list[GradientStep | None] = []
    update, client_state, arrays = _clients_of(algorithm, view, global_params, announced, block, steps)
    step, metrics = steps[-1], update.metrics
    steps.clear()  # it is referred to by what was traced, which would wait for the garbage collector
    if step is None:
        sums = _with_deltas(total, update, block, heavy(global_params, algorithm.model.tables))
    else:
        # The clients' deltas, which are then read by nobody, are left out by the compiler.
        delta, finite = summed_gradients.summed(step, *arrays)
        sums = _with_sum(total, update, block.real, delta, finite)
        metrics = _unless_dropped(metrics, block.real, finite)
    return sums, ({name: mean.sum() for name, mean in metrics.items()}, client_state)


def _clients_of(
    algorithm: Algorithm,
    view: View,
    global_params: Params,
    announced: Announced,
    block: Batch,
    steps: list[GradientStep | None] | None = None,
) -> tuple[Update, Any, Any]:
    """The updates of the clients of a block, vectorised, their states, and the arrays of their step.

    Args:
        algorithm: The algorithm whose `client_update` is called.
        view: The view of the clients.
        global_params: The global parameters before the round.
        announced: What the server broadcasts beside the parameters.
        block: The clients of the block.
        steps: Gets the step by which the deltas were made, or None, at its end; by default nobody asks.
    """

    def client(batch: Batch) -> tuple[Update, Any, Any]:
        small = {
            name: gather(leaf_at(global_params, name), batch.rows[group.name])
            for group in view.cut
            for name in group.leaves
        }
        broadcast = Broadcast(with_leaves(global_params, small), *announced)
        at_once = isinstance(block.delay, tuple)  # late updates are summed one by one
        changed = algorithm.privacy or algorithm.compression or algorithm.row_counts  # the solver's deltas
        collects = steps is not None and not view.cut and at_once and not changed
        with contextlib.ExitStack() as stack:
            notes = stack.enter_context(summed_gradients.collecting()) if collects else {}
            update, client_state = client_step(algorithm, view, broadcast, batch, simulated=True)
            step = _step_of(update, global_params)
        if notes and step is None:
            # Without notes: deltas that are summed one by one are looked through one by one.
            update, client_state = client_step(algorithm, view, broadcast, batch, simulated=True)
        if steps is not None:
            steps.append(step)
        metrics = {name: mean.where(batch.real) for name, mean in update.metrics.items()}
        rows = {name: batch.rows[group.name] for group in view.cut for name in group.leaves}
        rows |= {name: take(rows[name], ids) for name, ids in update.rows.items()}
        arrays = () if step is None else (step.inputs, step.scale * update.delta.weight, step.kept)
        return update._replace(metrics=metrics, rows=rows), client_state, arrays

    # While a block is traced, tables remember the global table and the rows that they were gathered from, so
    # that a solver which reads them in slices gathers each slice itself and the table is never written.
    with remembering():
        update, client_state, arrays = jax.vmap(client)(block)
    return update, client_state, arrays


def _step_of(update: Update, global_params: Params) -> GradientStep | None:
    """The step that an update was made by, if it is as `update_of` returned it; else None.

    An algorithm may have made the update itself from a solver's delta, or have changed its weight or its
    metrics: then neither the weight nor whether the client is kept are those that the step was noted with.
    """
    step = summed_gradients.step_of(update.delta.total)
    if step is None or step.kept is None:
        return None
    if update.delta.weight is not step.weight or "dropped" not in update.metrics:
        return None
    # Else each client's gradient is taken elsewhere, as after a step of its own.
    return step if step.starts_at(global_params) else None


def _with_deltas(total: Update, update: Update, block: Batch, much: bool) -> Update:
    """A sum of updates with those of the clients of a block added, `[client, ...]`."""
    at_once = isinstance(block.delay, tuple)

    def add(name: str, total: Array, part: Array) -> Any:
        rows = update.rows.get(name)
        if not at_once:
            return add_by_stage(total, part, block.delay, rows, much)
        if rows is None:
            return total + summed(part)
        count = len(rows)
        return add_rows(total, rows.reshape(count, -1), part.reshape(count, -1, *total.shape[1:]), much)

    def add_leaf(path: KeyPath, total: Array, part: Array) -> Any:
        return add(path_of(path), total, part)

    delta = jax.tree_util.tree_map_with_path(add_leaf, total.delta.total, update.delta.total)
    if at_once:
        weight = total.delta.weight + _weight(update, block.real)
    else:
        weights = jnp.where(block.real, update.delta.weight, 0)
        weight = add_by_stage(total.delta.weight, weights, block.delay)
    counts: Any = ()
    if total.statistics:  # numbers for the rows of tables, see `Algorithm.row_counts`
        counts = {name: add(name, sums, update.statistics[name]) for name, sums in total.statistics.items()}
    return Update(Mean(delta, weight), {}, {}, counts)


def _with_sum(
    total: Update, update: Update, real: Bool[Array, "client"], delta: Params, finite: Bool[Array, ""]
) -> Update:
    """A sum of updates with that of the clients of a block added, whose deltas are summed already.

    Args:
        total: The sum so far.
        update: The updates of the block's clients, whose weights are added.
        real: Which places of the block hold a client.
        delta: The weighted sum of their deltas, zeros if it is not finite.
        finite: Whether it is finite.
    """
    weight = total.delta.weight + jnp.where(finite, _weight(update, real), 0)
    return Update(Mean(jax.tree.map(jnp.add, total.delta.total, delta), weight), {}, {})


def _unless_dropped(
    metrics: dict[str, Mean], real: Bool[Array, "client"], finite: Bool[Array, ""]
) -> dict[str, Mean]:
    """The metrics of a block's clients; if their sum is not finite, only that all of them were dropped."""
    all_dropped = jnp.where(finite, 0.0, real.astype(jnp.float32))
    metrics = {name: mean.where(finite) for name, mean in metrics.items()}
    return metrics | {"dropped": metrics["dropped"].merge(Mean(all_dropped, all_dropped))}


def _weight(update: Update, real: Bool[Array, "client"]) -> Float[Array, ""]:
    """The weight of a block's clients.

    Under some protections a client without an example has a weight, too: not so what fills up a block.
    """
    return jnp.sum(jnp.where(real, update.delta.weight, 0))
