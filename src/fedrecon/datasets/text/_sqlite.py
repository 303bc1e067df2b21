"""The SQLite form in which TensorFlow Federated distributes federated data: Stack Overflow among them.

The table `examples` has the columns `split_name`, `client_id` and `serialized_example_proto`, a
`tf.train.Example`. Of each the feature `tokens` is the text, its words apart, and `creation_date` the time;
in Shakespeare the text is the feature `snippets`. The files are distributed packed: `.sqlite.lzma`.
"""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fedrecon.data._cache import unpack_into_file
from fedrecon.data._unpacking import DAMAGE, UNPACKED_GIB, limit_of, unpacking
from fedrecon.datasets.text._encode import Writer
from fedrecon.datasets.text._jsonl import decoded
from fedrecon.datasets.text._tf_example import example
from fedrecon.errors import DataError

TEXTS, TIME = ("tokens", "snippets"), "creation_date"
# By the columns of the index that such files have: what it does not serve would go through all rows, for
# every client.
CLIENTS = "SELECT DISTINCT client_id FROM examples {where} ORDER BY client_id"
SENTENCES = "SELECT rowid, serialized_example_proto FROM examples {where} ORDER BY rowid"
IN_PART, OF_CLIENT = "split_name = :part", "client_id = :client"


def read_sqlite(path: Path, part: str | None, limit: int = limit_of(UNPACKED_GIB)) -> Iterator[Writer]:
    """The clients of one part of a file, or of all, each one's sentences in order of time.

    Args:
        path: The path of the SQLite file, which may be packed: it is unpacked into the cache folder, and
            removed from there when it has been read.
        part: The `split_name` of the clients to read: "train", "heldout" or "test" in Stack Overflow; None
            for all.
        limit: The number of bytes that the file may unpack to; 2 GiB by default.

    Raises:
        DataError: The file is not SQLite with such a table, unpacks to more, lacks the part, or an example
            cannot be read.
    """
    with _unpacked(path, limit) as plain:
        try:
            connection = sqlite3.connect(f"{plain.absolute().as_uri()}?mode=ro", uri=True)
            try:
                yield from _clients(connection, path, part)
            finally:
                connection.close()
        except sqlite3.Error as error:
            raise DataError(f"{path}: cannot be read as SQLite: {error}") from error


@contextmanager
def _unpacked(path: Path, limit: int) -> Iterator[Path]:
    """The path of the unpacked file: the file itself, or one that goes away."""
    try:
        with open(path, "rb") as raw, unpacking(raw, path.name) as content:
            if content is raw:
                yield path
                return
            with unpack_into_file(content, str(path), limit) as plain:
                yield plain
    except DAMAGE as error:
        raise DataError(f"{path}: cannot be read: {error}") from error


def _clients(connection: sqlite3.Connection, path: Path, part: str | None) -> Iterator[Writer]:
    columns = {row[1] for row in connection.execute("PRAGMA table_info(examples)")}
    wanted = {"split_name", "client_id", "serialized_example_proto"}
    if not wanted <= columns:
        raise DataError(
            f"{path}: must have a table 'examples' with {sorted(wanted)}, it has {sorted(columns)}"
        )
    given = {} if part is None else {"part": part}
    query = CLIENTS.format(where=f"WHERE {IN_PART}" if given else "")
    clients = [row[0] for row in connection.execute(query, given)]
    if not clients and part is not None:
        parts = [row[0] for row in connection.execute("SELECT DISTINCT split_name FROM examples")]
        raise DataError(f"{path}: part must be one of {sorted(map(str, parts))}, got {part!r}")
    for client in clients:
        if not isinstance(client, str | int):
            got = "NULL" if client is None else repr(client)
            raise DataError(f"{path}, table examples: client_id must be text or a whole number, got {got}")
    for client in clients:
        yield Writer(str(client), _sentences(connection, path, part, client), f"{path}, client {client!r}")


def _sentences(connection: sqlite3.Connection, path: Path, part: str | None, client: str) -> list[str]:
    given = {"client": client} if part is None else {"part": part, "client": client}
    query = SENTENCES.format(where=f"WHERE {OF_CLIENT if part is None else f'{IN_PART} AND {OF_CLIENT}'}")
    timed = []
    for number, data in connection.execute(query, given):
        where = f"{path}, table examples, row {number}"
        try:
            features = example(data)
        except (ValueError, TypeError) as error:
            raise DataError(f"{where}: must hold a tf.train.Example: {error}") from None
        name = next((name for name in TEXTS if name in features), TEXTS[0])
        text, time = features.get(name, []), features.get(TIME, [b""])
        if len(text) != 1 or not isinstance(text[0], bytes):
            raise DataError(f"{where}: feature {name!r} must hold one text, it holds {len(text)} values")
        if len(time) != 1:
            raise DataError(f"{where}: feature {TIME!r} must hold one value, it holds {len(time)}")
        timed.append((time[0], decoded(text[0], where)))
    kinds = sorted({type(time).__name__ for time, _ in timed})
    if len(kinds) > 1:
        raise DataError(
            f"{path}, client {client!r}: feature {TIME!r} must be of one type in all examples, got {kinds}"
        )
    # Stable: equal times keep their order.
    return [text for _, text in sorted(timed, key=lambda pair: pair[0])]
