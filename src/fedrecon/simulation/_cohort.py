"""The compiled part of a round: blocks of clients, side by side, and the sum of what they send."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.tree_util import KeyPath
from jaxtyping import Array, Int

from fedrecon._kernels.gathered_rows import gather, remembering
from fedrecon._kernels.packing import Packed
from fedrecon._kernels.rows import add_rows, take
from fedrecon.algorithms._base import Algorithm, Broadcast, ServerState, Update
from fedrecon.core._mean import Mean, summed
from fedrecon.core._model import leaf_at, path_of, with_leaves
from fedrecon.core._types import Params
from fedrecon.simulation._batches import Batch
from fedrecon.simulation._client_step import View, client_step
from fedrecon.simulation._compilation import heavy


def cohort_update(
    algorithm: Algorithm,
    views: tuple[View, ...],
    global_params: Params,
    round: Int[Array, ""],
    batches: tuple[Batch, ...],
) -> tuple[Update, Packed, list[Any]]:
    """The sum of a cohort's updates, each block's metrics by slot, and what clients keep."""
    # Sums of halves, too, are made in single precision.
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, jnp.promote_types(x.dtype, jnp.float32)), global_params)
    total, metrics_by_slot, client_state = Update(Mean(zeros, jnp.zeros(())), {}, {}), [], []
    for batch, view in zip(batches, views, strict=True):
        run = functools.partial(_block, algorithm, view, global_params, round)
        total, (metrics, new) = jax.lax.scan(run, total, batch)
        metrics_by_slot.append(metrics)
        client_state.append(new)
    return total, Packed.of(metrics_by_slot), client_state


def one_pass(
    update_of: Callable[..., Any],
    step: Callable[[ServerState, Update], ServerState] | None,
    state: ServerState,
    batches: tuple[Batch, ...],
) -> tuple[ServerState | None, Update, Packed, list[Any]]:
    """The server's next state if the pass is all of the round, and what `update_of` returns.

    Args:
        update_of: `cohort_update` of an algorithm and its views, on one device or several.
        step: The server's; None leaves it to another program, and the state out.
        state: The server's state before the round.
        batches: The batches of the pass, one for each slot.
    """
    update, metrics_by_slot, client_state = update_of(state.global_params, state.round, batches)
    return None if step is None else step(state, update), update, metrics_by_slot, client_state


def _block(
    algorithm: Algorithm,
    view: View,
    global_params: Params,
    round: Int[Array, ""],
    total: Update,
    block: Batch,
) -> tuple[Update, tuple[dict[str, Mean], Any]]:
    """Adds the updates of the clients of a block, side by side, to `total`."""

    def client(batch: Batch) -> tuple[Update, Any]:
        small = {
            name: gather(leaf_at(global_params, name), batch.rows[group.name])
            for group in view.cut
            for name in group.leaves
        }
        broadcast = Broadcast(with_leaves(global_params, small), round)
        update, client_state = client_step(algorithm, view, broadcast, batch)
        metrics = {name: mean.where(batch.real) for name, mean in update.metrics.items()}
        rows = {name: batch.rows[group.name] for group in view.cut for name in group.leaves}
        rows |= {name: take(rows[name], ids) for name, ids in update.rows.items()}
        return update._replace(metrics=metrics, rows=rows), client_state

    with remembering():
        update, client_state = jax.vmap(client)(block)

    much = heavy(global_params, algorithm.model.tables)

    def add(path: KeyPath, total: Array, part: Array) -> Any:
        rows = update.rows.get(path_of(path))
        if rows is None:
            return total + summed(part)
        count = len(rows)
        return add_rows(total, rows.reshape(count, -1), part.reshape(count, -1, *total.shape[1:]), much)

    delta = jax.tree_util.tree_map_with_path(add, total.delta.total, update.delta.total)
    weight = total.delta.weight + jnp.sum(update.delta.weight)
    metrics = {name: mean.sum() for name, mean in update.metrics.items()}
    return Update(Mean(delta, weight), {}, {}), (metrics, client_state)
