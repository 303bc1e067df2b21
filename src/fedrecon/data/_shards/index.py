"""The index of a folder of shards: where each client's examples lie, in the order of the one file.

It is an Arrow file with a row for each client: its name, its key, the number of its first example among those
of all shards one after the other, how many examples it has, and a digest of each field's. It is mapped, so
that a process has in memory what it asks for. Its frame has a checksum as that of a client file has. Names
and places have one that is checked when the folder is opened, digests one each, checked when they are used.
"""

import json
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int, UInt64

from fedrecon._files import atomic_file
from fedrecon.data import _arrow_bridge as bridge
from fedrecon.data._client_file.checksums import FRAME, UNSEALED, check_frame, seal
from fedrecon.data._field_stats import FieldStats
from fedrecon.data._from_arrays import vocabulary
from fedrecon.data._shards.rows import Texts
from fedrecon.data._unpacking import check_arrow
from fedrecon.errors import DataError

INDEX = "index.arrow"
_FORMAT = "fedrecon-shards-1"
_DIGEST = "digest:"
_HALVES = "halves:"
# The columns that are checked when the folder is opened.
_PLACES = ("client", "key", "start", "count")


class Shard(NamedTuple):
    """A client file of a folder.

    Attributes:
        name: The name of the file.
        frame: The checksum of its frame, which has those of all that is in it.
        clients: The number of its clients.
        examples: The number of their examples.
    """

    name: str
    frame: str
    clients: int
    examples: int


class Field(NamedTuple):
    """How a field's numbers are stored.

    Attributes:
        dtype: Their type.
        shape: The shape of an example's.
        stats: Their range, and whether they repeat.
    """

    dtype: np.dtype
    shape: tuple[int, ...]
    stats: FieldStats


class Index:
    """The index of a folder, mapped.

    Attributes:
        folder: The folder.
        shards: Its client files, in the order in which their examples are counted.
        fields: The fields by their names.
        vocabularies: For fields that hold dense ids, the original id of each.
        row_type: The type of the numbers of rows: 32 bits where they fit.

    Raises:
        DataError: The folder has no index, or it is damaged or of another version.
    """

    def __init__(self, folder: Path):
        import pyarrow as pa

        self.folder, self.path = folder, folder / INDEX
        if not self.path.is_file():
            raise DataError(
                f"{folder}: a folder of client files must have an {INDEX}, which "
                "fedrecon.data.index_shards makes"
            )
        try:
            is_checked = bool(check_frame(self.path))
            reader = pa.ipc.open_file(pa.memory_map(str(self.path)))
            check_arrow(self.path, None)
            metadata = {k.decode(): v.decode() for k, v in (reader.schema.metadata or {}).items()}
            table = reader.read_all()
        except (pa.ArrowException, OSError) as error:
            raise DataError(f"{self.path} is no index, or it is cut short: {error}") from error
        if metadata.get("format") != _FORMAT or not is_checked:
            raise DataError(f"{self.path} is no index of this version ({_FORMAT})")
        self._columns = {name: bridge.one_chunk(table[name]) for name in table.column_names}
        self._sums: dict[str, int] = json.loads(metadata["sums"])
        for name in _PLACES:
            self._check(name)
        self._unchecked = set(self._columns) - set(_PLACES)
        self.shards = [Shard(*values) for values in json.loads(metadata["shards"])]
        self.fields = {
            name: Field(np.dtype(kind), tuple(shape), FieldStats(*stats))
            for name, (kind, shape, stats) in json.loads(metadata["fields"]).items()
        }
        self.vocabularies = {
            name: vocabulary(name, ids) for name, ids in json.loads(metadata["vocabularies"]).items()
        }
        self.row_type = np.dtype(np.int32 if len(self) < 2**31 else np.int64)

    def __len__(self) -> int:
        return len(self._columns["key"])

    def column(self, name: str) -> Any:
        """A column of the index, `[client]`: an array, or texts that are read where they are asked for."""
        values = self._columns[name]
        return Texts(values) if bridge.is_text(values.type) else bridge.to_numpy(values)

    def digests(self, field: str) -> UInt64[np.ndarray, " client"]:
        """The digests of each client's examples of a field.

        Raises:
            DataError: They are not what was written.
        """
        return self._checked(_DIGEST + field)

    def halves(self, field: str) -> Int[np.ndarray, " client"] | None:
        """Twice the sum of a field of each client, where all of its numbers are multiples of a half.

        Raises:
            DataError: It is not what was written.
        """
        return self._checked(_HALVES + field) if _HALVES + field in self._columns else None

    def _checked(self, name: str) -> np.ndarray:
        if name in self._unchecked:
            self._check(name)
            self._unchecked.discard(name)
        return np.asarray(self.column(name))

    def _check(self, name: str) -> None:
        if name not in self._columns or _checksum(self._columns[name]) != self._sums.get(name):
            raise DataError(
                f"{self.path}: is damaged: it is not what was written; remove it and make it anew with "
                "fedrecon.data.index_shards, or copy it again"
            )


