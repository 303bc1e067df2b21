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

_CLIENTS = "clients"  # name of the only axis of the mesh


@dataclass(frozen=True)
class Devices:
    """Devices that each take an equal share of every block's clients.

    The global parameters are on all devices, and the clients' updates are summed over the devices once a
    round. Programs that read the parameters afterwards compute the same on all of them. Where the devices
    belong to several processes, each process lays out the clients of its own devices, and all processes must
    make the same calls.

    Attributes:
        all: The devices; those of one process follow one another.
    """

    all: tuple[Any, ...]

    @staticmethod
    def first(count: int | None = None) -> "Devices":
        """The first devices of each process.

        Args:
            count: The number of devices of each process; None, the default, for all.

        Raises:
            ValueError: A process has fewer devices, or one has more than another.
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
        """The first devices of this process, for computations without the other processes.

        Args:
            count: The number of devices; None, the default, for all.

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
        """The number of processes to which the devices belong."""
        return len({device.process_index for device in self.all})

    @property
    def part(self) -> tuple[int, int]:
        """The part of every block's clients that this process lays out, from 0, and the number of parts."""
        return (jax.process_index(), self.processes) if self.processes > 1 else (0, 1)

    def everywhere(self, tree: PyTree) -> Any:
        """Copies arrays to all devices; where there are several processes, the arrays of the first one."""
        if len(self) == 1:
            return tree
        sharding = jax.NamedSharding(self._mesh(), jax.P())
        if self.processes == 1:
            return jax.device_put(tree, sharding)
        if all(isinstance(x, jax.Array) and not x.is_fully_addressable for x in jax.tree.leaves(tree)):
            return tree

        def place(x: Numbers) -> Any:
            if _is_key(x):
                return jax.random.wrap_key_data(place(jax.random.key_data(x)), impl=jax.random.key_impl(x))
            return jax.make_array_from_process_local_data(sharding, np.asarray(x))

        return jax.tree.map(place, from_the_first(tree))

    def cut(self, batch: PyTree) -> Any:
        """Global arrays from this process's part of every block, `[block, client, ...]`."""
        if self.processes == 1:
            return batch
        sharding = jax.NamedSharding(self._mesh(), jax.P(None, _CLIENTS))
        return jax.tree.map(lambda x: jax.make_array_from_process_local_data(sharding, np.asarray(x)), batch)

    def settled(self, result: PyTree) -> Any:
        """Waits for the result of a program with sums over processes, if it has to be waited for.

        It must be called directly after the program. On a CPU such a program holds threads of XLA's pool
        until the other processes have joined its sum; several of them at once take all threads and wait for
        each other for ever.

        Args:
            result: The arrays that the program returned.

        Returns:
            The same arrays.
        """
        if self.processes > 1 and self.all[0].platform == "cpu":
            jax.block_until_ready(result)
        return result

    def total(self, counts: Sequence[int]) -> Any:
        """Sums each of several whole numbers over the processes; the sums must lie below 2³¹."""
        mine = np.zeros((len(self) // self.processes, len(counts)), np.int32)
        mine[0] = counts
        sharding = jax.NamedSharding(self._mesh(), jax.P(_CLIENTS))
        return self.settled(_sum(self)(jax.make_array_from_process_local_data(sharding, mine)))

    def spread(self, cohort: Callable[..., Any]) -> Callable[..., Any]:
        """Spreads a cohort's program over all devices.

        Args:
            cohort: The program for one device, `(global_params, round, batches) -> (sums, sums, results per
                client)`. The leaves of the batches and of the results per client start with the axes
                `[block, client]`, of which the second is cut over the devices.

        Returns:
            The program for all devices, with the same arguments and results.
        """
        if len(self) == 1:
            return cohort

        def part(global_params: Params, announced: PyTree, batches: PyTree) -> Any:
            update, sums, client_state = cohort(global_params, announced, batches)
            return *jax.lax.psum((update, sums), _CLIENTS), self._gather(client_state, 1)

        cut = jax.P(None, _CLIENTS)
        return self._map_over_clients(part, cut, (jax.P(), jax.P(), cut if self.processes == 1 else jax.P()))

    def each(self, clients: Callable[..., Any]) -> Callable[..., Any]:
        """Spreads a program without sums over all devices.

        Args:
            clients: The program for one device, `(global_params, round, batch) -> results per client`. The
                leaves of the batch start with the axes `[1, client]`, those of the results with `[client]`.

        Returns:
            The program for all devices, with the same arguments and results.
        """
        if len(self) == 1:
            return clients

        def part(global_params: Params, round: Int[Array, ""], batch: PyTree) -> Any:
            return self._gather(clients(global_params, round, batch), 0)

        out = jax.P(_CLIENTS) if self.processes == 1 else jax.P()
        return self._map_over_clients(part, jax.P(None, _CLIENTS), out)

    def _gather(self, tree: PyTree, axis: int) -> Any:
        """Results per client, gathered such that every process has those of all clients."""
        if self.processes == 1:
            return tree
        return jax.tree.map(lambda x: jax.lax.all_gather(x, _CLIENTS, axis=axis, tiled=True), tree)

    def _map_over_clients(self, part: Callable[..., Any], cut: PyTree, out: PyTree) -> Callable[..., Any]:
        specs: dict[str, Any] = {"in_specs": (jax.P(), jax.P(), cut), "out_specs": out}
        return jax.shard_map(part, mesh=self._mesh(), check_vma=False, **specs)

    def _mesh(self) -> Any:
        return jax.sharding.Mesh(np.array(self.all), (_CLIENTS,))


@functools.cache
def _sum(devices: Devices) -> Any:
    replicated = jax.NamedSharding(devices._mesh(), jax.P())
    return jax.jit(lambda x: jnp.sum(x, 0), out_shardings=replicated)


def from_the_first(tree: PyTree) -> Any:
    """Copies the arrays of the first process to all processes, bit by bit.

    Args:
        tree: A pytree that has the same structure, shapes and types in every process.
    """
    if jax.process_count() == 1:
        return tree
    from jax.experimental import multihost_utils

    leaves, structure = jax.tree.flatten(tree)
    arrays = [np.asarray(jax.random.key_data(x) if _is_key(x) else x) for x in leaves]
    # Sent as bytes: JAX broadcasts by adding the other processes' zeros, which would turn -0.0 into 0.0.
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
