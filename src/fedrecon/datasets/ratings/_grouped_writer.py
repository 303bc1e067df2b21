"""Writes a client file of ratings that come in the order of their clients, in the memory of a piece."""

from pathlib import Path
from typing import IO

import numpy as np
from jaxtyping import Bool, Int64, Shaped

from fedrecon.data._client_file.file import write_within
from fedrecon.data._clients import Clients
from fedrecon.data._columns import in_order, offsets_of, stored
from fedrecon.data._field_stats import NONE, FieldStats, measured, merged
from fedrecon.data._shards.folder import Progress, write_shards
from fedrecon.data._table_ids import table_keys

_PIECE = 1 << 19  # ratings that are looked at together
_CHUNK = 1 << 20  # numbers that are converted together


class GroupedWriter:
    """Takes ratings in the order of their clients, and writes the client file that `Clients.write` would.

    Args:
        folder: A folder for the columns, on the file system of the client file.
        fields: The names of the fields, in their order.
        cap: The number of ratings of a client that are kept, the first ones; None keeps all.

    Attributes:
        least: The number of ratings below which a client is left out; 0 by default.
        duplicates: The treatment of items that a client rates twice: `"error"`, the default, `"last"`, which
            keeps what was read last, or `"all"`.
        all_clients: The keys of all clients, ascending; known after `close`.
        clients: The places among them of those that are written; known after `close`.
    """

    def __init__(self, folder: Path, fields: list[str], cap: int | None):
        self._folder, self._fields, self._cap = folder, fields, cap
        self.least, self.duplicates = 0, "error"
        self.all_clients = np.zeros(0, np.int64)
        self.clients = np.zeros(0, np.int64)
        self._waiting: list[dict[str, np.ndarray]] = []
        self._size = 0
        self._keys: list[np.ndarray] = []
        self._counts: list[np.ndarray] = []
        self._kinds: dict[str, np.dtype] = {}
        self._files: dict[str, IO[bytes]] = {}
        # By the kind of number and the bytes of a float, since how a column is stored is known in the end.
        self._stats: dict[tuple[str, str, int], FieldStats] = {}
        self._needs_doubles = self._has_fractions = False

    def add(self, columns: dict[str, np.ndarray]) -> bool:
        """Takes some ratings: `client`, ascending over all calls, `row`, and the fields.

        Returns:
            Whether no client has rated an item twice, or that is allowed.
        """
        self._waiting.append(columns)
        self._size += len(columns["client"])
        return self._size < _PIECE or self._flush(last=False)

    def close(self) -> bool:
        """Takes the last client; no ratings come any more."""
        is_right = self._flush(last=True)
        for file in self._files.values():
            file.close()
        self.all_clients = np.concatenate([np.zeros(0, np.int64), *self._keys])
        counts = np.concatenate([np.zeros(0, np.int64), *self._counts])
        self.clients = np.flatnonzero(counts >= 0)
        self._num_examples = counts[self.clients]
        return is_right

    def write(
        self,
        path: Path,
        ids: Shaped[np.ndarray, " client"],
        items: Shaped[np.ndarray, " item"],
        shards: int | None = None,
        progress: Progress | None = None,
    ) -> None:
        """Writes the client file, or a folder of shards.

        Args:
            path: The file, or the folder.
            ids: The ids of all clients.
            items: The ids of the items.
            shards: The number of client files of a folder; None, the default, for one file.
            progress: Is called while shards are written; None, the default, calls nothing.
        """
        total = int(self._num_examples.sum())
        columns, stats = {}, {}
        for name in self._fields:
            kind = self._kinds[name]
            narrow = self._narrow(name)
            stats[name] = self._stats[name, narrow.kind, narrow.itemsize if narrow.kind == "f" else 0]
            if narrow != kind:
                self._convert(name, kind, narrow)
            place = self._folder / name
            columns[name] = np.memmap(place, narrow, "r", shape=(total,)) if total else np.zeros(0, narrow)
        ids, keys, counts = ids[self.clients], table_keys(ids)[self.clients], self._num_examples
        if shards is None:
            write_within(self._folder, path, ids, keys, counts, columns, {"item": items}, stats)
        else:
            starts = offsets_of(counts)[:-1]
            clients = Clients(ids, keys, starts, counts, columns, {"item": items}, stats)
            write_shards(path, clients, shards, progress)

    def _flush(self, last: bool) -> bool:
        if not self._size:
            return True
        joined = {name: np.concatenate([x[name] for x in self._waiting]) for name in self._waiting[0]}
        client = joined["client"]
        # The last client may go on in what comes next.
        end = len(client) if last else int(np.searchsorted(client, client[-1]))
        rest = {name: x[end:].copy() for name, x in joined.items()}
        self._waiting, self._size = [rest], len(client) - end
        return not end or self._write({name: x[:end] for name, x in joined.items()})

    def _write(self, columns: dict[str, np.ndarray]) -> bool:
        """Writes the ratings of whole clients."""
        if self.duplicates != "all":
            again = _repeats(columns["client"], columns["item"], columns["row"])
            if again.any():
                if self.duplicates == "error":
                    return False
                columns = {name: x[~again] for name, x in columns.items()}
        client = columns["client"]
        starts = np.flatnonzero(np.concatenate([[True], client[1:] != client[:-1]]))
        counts = np.diff(np.concatenate([starts, [len(client)]]))
        owner = np.repeat(np.arange(len(starts)), counts)
        for name in self._fields:
            self._measure(name, columns[name], owner, offsets_of(counts))
        keep = counts >= self.least
        # Minus one stands for a client that is left out.
        kept = np.where(keep, counts if self._cap is None else np.minimum(counts, self._cap), -1)
        self._keys.append(client[starts])
        self._counts.append(kept)
        mask = np.arange(len(client)) - starts[owner] < kept[owner]
        for name in self._fields:
            if name not in self._files:
                self._files[name] = open(self._folder / name, "wb")  # noqa: SIM115
                self._kinds[name] = columns[name].dtype
            self._files[name].write(np.ascontiguousarray(columns[name][mask]).data)
        return True

    def _measure(
        self,
        name: str,
        column: Shaped[np.ndarray, " rating"],
        owner: Int64[np.ndarray, " rating"],
        offsets: Int64[np.ndarray, " client_and_one"],
    ) -> None:
        views = [column]
        if column.dtype == np.float64:
            with np.errstate(over="ignore"):
                views.append(column.astype(np.float32))
            if not self._needs_doubles:
                narrow = {name: views[1]}
                self._needs_doubles = in_order({name: column}, narrow, offsets)[name].dtype == np.float64
            self._has_fractions = self._has_fractions or bool(np.any(column != np.floor(column)))
            if not self._has_fractions:
                views.append(column.astype(np.int64))
        for values in views:
            key = name, values.dtype.kind, values.itemsize if values.dtype.kind == "f" else 0
            stats = measured(values, owner)
            self._stats[key] = merged(self._stats.get(key, NONE), stats)

    def _narrow(self, name: str) -> np.dtype:
        """The type in which `Clients` stores a column, see `Clients.from_columns`."""
        kind = self._kinds[name]
        if kind == np.float64:
            if self._has_fractions or self._stats[name, "f", 8].most <= 2**24:
                return kind if self._needs_doubles else np.dtype(np.float32)
            kind = np.dtype(np.int64)
        if kind.kind == "f":
            return kind
        stats = self._stats[name, "i", 0]
        return stored({name: np.array([stats.least, stats.most], kind)})[name].dtype

    def _convert(self, name: str, wide: np.dtype, narrow: np.dtype) -> None:
        path, other = self._folder / name, self._folder / f"{name}.narrow"
        with open(path, "rb") as source, open(other, "wb") as file:
            while len(column := np.fromfile(source, wide, _CHUNK)):
                with np.errstate(over="ignore"):
                    file.write(column.astype(narrow).data)
        other.replace(path)


def _repeats(
    client: Int64[np.ndarray, " rating"],
    item: Shaped[np.ndarray, " rating"],
    row: Int64[np.ndarray, " rating"],
) -> Bool[np.ndarray, " rating"]:
    """Which ratings are of an item that the client rates again in a later row."""
    again = np.zeros(len(client), bool)
    codes = np.cumsum(np.concatenate([[0], client[1:] != client[:-1]]))
    pairs = codes * (int(item.max()) + 1) + item
    ordered = np.sort(pairs)
    if np.any(ordered[1:] == ordered[:-1]):
        order = np.lexsort((row, pairs))
        again[order[:-1]] = pairs[order[1:]] == pairs[order[:-1]]
    return again
