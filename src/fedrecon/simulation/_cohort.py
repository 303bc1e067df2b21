"""The compiled part of a round: blocks of vectorised clients, and the sum of their updates."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.tree_util import KeyPath
from jaxtyping import Array, Int, PyTree

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
) -> tuple[Update, Packed, list[Any]]:
    """The sum of a cohort's updates, the metrics of each block by slot, and the clients' new states.

    Args:
        algorithm: The algorithm whose `client_update` is called.
        views: The view of the clients of each slot.
        global_params: The global parameters before the round.
        announced: What the clients are told beside the global parameters.
        batches: The clients of each slot.
    """
    # Deltas of bfloat16 or float16 parameters are summed in float32: after a few hundred addends a sum in
    # bfloat16, which has 8 significant bits, would round further addends away.
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, jnp.promote_types(x.dtype, jnp.float32)), global_params)
    total, metrics_by_slot, client_state = Update(Mean(zeros, jnp.zeros(())), {}, {}), [], []
    for batch, view in zip(batches, views, strict=True):
        run = functools.partial(_block, algorithm, view, global_params, announced)
        total, (metrics, new) = jax.lax.scan(run, total, batch)
        metrics_by_slot.append(metrics)
        client_state.append(new)
    # Packed into a vector for each type: each array that a program returns costs the host some microseconds.
    return total, Packed.of(metrics_by_slot), client_state


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

    def client(batch: Batch) -> tuple[Update, Any]:
        small = {
            name: gather(leaf_at(global_params, name), batch.rows[group.name])
            for group in view.cut
            for name in group.leaves
        }
        broadcast = Broadcast(with_leaves(global_params, small), *announced)
        update, client_state = client_step(algorithm, view, broadcast, batch, simulated=True)
        metrics = {name: mean.where(batch.real) for name, mean in update.metrics.items()}
        rows = {name: batch.rows[group.name] for group in view.cut for name in group.leaves}
        rows |= {name: take(rows[name], ids) for name, ids in update.rows.items()}
        return update._replace(metrics=metrics, rows=rows), client_state

    # While a block is traced, tables remember the global table and the rows that they were gathered from, so
    # that a solver which reads them in slices gathers each slice itself and the table is never written.
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
    # Under some protections a client without an example has a weight, too: not so what fills up a block.
    weight = total.delta.weight + jnp.sum(jnp.where(block.real, update.delta.weight, 0))
    metrics = {name: mean.sum() for name, mean in update.metrics.items()}
    return Update(Mean(delta, weight), {}, {}), (metrics, client_state)
