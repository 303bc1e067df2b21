"""Clients spread over the devices of one process, or of all processes of JAX's distributed runtime."""

import functools
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int, PyTree

from fedrecon.core._types import Leaf, Numbers, Params
from fedrecon.errors import whole_number

_CLIENTS = "clients"  # the axis of the mesh


@dataclass(frozen=True)
class Devices:
    """Some devices, each of which takes an equal share of every block's clients.

    The global parameters are on all of them, and the clients' updates are summed over them once a round.
    What reads the parameters afterwards computes on all of them alike. Where they belong to several
    processes, each process lays out the clients of its own devices, and all make the same calls.

    Attributes:
        all: The devices, those of a process side by side.
    """

    all: tuple[Any, ...]

    @staticmethod
    def first(count: int | None = None) -> "Devices":
        """So many devices of each process; all by default.

        Raises:
            ValueError: There are not so many, or one process has more than another.
        """
        here = Devices.here(count)
        count = None if count is None else len(here)
        if jax.process_count() == 1:
            return here
        owned: dict[int, list[Any]] = {}
        for device in sorted(jax.devices(), key=lambda d: (d.process_index, d.id)):
            owned.setdefault(device.process_index, []).append(device)
        chosen = [device for some in owned.values() for device in some[:count]]
        counts = Counter(device.process_index for device in chosen)
        if len(set(counts.values())) > 1:
            raise ValueError(f"all processes must have as many devices, got {dict(counts)} by process")
        return Devices(tuple(chosen))

    @staticmethod
    def here(count: int | None = None) -> "Devices":
        """So many devices of this process, for what it does without the others; all by default.

        Raises:
            ValueError: The process has fewer devices.
        """
        there = jax.local_devices()
        if count is not None:
            count = whole_number("devices", count, 1)
            if count > len(there):
                raise ValueError(f"devices must be at most the {len(there)} of this process, got {count}")
        return Devices(tuple(there[:count]))

    def __len__(self) -> int:
        return len(self.all)

    @functools.cached_property
    def processes(self) -> int:
        """How many processes they belong to."""
        return len({device.process_index for device in self.all})

    @property
    def part(self) -> tuple[int, int]:
        """Which of how many parts of every block's clients this process lays out."""
        return (jax.process_index(), self.processes) if self.processes > 1 else (0, 1)

    def everywhere(self, tree: PyTree) -> Any:
        """Arrays, copied to all devices; those of the first process, where there are several."""
        if len(self) == 1:
            return tree
        sharding = jax.NamedSharding(self._mesh(), jax.P())
        if self.processes == 1:
            return jax.device_put(tree, sharding)
        if all(isinstance(x, jax.Array) and not x.is_fully_addressable for x in jax.tree.leaves(tree)):
            return tree

        def placed(x: Numbers) -> Any:
            if _is_key(x):
                return jax.random.wrap_key_data(placed(jax.random.key_data(x)), impl=jax.random.key_impl(x))
            return jax.make_array_from_process_local_data(sharding, np.asarray(x))

        return jax.tree.map(placed, from_the_first(tree))

    def cut(self, batch: PyTree) -> Any:
        """Joins this process's part of every block, `[block, client, ...]`, to those of the others."""
        if self.processes == 1:
            return batch
        sharding = jax.NamedSharding(self._mesh(), jax.P(None, _CLIENTS))
        return jax.tree.map(lambda x: jax.make_array_from_process_local_data(sharding, np.asarray(x)), batch)

    def settled(self, result: PyTree) -> Any:
        """What a program with sums over processes returns; to be called on it at once.

        On a CPU it is waited for: such programs hold threads of XLA's pool until the other processes are
        there, so that a few of them under way at once would wait for each other for ever.
        """
        if self.processes > 1 and self.all[0].platform == "cpu":
            jax.block_until_ready(result)
        return result

    def total(self, counts: Sequence[int]) -> Any:
        """The sums over the processes of whole numbers `[count]` below 2³¹, not waited for."""
        mine = np.zeros((len(self) // self.processes, len(counts)), np.int32)
        mine[0] = counts
        sharding = jax.NamedSharding(self._mesh(), jax.P(_CLIENTS))
        return self.settled(_sum(self)(jax.make_array_from_process_local_data(sharding, mine)))

    def spread(self, cohort: Callable[..., Any]) -> Callable[..., Any]:
        """`(global_params, round, batches) -> (sums, sums, per client)`, on all devices.

        Args:
            cohort: The same on one of them. The batches' leaves, and the results per client, start with the
                axes `[block, client]`, and the second is cut.
        """
        if len(self) == 1:
            return cohort

        def part(global_params: Params, round: Int[Array, ""], batches: PyTree) -> Any:
            update, sums, client_state = cohort(global_params, round, batches)
            return *jax.lax.psum((update, sums), _CLIENTS), self._gathered(client_state, 1)

        cut = jax.P(None, _CLIENTS)
        return self._mapped(part, cut, (jax.P(), jax.P(), cut if self.processes == 1 else jax.P()))

    def each(self, clients: Callable[..., Any]) -> Callable[..., Any]:
        """`(global_params, round, batch) -> per client`, on all devices.

        Args:
            clients: The same on one of them. The batch's leaves start with the axes `[1, client]`, the
                results with `[client]`.
        """
        if len(self) == 1:
            return clients

        def part(global_params: Params, round: Int[Array, ""], batch: PyTree) -> Any:
            return self._gathered(clients(global_params, round, batch), 0)

        out = jax.P(_CLIENTS) if self.processes == 1 else jax.P()
        return self._mapped(part, jax.P(None, _CLIENTS), out)

    def _gathered(self, tree: PyTree, axis: int) -> Any:
        """Results per client, those of all clients in every process."""
        if self.processes == 1:
            return tree
        return jax.tree.map(lambda x: jax.lax.all_gather(x, _CLIENTS, axis=axis, tiled=True), tree)

    def _mapped(self, part: Callable[..., Any], cut: PyTree, out: PyTree) -> Callable[..., Any]:
        specs: dict[str, Any] = {"in_specs": (jax.P(), jax.P(), cut), "out_specs": out}
        return jax.shard_map(part, mesh=self._mesh(), check_vma=False, **specs)

    def _mesh(self) -> Any:
        return jax.sharding.Mesh(np.array(self.all), (_CLIENTS,))


@functools.cache
def _sum(devices: Devices) -> Any:
    replicated = jax.NamedSharding(devices._mesh(), jax.P())
    return jax.jit(lambda x: jnp.sum(x, 0), out_shardings=replicated)


def from_the_first(tree: PyTree) -> Any:
    """The arrays of the first process, in all processes, to the bit.

    Args:
        tree: A pytree that has the same structure, shapes and types in every process.
    """
    if jax.process_count() == 1:
        return tree
    from jax.experimental import multihost_utils

    leaves, structure = jax.tree.flatten(tree)
    arrays = [np.asarray(jax.random.key_data(x) if _is_key(x) else x) for x in leaves]
    # As bytes: it is sent as a sum with zeros, which would turn -0 into 0.
    parts = [np.ascontiguousarray(x).reshape(-1).view(np.uint8) for x in arrays]
    told = multihost_utils.broadcast_one_to_all(np.concatenate([*parts, np.zeros(0, np.uint8)]))
    cuts = np.split(np.asarray(told), np.cumsum([part.size for part in parts])[:-1]) if parts else []
    received = [cut.view(x.dtype).reshape(x.shape) for cut, x in zip(cuts, arrays, strict=True)]
    keys = [jax.random.key_impl(x) if _is_key(x) else None for x in leaves]
    return jax.tree.unflatten(
        structure,
        [
            x if k is None else jax.random.wrap_key_data(jnp.asarray(x), impl=k)
            for x, k in zip(received, keys, strict=True)
        ],
    )


def _is_key(leaf: Leaf) -> bool:
    return isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
