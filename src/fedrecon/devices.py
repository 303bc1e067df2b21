"""A cohort spread over the devices of a machine."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

_CLIENTS = "clients"  # the axis of the mesh


@dataclass(frozen=True)
class Devices:
    """Some of this process's devices, each of which takes an equal share of every block's clients.

    The global parameters are on all of them, and the clients' updates are summed over them once a round.
    What reads the parameters afterwards computes on all of them alike.

    Attributes:
        all: The devices.
    """

    all: tuple[Any, ...]

    @staticmethod
    def first(count: int | None = None) -> "Devices":
        """So many devices; all by default.

        Raises:
            ValueError: There are not so many.
        """
        there = jax.local_devices()
        if count is not None and not 1 <= count <= len(there):
            raise ValueError(f"devices must be from 1 to the {len(there)} of this process, got {count}")
        return Devices(tuple(there[:count]))

    def __len__(self) -> int:
        return len(self.all)

    def everywhere(self, tree: Any) -> Any:
        """Arrays, copied to all devices."""
        if len(self) == 1:
            return tree
        return jax.device_put(tree, jax.NamedSharding(self._mesh(), jax.P()))

    def spread(self, cohort: Callable[..., Any]) -> Callable[..., Any]:
        """`(global_params, round, batches) -> (sums, sums, per client)`, on all devices.

        Args:
            cohort: The same on one of them. The batches' leaves, and the results per client, start with the
                axes `[block, client]`, and the second is cut.
        """
        if len(self) == 1:
            return cohort

        def part(global_params: Any, round: Any, batches: Any) -> Any:
            update, found, kept = cohort(global_params, round, batches)
            return *jax.lax.psum((update, found), _CLIENTS), kept

        cut = jax.P(None, _CLIENTS)
        specs: dict[str, Any] = {
            "in_specs": (jax.P(), jax.P(), cut),
            "out_specs": (jax.P(), jax.P(), cut),
        }
        return jax.shard_map(part, mesh=self._mesh(), check_vma=False, **specs)

    def _mesh(self) -> Any:
        return jax.sharding.Mesh(np.array(self.all), (_CLIENTS,))