def write_index(
    folder: Path,
    shards: Sequence[Shard],
    fields: Mapping[str, Field],
    vocabularies: Mapping[str, np.ndarray],
    places: Mapping[str, np.ndarray],
    digests: Mapping[str, UInt64[np.ndarray, " client"]],
    halves: Mapping[str, Int[np.ndarray, " client"]],
) -> None:
    """Writes the index of a folder.

    Args:
        folder: The folder.
        shards: Its client files.
        fields: The fields by their names, in their order.
        vocabularies: For fields that hold dense ids, the original id of each.
        places: The columns `client`, `key`, `start` and `count`, each `[client]`.
        digests: The digests of each client's examples, by the name of the field.
        halves: Twice the sum of each client's numbers, by the names of fields of multiples of a half.
    """
    import pyarrow as pa

    columns = {name: places[name] for name in _PLACES}
    columns["count"] = _narrow(columns["count"])
    columns |= {_DIGEST + name: digests[name] for name in fields}
    columns |= {_HALVES + name: sums for name, sums in halves.items()}
    arrays = {name: bridge.to_arrow(values) for name, values in columns.items()}
    metadata = {
        FRAME: UNSEALED,  # the first, so that no word of a vocabulary is taken for it
        "format": _FORMAT,
        "shards": json.dumps(list(shards)),
        "fields": json.dumps({n: [x.dtype.str, list(x.shape), list(x.stats)] for n, x in fields.items()}),
        "vocabularies": json.dumps({name: ids.tolist() for name, ids in vocabularies.items()}),
        "sums": json.dumps({name: _checksum(values) for name, values in arrays.items()}),
    }
    table = pa.table(arrays).replace_schema_metadata(metadata)
    temporary = folder / f".{INDEX}.writing"
    with atomic_file(folder / INDEX, temporary) as file:
        with pa.ipc.new_file(file, table.schema) as writer:
            writer.write_table(table, max_chunksize=len(table) or None)
        file.flush()
        for at, content in seal(temporary):
            file.seek(at)
            file.write(content)


def _narrow(counts: Int[np.ndarray, " client"]) -> Int[np.ndarray, " client"]:
    """Numbers of examples in 32 bits, if all fit."""
    return counts.astype(np.int32) if counts.max(initial=0) < 2**31 else counts.astype(np.int64)


def _checksum(values: Any) -> int:
    """CRC-32 of an Arrow array of numbers or texts."""
    if not bridge.is_text(values.type):
        return zlib.crc32(np.ascontiguousarray(bridge.to_numpy(values)).view(np.uint8).data)
    places, texts = values.buffers()[1:]
    if not len(values):
        return 0
    offsets = np.frombuffer(places, np.int32)[values.offset : values.offset + len(values) + 1]
    start, stop = int(offsets[0]), int(offsets[-1])
    text = b"" if texts is None else memoryview(texts)[start:stop]
    return zlib.crc32(text, zlib.crc32((offsets - offsets[0]).tobytes()))
