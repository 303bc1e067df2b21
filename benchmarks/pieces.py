"""The parts of a round, each a call that can be timed alone."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from fedrecon import Broadcast, Mean, ServerState, Simulation, Update
from fedrecon._kernels.rows import Group, add_rows, take
from fedrecon.algorithms import solve_delta, subkeys, update_of
from fedrecon.core import leaf_at, on_global, path_of, with_leaves
from fedrecon.data._hashing import Purpose, round_keys
from fedrecon.simulation import Slot
from fedrecon.simulation._batches import Batch, Layout, examples_of, key_of

Calls = dict[str, Callable[[], Any]]


def of_round(simulation: Simulation) -> Calls:
    """The parts of the simulation's first round by what they are, in their order.

    Those that compute are compiled alone and take arguments that are on the device. They write down what the
    whole round may pass on in registers, and each costs a dispatch: their times need not add up to the
    round's.
    """
    state = simulation.init()
    layout = Layout(simulation.algorithm.model, simulation.clients, state.global_params)
    batches, calls = _host(simulation, layout)
    return calls | _device(simulation, layout, state, batches)


def _host(simulation: Simulation, layout: Layout) -> tuple[tuple[Batch, ...], Calls]:
    lengths, plan = simulation.clients.num_examples, simulation.plan

    def draw() -> Any:
        return simulation.sampling.indices(0, lengths, simulation.seed)

    cohort = draw()

    def hash_keys() -> Any:
        return round_keys(simulation.seed, Purpose.TRAINING, 0, simulation.clients.keys[cohort])

    keys = hash_keys()

    def lay_out() -> tuple[Batch, ...]:
        slots = zip(plan.slots, plan.passes(lengths[cohort])[0], strict=True)
        return tuple(layout.batch(slot, cohort[positions], keys[positions]) for slot, positions in slots)

    batches = lay_out()
    return batches, {
        "host: draw the clients": draw,
        "host: hash the clients' keys": hash_keys,
        "host: lay them out in blocks": lay_out,
        "host: count the bytes sent": lambda: layout.touched(cohort),
    }


def _device(simulation: Simulation, layout: Layout, state: ServerState, batches: tuple[Batch, ...]) -> Calls:
    views = [_View(simulation, layout, slot) for slot in simulation.plan.slots]

    def program(part: str) -> Any:
        """A part over all slots, compiled: of the broadcast and tuples of what each slot takes."""
        return jax.jit(
            lambda *args: tuple(
                getattr(v, part)(args[0], *xs) for v, *xs in zip(views, *args[1:], strict=True)
            )
        )

    nothing = jax.jit(lambda state, batches: state.round, keep_unused=True)
    finish = jax.jit(simulation.algorithm.server_update)
    begin, gather, reconstruct = program("begin"), program("gather"), program("reconstruct")
    update, weigh, scatter = program("update"), program("weigh"), program("scatter")
    given = Broadcast(state.global_params, state.round)
    laid = jax.device_put(batches)
    small = gather(given, laid)
    local = reconstruct(given, laid, small)
    new = update(given, laid, small, local)
    sent = weigh(given, laid, new)
    total = jax.tree.map(lambda *parts: sum(parts), *scatter(given, laid, sent))
    summed = Update(total, {}, {})
    return {
        "dispatch: a program that does nothing, on the host's arrays": lambda: nothing(state, batches),
        "gather the rows of the clients": lambda: gather(given, laid),
        "reconstruct": lambda: reconstruct(given, laid, small),
        "  of it keys and fresh local parameters": lambda: begin(given, laid),
        "update": lambda: update(given, laid, small, local),
        "weigh and check the deltas": lambda: weigh(given, laid, new),
        "scatter and sum the deltas": lambda: scatter(given, laid, sent),
        "server step": lambda: finish(state, summed),
    }


class _View:
    """The parts of a round on the blocks of one slot; arguments and results start with `[block, client]`."""

    def __init__(self, simulation: Simulation, layout: Layout, slot: Slot):
        self.algorithm, self.length, self.positional = simulation.algorithm, slot.length, layout.positional
        self.cut: list[Group] = [g for g in layout.groups if layout.by_rows(g, slot)]
        self.leaves = {name: g.name for g in self.cut for name in g.leaves}

    def gather(self, broadcast: Broadcast, batch: Batch) -> Any:
        def client(batch: Batch) -> Any:
            tables = {name: leaf_at(broadcast.global_params, name) for name in self.leaves}
            return {name: x.at[batch.rows[self.leaves[name]]].get(mode="clip") for name, x in tables.items()}

        return _in_blocks(client, batch)

    def begin(self, broadcast: Broadcast, batch: Batch) -> Any:
        init = self.algorithm.model.init_local
        return _in_blocks(lambda b: init(broadcast.global_params, subkeys(_keys(b)[1], 2)[0]), batch)

    def reconstruct(self, broadcast: Broadcast, batch: Batch, small: Any) -> Any:
        def client(batch: Batch, small: Any) -> Any:
            keys = _keys(batch)
            support, _ = self._split(batch, keys[0])
            return self.algorithm.personalize(_with(broadcast, small), batch.client_state, support, keys[1])

        return _in_blocks(client, batch, small)

    def update(self, broadcast: Broadcast, batch: Batch, small: Any, local: Any) -> Any:
        stage = self.algorithm.hyperparameters["update"]

        def client(batch: Batch, small: Any, local: Any) -> Any:
            keys, old = _keys(batch), _with(broadcast, small).global_params
            objective, (_, query) = on_global(self.algorithm.model, local), self._split(batch, keys[0])
            delta, ids, metrics = solve_delta(stage, objective, old, query, keys[2], broadcast.round)
            rows = {name: batch.rows[group] for name, group in self.leaves.items()}
            return delta, rows | {name: take(rows[name], x) for name, x in ids.items()}, metrics

        return _in_blocks(client, batch, small, local)

    def weigh(self, broadcast: Broadcast, batch: Batch, new: Any) -> Any:
        return _in_blocks(update_of, *new)

    def scatter(self, broadcast: Broadcast, batch: Batch, sent: Update) -> Any:
        def add(total: Mean, update: Update) -> tuple[Mean, None]:
            def leaf(path: Any, total: Any, part: Any) -> Any:
                rows = update.rows.get(path_of(path))
                if rows is None:
                    return total + jnp.sum(part, 0)
                count = len(rows)
                return add_rows(total, rows.reshape(count, -1), part.reshape(count, -1, *total.shape[1:]))

            delta = jax.tree_util.tree_map_with_path(leaf, total.total, update.delta.total)
            return Mean(delta, total.weight + jnp.sum(update.delta.weight)), None

        zeros = jax.tree.map(jnp.zeros_like, broadcast.global_params)
        return jax.lax.scan(add, Mean(zeros, jnp.zeros(())), sent)[0]

    def _split(self, batch: Batch, key: Any) -> Any:
        examples = examples_of(batch.data, batch.count, self.length, self.positional)
        return self.algorithm.hyperparameters["split"](examples, key)


def _keys(batch: Batch) -> Any:
    """A client's keys for its split, its reconstruction and its update."""
    return subkeys(key_of(batch.key), 3)


def _with(broadcast: Broadcast, small: Any) -> Broadcast:
    return broadcast._replace(global_params=with_leaves(broadcast.global_params, small))


def _in_blocks(client: Callable[..., Any], *arguments: Any) -> Any:
    """`client` side by side within blocks, and block after block."""
    return jax.lax.map(lambda block: jax.vmap(client)(*block), arguments)
