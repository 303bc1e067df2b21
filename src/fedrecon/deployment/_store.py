"""The store of a node: its clients' examples, which are only read, and their states between rounds."""

import hashlib
import hmac
import os
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from fedrecon._files import make_folder, write_atomically
from fedrecon.data._clients import Clients
from fedrecon.data._unpacking import UNPACKED_GIB, check_parquet, limit_of
from fedrecon.data._vocabulary_mapper import VocabularyMapper
from fedrecon.errors import DataError

_SQLITE = (".sqlite", ".sqlite3", ".db")
_SCHEMA = """
create table if not exists state (
    run text, client text, round integer, data blob, primary key (run, client, round)
) without rowid
"""


def read_clients(
    path: Path,
    *,
    client: str = "client",
    name: str = "",
    query: str = "",
    vocabularies: Mapping[str, Any] = MappingProxyType({}),
    unpacked_gib: float | int = UNPACKED_GIB,
) -> Clients:
    """Reads the clients of a node's file, without changing the file.

    Args:
        path: A client file (`.arrow`), a Parquet file, or an SQLite file (`.sqlite`, `.sqlite3`, `.db`).
        client: Name of the column that holds the client of each example; `"client"` by default.
        name: Name of the only client, for a file without such a column; `""` for a file that has one, the
            default.
        query: The SQL statement that selects the examples of an SQLite file in their order; by default all
            rows of its only table.
        vocabularies: The original ids in the order of the run's numbers, for each field that the run numbers;
            by default none. Examples with other ids are left out.
        unpacked_gib: The number of GiB that a packed file may unpack to; 2 by default.

    Raises:
        DataError: The file cannot be read, or its columns do not fit.
    """
    if not path.is_file():
        raise DataError(f"{path}: there is no such file")
    if path.suffix in _SQLITE:
        clients = _from_rows(path, _select(path, query), client, name)
    elif path.suffix == ".arrow":
        clients = Clients.open(path, unpacked_gib=unpacked_gib)
    elif path.suffix == ".parquet" and name:
        import pyarrow.parquet as pq

        metadata = pq.read_metadata(path)
        check_parquet(str(path), metadata, metadata.schema.to_arrow_schema().names, limit_of(unpacked_gib))
        clients = _from_rows(path, pq.read_table(path), client, name)
    elif path.suffix == ".parquet":
        clients = Clients.from_parquet(path, client, unpacked_gib=unpacked_gib)
    else:
        known = ", ".join((".arrow", ".parquet", *_SQLITE))
        raise DataError(f"{path}: a node reads files with the ending {known}, got {path.suffix!r}")
    if not vocabularies:
        return clients
    for field in vocabularies:
        # The numbers in a field without a vocabulary are the original ids themselves.
        if field in clients.fields and field not in clients.vocabularies:
            ids, numbers = np.unique(clients.column(field), return_inverse=True)
            columns = {f: clients.column(f) for f in clients.fields} | {field: numbers.astype(np.int32)}
            named = clients.vocabularies | {field: ids}
            clients = Clients.from_columns(
                clients.ids, clients.offsets, columns, named, clients.keys, may_be_nan=clients.fields
            )
    return VocabularyMapper(clients.vocabularies, vocabularies)(clients)[0]


def _select(path: Path, query: str) -> Any:
    """The rows that an SQL statement selects, as an Arrow table."""
    import pyarrow as pa

    try:
        with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as database:
            if not query:
                tables = database.execute("select name from sqlite_master where type = 'table'")
                names = [name for (name,) in tables]
                if len(names) != 1:
                    raise DataError(f"{path}: query must say what is read of the tables {sorted(names)}")
                query = f'select * from "{names[0]}"'
            cursor = database.execute(query)
            columns = [column[0] for column in cursor.description]
            rows = cursor.fetchall()
    except sqlite3.Error as error:
        raise DataError(f"{path}: cannot be read: {error}") from None
    try:
        return pa.table({c: pa.array([row[i] for row in rows]) for i, c in enumerate(columns)})
    except pa.ArrowInvalid as error:
        raise DataError(f"{path}: a column must hold values of one type: {error}") from None


def _from_rows(path: Path, table: Any, client: str, name: str) -> Clients:
    import pyarrow as pa

    if name:
        if client in table.column_names:
            raise DataError(f"{path}: the column {client!r} names clients, so that name must not be given")
        table = table.append_column(client, pa.array([name] * len(table), pa.string()))
    return Clients.from_table(table, client)


class Store:
    """The examples of a node's clients, and their states between rounds.

    Attributes:
        clients: The node's clients with their examples, which are only read.
        folder: The folder of the clients' states and of the key of their pseudonyms; None for a store that
            keeps both in memory.

    Args:
        clients: The node's clients, one or many.
        folder: The folder of the clients' states; None, the default, to keep them in memory.
    """

    def __init__(self, clients: Clients, folder: Path | None = None):
        self.clients, self.folder = clients, folder
        if folder is not None:
            make_folder(folder)
        self._database = sqlite3.connect(
            ":memory:" if folder is None else folder / "state.sqlite", check_same_thread=False
        )
        self._database.execute("pragma synchronous = full")
        with self._database:
            self._database.execute(_SCHEMA)
        self._secret = _secret(folder)

    def close(self) -> None:
        """Closes the database of states."""
        self._database.close()

    def pseudonym(self, name: Any) -> str:
        """The name of a client in logs: 12 hexadecimal digits, fixed on this node, from a secret key."""
        # A keyed hash: a plain one of a small set of names could be undone by hashing all of them.
        return hmac.new(self._secret, str(name).encode(), hashlib.sha256).hexdigest()[:12]

    def state(self, run: str, client: Any, round: int) -> bytes | None:
        """The client's state after a round; None if the client did not take part in it.

        Args:
            run: Name of the run.
            client: Name of the client.
            round: Number of rounds done before the round in question.
        """
        where = "run = ? and client = ? and round = ?"
        row = self._database.execute(f"select data from state where {where}", (run, str(client), round))
        stored = row.fetchone()
        return None if stored is None else stored[0]

    def put_state(
        self, run: str, client: Any, round: int, data: bytes, counted: int = -1, durable: int = -1
    ) -> None:
        """Saves a client's state after a round atomically.

        The node cannot know yet whether the server will count the round. So the state from which the client
        started is kept as well, and that of the server's last checkpoint, to which the server may go back.

        Args:
            run: Name of the run.
            client: Name of the client.
            round: Number of rounds done before the round of the state.
            data: The state as bytes.
            counted: The last round in which the server counted the client; -1 for none, the default.
            durable: The value of `counted` at the server's last checkpoint; -1 for none, the default.
        """
        who = (run, str(client))
        with self._writing() as database:
            others = "run = ? and client = ? and round not in (?, ?)"
            database.execute(f"delete from state where {others}", (*who, counted, durable))
            database.execute("insert or replace into state values (?, ?, ?, ?)", (*who, round, data))

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        with self._database:  # a transaction, which an exception rolls back
            yield self._database


def _secret(folder: Path | None) -> bytes:
    if folder is None:
        return os.urandom(32)
    path = folder / "pseudonyms.key"
    if not path.exists():
        write_atomically(path, os.urandom(32))
        path.chmod(0o600)
    return path.read_bytes()
