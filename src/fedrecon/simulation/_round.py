"""The result of a round, and the number of bytes that it would send."""

import math
from typing import Any, NamedTuple

import jax
import numpy as np

from fedrecon._kernels.packing import Packed
from fedrecon._kernels.rows import Group
from fedrecon.algorithms._base import ServerState
from fedrecon.core._mean import Mean
from fedrecon.core._model import path_of
from fedrecon.core._types import Params
from fedrecon.privacy._compression import Compression


class Sizes:
    """Bytes of the global parameters and of their tables' rows.

    Attributes:
        dense: The number of bytes of all global parameters, with whole tables.
        rest: The number of bytes of the global parameters that are not tables.

    Args:
        global_params: The parameters, or their shapes.
        groups: The tables of which a client's part is some rows.
        compression: The compression of what clients send; None, the default, for none.
        row_counts: The tables for whose rows each client sends a number of four bytes beside its delta; none
            by default.
    """

    def __init__(
        self,
        global_params: Params,
        groups: tuple[Group, ...],
        compression: Compression | None = None,
        row_counts: tuple[str, ...] = (),
    ):
        sizes = {
            path_of(p): (x.size * x.dtype.itemsize, x.shape)
            for p, x in jax.tree_util.tree_leaves_with_path(global_params)
        }
        self.dense = sum(size for size, _ in sizes.values())
        self._counts = 4 * sum(sizes[name][1][0] for name in row_counts)
        self._row = {g.name: sum(sizes[n][0] // max(sizes[n][1][0], 1) for n in g.leaves) for g in groups}
        self.rest = self.dense - sum(sizes[n][0] for g in groups for n in g.leaves)
        self._compression = compression
        cut = {name for group in groups for name in group.leaves}
        self._rest_entries = [math.prod(shape) for name, (_, shape) in sizes.items() if name not in cut]
        self._row_entries = {g.name: [math.prod(sizes[n][1][1:]) for n in g.leaves] for g in groups}

    def of(self, clients: int, touched: dict[str, Any]) -> tuple[int, int]:
        """Bytes down to and up from some clients; a row's number takes four bytes.

        Args:
            clients: The number of clients.
            touched: The numbers of rows of each group that the clients touch, by the group's name.
        """
        down = up = clients * self.rest
        for name, counts in touched.items():
            rows = int(np.sum(counts))
            down += rows * self._row[name]
            up += rows * (self._row[name] + 4)
        if self._compression is not None:
            up = self._compressed(clients, touched, self._compression)
        return down, up + clients * self._counts

    def _compressed(self, clients: int, touched: dict[str, Any], compression: Compression) -> int:
        """Bytes up of compressed deltas; row numbers still take four each."""
        up = clients * sum(
            compression.bytes_of(entries) + compression.bytes_of_scale for entries in self._rest_entries
        )
        for name, counts in touched.items():
            rows = int(np.sum(counts))
            leaves = self._row_entries[name]
            up += 4 * rows + clients * len(leaves) * compression.bytes_of_scale
            up += sum(compression.bytes_of(rows * entries) for entries in leaves)
        return up

    def asked(self, touched: dict[str, Any]) -> int:
        """Bytes of the row numbers in the clients' requests.

        Args:
            touched: The numbers of rows of each group that the clients touch, by the group's name.
        """
        return 4 * sum(int(np.sum(counts)) for counts in touched.values())


class Round(NamedTuple):
    """The result of a round, whose arrays stay on the device until they are read.

    Attributes:
        number: The number of rounds done, this one included.
        state: The server's state after the round.
        clients: The number of clients of the cohort.
        rows: The numbers of rows of each group of tables that the clients touched, by the group's name.
        sizes: The bytes of a row and of all other parameters; zeros where the algorithm exchanges no
            parameters.
        block_metrics: The sums of the metrics over each block, by pass, on the device.
    """

    number: int
    state: ServerState
    clients: int
    rows: dict[str, Any]
    sizes: Sizes
    block_metrics: list[Packed]

    @property
    def bytes_down(self) -> int:
        """Number of bytes that would reach the cohort: rows of tables and all other parameters."""
        return self.sizes.of(self.clients, self.rows)[0]

    @property
    def bytes_up(self) -> int:
        """Number of bytes that would leave the cohort, row numbers included."""
        return self.sizes.of(self.clients, self.rows)[1]

    @property
    def request_bytes(self) -> int:
        """Number of bytes of the cohort's requests, which hold the numbers of its rows."""
        return self.sizes.asked(self.rows)

    @property
    def dense_bytes_down(self) -> int:
        """Number of bytes that would reach the cohort if whole tables were sent."""
        return self.sizes.dense * self.clients

    @property
    def dense_bytes_up(self) -> int:
        """Number of bytes that would leave the cohort if whole tables were sent."""
        return self.sizes.dense * self.clients

    def metrics(self) -> dict[str, Mean]:
        """The cohort's metrics, summed over its blocks in float64; waits for the round to end."""
        blocks: list[dict[str, Mean]] = [block for part in self.block_metrics for block in part.unpacked()]
        names = blocks[0]

        def total(name: str, part: int) -> Any:
            return np.float64(sum(np.sum(block[name][part], dtype=np.float64) for block in blocks))

        return {name: Mean(total(name, 0), total(name, 1)) for name in names}
