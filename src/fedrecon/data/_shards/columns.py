"""The fields of a folder's clients: those of its shards in turn, each opened when it is first read."""

import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fedrecon.data._client_file.checksums import check_frame
from fedrecon.data._columns import offsets_of
from fedrecon.data._shards.index import Index, Shard
from fedrecon.errors import DataError

if TYPE_CHECKING:
    from fedrecon.data._client_file.checksums import Column


class ShardFiles:
    """The client files of a folder.

    All that is small is checked here, and of each file its frame: that nobody replaced it by another.

    Args:
        index: The index of the folder.

    Raises:
        DataError: A shard is missing, damaged, or not the one that the index is of; or there is another one.
    """

    def __init__(self, index: Index):
        self.index = index
        # Where each shard's examples begin among those of all.
        self.starts = offsets_of(np.array([shard.examples for shard in index.shards], np.int64))
        self._columns: dict[int, dict[str, Column]] = {}
        self._lock = threading.Lock()
        names = {shard.name for shard in index.shards}
        others = {path.name for path in index.folder.glob("*.arrow")} - names - {index.path.name}
        if others:
            raise DataError(
                f"{index.folder / min(others)}: is no shard of the folder's {index.path.name}, which knows "
                f"{len(names):,}: move it elsewhere, or make the index anew with fedrecon.data.index_shards"
            )
        for shard in index.shards:
            hold_to_index(index.folder / shard.name, shard)

    def columns(self) -> dict[str, "ShardedColumn"]:
        """The fields by their names."""
        return {name: ShardedColumn(self, name) for name in self.index.fields}

    def column(self, number: int, field: str) -> "Column":
        """A field of a shard, which is opened where it was not before.

        Raises:
            DataError: The shard is damaged.
        """
        with self._lock:  # several threads may read
            if number not in self._columns:
                from fedrecon.data._client_file.file import open_clients

                shard = self.index.shards[number]
                path = self.index.folder / shard.name
                hold_to_index(path, shard)
                self._columns[number] = dict(open_clients(path)[4])
        return self._columns[number][field]


class ShardedColumn:
    """A field of a folder's clients, which is read like an array `[example, ...]`.

    Args:
        files: The shards.
        name: The name of the field.
    """

    def __init__(self, files: ShardFiles, name: str):
        self._files, self._name = files, name
        field = files.index.fields[name]
        self.dtype = field.dtype
        self.shape = (int(files.starts[-1]), *field.shape)
        self.ndim = len(self.shape)

    def __len__(self) -> int:
        return int(self.shape[0])

    def __getitem__(self, rows: Any) -> np.ndarray:
        """Some of the examples, by a slice or an array of positions.

        Raises:
            DataError: What is read is not what was written.
        """
        starts = self._files.starts
        if isinstance(rows, slice):
            start, stop, step = rows.indices(len(self))
            if step != 1:
                return self[np.arange(start, stop, step)]
            values = np.empty((max(stop - start, 0), *self.shape[1:]), self.dtype)
            for number in range(len(starts) - 1):
                a, b = max(start, int(starts[number])), min(stop, int(starts[number + 1]))
                if a < b:
                    part = self._files.column(number, self._name)
                    values[a - start : b - start] = part[a - starts[number] : b - starts[number]]
            return values
        rows = np.asarray(rows)
        values = np.empty((*rows.shape, *self.shape[1:]), self.dtype)
        owners = np.searchsorted(starts, rows, side="right") - 1
        for number in np.unique(owners).tolist():
            chosen = owners == number
            values[chosen] = self._files.column(number, self._name)[rows[chosen] - starts[number]]
        return values

    def take(self, rows: Any, axis: int = 0, mode: Any = "clip") -> np.ndarray:
        """As `numpy.ndarray.take`, of positions `[client, place]` that ascend at each client.

        The examples of a client lie in one shard; places behind them get any values.

        Raises:
            DataError: What is read is not what was written.
        """
        values = np.zeros((*rows.shape, *self.shape[1:]), self.dtype)
        if not rows.size:
            return values
        starts = self._files.starts
        owners = np.searchsorted(starts, rows[..., 0], side="right") - 1
        for number in np.unique(owners).tolist():
            # A client without examples may begin where the last shard ends.
            if number < len(starts) - 1 and starts[number] < starts[number + 1]:
                chosen = owners == number
                part = self._files.column(number, self._name)
                values[chosen] = part.take(rows[chosen] - starts[number], axis=axis, mode=mode)
        return values


def hold_to_index(path: Path, shard: Shard) -> None:
    """Raises a DataError where a shard is not the one that the index is of."""
    if not path.is_file():
        raise DataError(f"{path}: this shard is missing; put it back, its folder cannot be used without it")
    if check_frame(path) != shard.frame:
        raise DataError(
            f"{path}: is a shard of another conversion than the folder's index: put the right one back, or "
            "convert again"
        )
