"""Federated rounds in one process: cohorts in blocks, clients side by side within a block."""

import functools
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from .algorithm import Algorithm, Broadcast, ServerState, Update
from .federation.batches import Batch, Layout, examples_of
from .federation.blocks import Plan, plan_blocks
from .federation.clients import Clients
from .federation.sampling import Sampling
from .model import Params, leaf_at, path_of, with_leaves
from .rows import Group
from .stats import Mean


class Round(NamedTuple):
    """What a round left behind; its arrays are on the device until they are asked for.

    Attributes:
        number: Rounds done, this one included.
        state: The server's.
        clients: Size of the cohort.
        bytes_down: Bytes that reached the cohort: rows of tables and all other parameters.
        bytes_up: Bytes that left it, row numbers included.
        dense_bytes_down: The same with whole tables.
        dense_bytes_up: The same with whole tables.
        block_metrics: Sums of each block's metrics, on the device.
    """

    number: int
    state: ServerState
    clients: int
    bytes_down: int
    bytes_up: int
    dense_bytes_down: int
    dense_bytes_up: int
    block_metrics: list[dict[str, Mean]]

    def metrics(self) -> dict[str, Mean]:
        """The cohort's metrics, summed over its blocks in double precision. Waits for the round to end."""
        blocks = jax.device_get(self.block_metrics)
        names = blocks[0]
        return {
            name: Mean(*(np.float64(sum(np.sum(b[name][i], dtype=np.float64) for b in blocks)) for i in (0, 1)))
            for name in names
        }


