"""Writes and opens folders of shards: the client files, and the index that makes one federation of them."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Int64, UInt64

from fedrecon._files import rename, sync_folder
from fedrecon.core._array_like import FilePath
from fedrecon.data._arrow_bridge import to_arrow
from fedrecon.data._client_file.checksums import check_frame
from fedrecon.data._client_file.writer import ClientWriter
from fedrecon.data._clients import Clients
from fedrecon.data._field_stats import FieldStats, merged
from fedrecon.data._scratch import scratch
from fedrecon.data._shards.digests import digests_of
from fedrecon.data._shards.index import INDEX, Field, Shard, write_index
from fedrecon.data._shards.sums import halves_of
from fedrecon.data._table_ids import table_ids
from fedrecon.data._vocabulary_mapper import same_ids
from fedrecon.errors import DataError, plain, whole_number

_PIECE = 1 << 19  # examples that are in memory together

# Called with how many examples are written, and how many there are.
Progress = Callable[[int, int], None]


def write_shards(path: FilePath, clients: Clients, shards: int, progress: Progress | None = None) -> None:
    """Writes clients as a folder of shards, whole or not at all; `Clients.open` takes it as one federation.

    A client's shard follows from its key alone. Examples are read in pieces. The folder has an index of the
    clients in their order, by which they have the same cohorts, splits and draws as in one client file.

    Args:
        path: The folder, which must not exist.
        clients: The clients.
        shards: The number of client files, at least 1.
        progress: Is called after every piece; None, the default, calls nothing.

    Raises:
        DataError: The folder exists.
        OSError: It cannot be written.
    """
    shards, path = whole_number("shards", shards, 1), Path(path)
    if path.exists():
        raise DataError(f"{path}: is there already: remove it, or name another folder for the shards")
    with scratch(path) as hidden:
        folder = hidden / "shards"
        folder.mkdir()
        owners = shards_of(clients.keys, shards)
        parts = [np.flatnonzero(owners == number) for number in range(shards)]
        done, total = 0, int(np.sum(clients.num_examples, dtype=np.int64))
        for number, part in enumerate(parts):
            name = f"shard-{number + 1:05d}-of-{shards:05d}.arrow"
            with ClientWriter(folder / name, clients.vocabularies) as writer:
                some = clients.take(part)
                for piece in some.pieces(_PIECE) if len(part) else [some]:
                    writer.add(piece)
                    done += int(np.sum(piece.num_examples, dtype=np.int64))
                    if progress is not None:
                        progress(done, total)
        _write_index(folder, sorted(folder.glob("*.arrow")), parts)
        sync_folder(folder)
        rename(folder, path)


def shards_of(keys: UInt64[np.ndarray, " client"], shards: int) -> Int64[np.ndarray, " client"]:
    """The number of each client's shard, from 0, of so many; equally likely, by the client's key alone."""
    upper = np.asarray(keys, np.uint64) >> np.uint64(32)
    return ((upper * np.uint64(shards)) >> np.uint64(32)).astype(np.int64)


def index_shards(folder: FilePath) -> None:
    """Makes one federation of the client files in a folder, wherever they were written.

    It writes the index by which `Clients.open` takes the folder, and replaces one that is there. Clients are
    in the order of their ids, as in a file that is made of a table: whole numbers ascending, then texts. All
    files are read once.

    Args:
        folder: The folder, whose files `*.arrow` are taken in the order of their names.

    Raises:
        DataError: There is no client file; a file is damaged; files differ in their fields or vocabularies;
            or a client is in two of them.
        OSError: The index cannot be written.
    """
    path = Path(folder)
    files = sorted(file for file in path.glob("*.arrow") if file.name != INDEX) if path.is_dir() else []
    if not files:
        raise DataError(f"{path}: must be a folder of client files (*.arrow), holds none")
    _write_index(path, files, None)


class _Read(NamedTuple):
    """What an index holds of a client file."""

    shard: Shard
    clients: Clients
    kinds: dict[str, tuple[np.dtype, tuple[int, ...]]]
    digests: dict[str, UInt64[np.ndarray, " client"]]
    halves: dict[str, Int64[np.ndarray, " client"]]


def _write_index(
    folder: Path, files: Sequence[Path], positions: Sequence[Int64[np.ndarray, " _"]] | None
) -> None:
    """Writes the index of client files.

    Args:
        folder: The folder.
        files: The client files.
        positions: Of each file the places of its clients among all; None, for the order of their ids.
    """
    read = [_read(file) for file in files]
    first = read[0]
    stats: dict[str, FieldStats] = {}
    for x in read:
        _check_alike(folder, first, x)
        for name in first.kinds:
            own = x.clients.field_stats(name)
            stats[name] = merged(stats[name], own) if name in stats else own
    ids, order = _in_order(read, positions)
    count = np.concatenate([x.clients.num_examples for x in read])
    start = np.cumsum(count, dtype=np.int64) - count  # shards one after the other, clients as in their files
    places = {
        "client": ids,
        "key": np.concatenate([x.clients.keys for x in read])[order],
        "start": start[order],
        "count": count[order],
    }
    digests = {name: np.concatenate([x.digests[name] for x in read])[order] for name in first.kinds}
    sums = set(first.halves).intersection(*(x.halves for x in read))
    halves = {name: np.concatenate([x.halves[name] for x in read])[order] for name in sorted(sums)}
    fields = {name: Field(*kind, stats[name]) for name, kind in first.kinds.items()}
    write_index(folder, [x.shard for x in read], fields, first.clients.vocabularies, places, digests, halves)


def _read(path: Path) -> _Read:
    """Reads a client file, whose chunks are checked on the way."""
    frame = check_frame(path)
    if not frame:
        raise DataError(f"{path}: has no checksums, as an earlier version made it: write it again")
    clients = Clients.open(path)
    kinds = {name: (x.dtype, x.shape[1:]) for name in clients.fields for x in [clients.blank(name, 0)]}
    parts: dict[str, list[np.ndarray]] = {name: [np.zeros(0, np.uint64)] for name in kinds}
    sums: dict[str, list[np.ndarray]] = {
        name: [np.zeros(0, np.int64)]
        for name, (kind, shape) in kinds.items()
        if kind.kind == "f" and not shape
    }
    for piece in clients.pieces(_PIECE):
        for name, own in parts.items():
            column = piece.column(name)
            own.append(digests_of(column, piece.offsets))
            halves = halves_of(column, piece.offsets) if name in sums else None
            if halves is not None:
                sums[name].append(halves)
            else:
                sums.pop(name, None)
    digests, halved = ({name: np.concatenate(x) for name, x in of.items()} for of in (parts, sums))
    shard = Shard(path.name, frame, len(clients), int(clients.offsets[-1]))
    return _Read(shard, clients, kinds, digests, halved)


def _check_alike(folder: Path, first: _Read, other: _Read) -> None:
    """Raises a DataError where two client files cannot be of one federation."""
    there, here = (
        {name: f"{dtype}{list(shape) or ''}" for name, (dtype, shape) in x.kinds.items()}
        for x in (first, other)
    )
    where = folder / other.shard.name
    if there != here:
        raise DataError(f"{where}: must have the fields of {first.shard.name}, {there}, has {here}")
    names = first.clients.vocabularies.keys() | other.clients.vocabularies.keys()
    for name in sorted(names):
        known, own = (x.clients.vocabularies.get(name, np.zeros(0)) for x in (first, other))
        if not same_ids(known, own):
            raise DataError(
                f"{where}: must have the vocabulary of {name!r} of {first.shard.name}, {len(known):,} ids, "
                f"has another of {len(own):,}"
            )


def _in_order(
    read: Sequence[_Read], positions: Sequence[Int64[np.ndarray, " _"]] | None
) -> tuple[np.ndarray, Int64[np.ndarray, " client"]]:
    """The ids of all clients in their order, and the place of each among those of the files in turn."""
    lists = [x.clients.ids for x in read]
    if any(ids.dtype == object for ids in lists):  # files of whole numbers alone may be among them
        lists = [np.asarray([None, *map(str, ids.tolist())], object)[1:] for ids in lists]
    ids = np.concatenate(lists)
    if positions is not None:
        order = np.empty(len(ids), np.int64)
        order[np.concatenate([np.zeros(0, np.int64), *positions])] = np.arange(len(ids))
        return ids[order], order
    order = table_ids(to_arrow(ids)).order
    same = np.flatnonzero(ids[order[1:]] == ids[order[:-1]])
    if same.size:
        ends = np.cumsum([len(x) for x in lists])
        one, two = (int(np.searchsorted(ends, place, side="right")) for place in order[same[0] : same[0] + 2])
        names = sorted({read[one].shard.name, read[two].shard.name})
        client = plain(ids[order[same[0]]])
        raise DataError(f"client {client} must be in one shard, is in {' and '.join(names)}")
    return ids[order], order
