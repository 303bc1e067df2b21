"""Checks all that is in client files and folders of them, not only what happens to be read."""

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from fedrecon.core._array_like import FilePath
from fedrecon.data._clients import Clients
from fedrecon.data._shards.columns import hold_to_index
from fedrecon.data._shards.digests import digests_of
from fedrecon.data._shards.index import Index
from fedrecon.errors import DataError

_PIECE = 1 << 19  # examples that are in memory together


class Checked(NamedTuple):
    """What was found in a file.

    Attributes:
        path: The file.
        clients: The number of its clients; 0 where it is damaged.
        examples: The number of their examples; 0 where it is damaged.
        fault: What is wrong with it, a sentence that names the file; None where nothing is.
    """

    path: Path
    clients: int
    examples: int
    fault: str | None


def check_clients(path: FilePath, advance: Callable[[int], None] | None = None) -> Iterator[Checked]:
    """Reads a client file, or all files of a folder of shards, and compares them with their checksums.

    Of a folder each shard must also hold the clients and examples that the index has of it.

    Args:
        path: The file or the folder.
        advance: Is called with the number of examples that were read; None, the default, calls nothing.

    Yields:
        What was found in each file, damaged ones among them.

    Raises:
        DataError: There is no such file, or the folder has no index that can be read.
    """
    advance = advance or (lambda _: None)
    if not Path(path).is_dir():
        if not Path(path).is_file():
            raise DataError(f"{path}: there is no such client file or folder of them")
        yield _checked(Path(path), lambda: _read(Clients.open(path), advance))
        return
    index = Index(Path(path))
    rows, start = _rows_in_files(index), 0
    yield _checked(index.path, lambda: _all_digests(index))
    for number, shard in enumerate(index.shards):
        firsts = index.column("start")[rows]
        mine = rows[(firsts >= start) & (firsts < start + shard.examples)]
        yield _checked(index.folder / shard.name, partial(_compared, index, number, mine, advance))
        start += shard.examples
    known = {shard.name for shard in index.shards} | {index.path.name}
    for file in sorted(index.folder.glob("*.arrow")):
        if file.name not in known:
            fault = f"{file}: is no shard of the folder's {index.path.name}; move it elsewhere"
            yield Checked(file, 0, 0, fault)


def _checked(path: Path, read: Callable[[], Clients | None]) -> Checked:
    try:
        clients = read()
    except DataError as error:
        return Checked(path, 0, 0, str(error))
    if clients is None:
        return Checked(path, 0, 0, None)
    return Checked(path, len(clients), int(clients.offsets[-1]), None)


def _read(clients: Clients, advance: Callable[[int], None]) -> Clients:
    for piece in clients.pieces(_PIECE):
        for name in clients.fields:
            piece.column(name)  # which checks what it reads
        advance(int(piece.offsets[-1]))
    return clients


def _all_digests(index: Index) -> None:
    for name in index.fields:
        index.digests(name)
        index.halves(name)


def _rows_in_files(index: Index) -> np.ndarray:
    """The rows of the index that have examples, in the order in which these lie in the files."""
    rows = np.flatnonzero(index.column("count"))
    return rows[np.argsort(index.column("start")[rows], kind="stable")]


def _compared(index: Index, number: int, rows: np.ndarray, advance: Callable[[int], None]) -> Clients:
    """The clients of a shard, after a comparison with what the index has of them.

    Args:
        index: The index.
        number: The number of the shard.
        rows: The rows of its clients that have examples, in their order in the file.
        advance: Is called with the number of examples that were read.

    Raises:
        DataError: They are not the same, or the file is damaged.
    """
    file = index.folder / index.shards[number].name
    hold_to_index(file, index.shards[number])
    clients = Clients.open(file)
    filled = clients.take(np.flatnonzero(clients.num_examples))
    known = (index.column(name)[rows] for name in ("key", "count"))
    same = all(map(np.array_equal, (filled.keys, filled.num_examples), known))
    at = 0
    for piece in filled.pieces(_PIECE) if same else ():
        own = rows[at : at + len(piece)]
        for name in index.fields:
            digests = digests_of(piece.column(name), piece.offsets)
            same = same and np.array_equal(digests, index.digests(name)[own])
        at += len(piece)
        advance(int(piece.offsets[-1]))
    if not same:
        raise DataError(
            f"{file}: its clients or examples are not those that the folder's {index.path.name} has of it: "
            "convert again, or make the index anew with fedrecon.data.index_shards"
        )
    return clients