class Simulation:
    """Runs an algorithm on clients, a cohort a round.

    Numbers do not depend on how clients are cut into blocks, up to the order of floating-point sums; under
    one plan they are the same to the bit.

    Attributes:
        algorithm: What is run.
        clients: On whose examples.
        sampling: How a round's cohort is drawn.
        seed: Of the cohorts and of what clients draw; never of noise for privacy.
        plan: How cohorts are cut into blocks.
    """

    def __init__(
        self,
        algorithm: Algorithm,
        clients: Clients,
        sampling: Sampling,
        *,
        seed: int = 0,
        plan: Plan | None = None,
        clients_per_block: int | None = None,
    ):
        sampling.check(len(clients))
        self.algorithm, self.clients, self.sampling, self.seed = algorithm, clients, sampling, seed
        self.plan = plan or plan_blocks(
            clients.num_examples, sampling.most(len(clients)), clients_per_block=clients_per_block
        )
        shapes = jax.eval_shape(algorithm.model.init_global, jax.random.key(0))
        self._layout = Layout(algorithm.model, clients, shapes)
        self._bytes = _Bytes(shapes, self._layout.groups)
        self._key = jax.random.fold_in(jax.random.key(seed % 2**32), seed // 2**32 % 2**32)
        groups = self._layout.groups
        cut = tuple(
            tuple(g for g in groups if self._layout.by_rows(g, slot)) for slot in self.plan.slots
        )
        self._accumulate = jax.jit(
            functools.partial(_accumulate, algorithm, cut, self._layout.distinct), donate_argnums=0
        )
        self._finish = jax.jit(algorithm.server_update, donate_argnums=1)
        self._zeros = jax.jit(lambda: _zero_update(algorithm, shapes))

    @property
    def compilations(self) -> int:
        """Programs that the rounds compiled so far."""
        return sum(f._cache_size() for f in (self._accumulate, self._finish, self._zeros))

    def init(self, global_params: Params | None = None) -> ServerState:
        """The first state, from the seed or from given global parameters.

        Raises:
            ValueError: They are not of the model's structure and shapes.
        """
        state = jax.jit(self.algorithm.init)(jax.random.fold_in(self._key, 0))
        if global_params is None:
            return state
        _check_like(global_params, state.global_params)
        return state._replace(global_params=jax.tree.map(jnp.asarray, global_params))

    def rounds(self, state: ServerState, count: int) -> Iterator[Round]:
        """Runs rounds from `state` on. The host lays out a cohort while the device works on the one before.

        Args:
            state: Where to start; its arrays stay valid.
            count: How many rounds.
        """
        first = int(state.round)
        key = jax.random.fold_in(self._key, 1)
        for number in range(first, first + count):
            cohort = self.sampling.indices(number, self.clients.num_examples, self.seed)
            acc, metrics = self._zeros(), []
            for slots in self.plan.passes(self.clients.num_examples[cohort]):
                batches = tuple(
                    self._layout.batch(slot, cohort[positions])
                    for slot, positions in zip(self.plan.slots, slots, strict=True)
                )
                acc, found = self._accumulate(acc, state.global_params, state.round, batches, key)
                metrics += found
            state = self._finish(state, acc)
            down, up = self._bytes.of(self._layout.touched(cohort))
            dense = self._bytes.dense * len(cohort)
            yield Round(number + 1, state, len(cohort), down, up, dense, dense, metrics)


def _accumulate(
    algorithm: Algorithm,
    cut: tuple[tuple[Group, ...], ...],
    distinct: tuple[str, ...],
    acc: Update,
    global_params: Params,
    round: Any,
    batches: tuple[Batch, ...],
    key: Any,
) -> tuple[Update, list[dict[str, Mean]]]:
    """Adds a cohort's updates to `acc`; returns each block's metrics beside it."""
    found = []
    key = jax.random.fold_in(key, round)
    for batch, groups in zip(batches, cut, strict=True):
        run = functools.partial(_block, algorithm, groups, distinct, global_params, round, key)
        acc, metrics = jax.lax.scan(run, acc, batch)
        found.append(metrics)
    return acc, found


def _block(
    algorithm: Algorithm,
    groups: tuple[Group, ...],
    distinct: tuple[str, ...],
    global_params: Params,
    round: Any,
    key: Any,
    acc: Update,
    block: Batch,
) -> tuple[Update, dict[str, Mean]]:
    def client(batch: Batch) -> Update:
        params = global_params
        for group in groups:
            rows = batch.rows[group.name]
            params = with_leaves(
                params, {name: leaf_at(params, name).at[rows].get(mode="clip") for name in group.leaves}
            )
        own = jax.random.fold_in(jax.random.fold_in(key, batch.key[0]), batch.key[1])
        examples = examples_of(batch.data, batch.count, distinct)
        update, _ = algorithm.client_update(Broadcast(params, round), batch.kept, examples, own)
        metrics = {name: mean.where(batch.real) for name, mean in update.metrics.items()}
        return update._replace(metrics=metrics)

    update = jax.vmap(client)(block)
    touched = {name: block.rows[g.name].reshape(-1) for g in groups for name in g.leaves}

    def add(path: Any, total: Any, part: Any) -> Any:
        rows = touched.get(path_of(path))
        if rows is None:
            return total + jnp.sum(part, 0)
        return total.at[rows].add(part.reshape(-1, *part.shape[2:]), mode="drop")

    delta = jax.tree_util.tree_map_with_path(add, acc.delta.total, update.delta.total)
    weight = acc.delta.weight + jnp.sum(update.delta.weight)
    statistics = jax.tree.map(lambda a, x: a + jnp.sum(x, 0), acc.statistics, update.statistics)
    metrics = {name: mean.sum() for name, mean in update.metrics.items()}
    return Update(Mean(delta, weight), {}, {}, statistics), metrics


def _zero_update(algorithm: Algorithm, global_params: Params) -> Update:
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), global_params)
    return Update(Mean(zeros, jnp.zeros(())), {}, {}, ())


class _Bytes:
    """What a client's part of the global parameters weighs."""

    def __init__(self, global_params: Params, groups: tuple[Group, ...]):
        sizes = {path_of(p): (x.size * x.dtype.itemsize, x.shape) for p, x in jax.tree_util.tree_leaves_with_path(global_params)}
        self.dense = sum(size for size, _ in sizes.values())
        self._row = {g.name: sum(sizes[n][0] // max(sizes[n][1][0], 1) for n in g.leaves) for g in groups}
        self._rest = self.dense - sum(sizes[n][0] for g in groups for n in g.leaves)

    def of(self, touched: dict[str, Any]) -> tuple[int, int]:
        """Bytes down and up for clients that touch so many rows; a row's number takes four bytes up."""
        clients = len(next(iter(touched.values()))) if touched else 0
        return 0, 0


def _check_like(given: Params, wanted: Params) -> None:
    if jax.tree.structure(given) != jax.tree.structure(wanted):
        raise ValueError(
            f"initial global parameters must have the model's structure {jax.tree.structure(wanted)}, got "
            f"{jax.tree.structure(given)}"
        )
    for (path, a), b in zip(jax.tree_util.tree_leaves_with_path(given), jax.tree.leaves(wanted), strict=True):
        if jnp.shape(a) != b.shape:
            raise ValueError(f"initial global parameter {path_of(path)!r} must be of shape {b.shape}, got {jnp.shape(a)}")
