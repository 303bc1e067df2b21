"""What a node holds: its clients' examples, which are only read, and what they keep between rounds."""

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
) -> Clients:
    """The clients in a node's file. The file is not changed.

    Args:
        path: A client file (`.arrow`), a Parquet file, or an SQLite file.
        client: The column that names an example's client.
        name: Of the one client whose all examples are, where no column names it.
        query: For SQLite the statement that selects the examples, in their order; by default all of the only
            table.
        vocabularies: For fields that the run numbers, the original id of each number. Examples of others are
            left out.

    Raises:
        DataError: The file cannot be read, or holds no clients as the run needs them.
    """
    if not path.is_file():
        raise DataError(f"{path}: there is no such file")
    if path.suffix in _SQLITE:
        clients = _from_rows(path, _selected(path, query), client, name)
    elif path.suffix == ".arrow":
        clients = Clients.open(path)
    elif path.suffix == ".parquet" and name:
        import pyarrow.parquet as pq

        clients = _from_rows(path, pq.read_table(path), client, name)
    elif path.suffix == ".parquet":
        clients = Clients.from_parquet(path, client)
    else:
        known = ", ".join((".arrow", ".parquet", *_SQLITE))
        raise DataError(f"{path}: a node reads files with the ending {known}, got {path.suffix!r}")
    if not vocabularies:
        return clients
    for field in vocabularies:
        if field in clients.fields and field not in clients.vocabularies:  # its numbers are the original ids
            ids, numbers = np.unique(clients.column(field), return_inverse=True)
            columns = {f: clients.column(f) for f in clients.fields} | {field: numbers.astype(np.int32)}
            named = clients.vocabularies | {field: ids}
            clients = Clients.from_columns(clients.ids, clients.offsets, columns, named)
    return VocabularyMapper(clients.vocabularies, vocabularies)(clients)[0]


def _selected(path: Path, query: str) -> Any:
    """The rows of a statement as an Arrow table."""
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
    """A node's clients, and what they keep between rounds.

    Attributes:
        clients: Their examples, read-only.
        folder: Where states are kept, and the key of the pseudonyms; None keeps states in memory.

    Args:
        clients: Of the node: one, or many.
        folder: See the attribute.
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
        """What logs call a client: the same on this node at every time, and nothing without its key."""
        return hmac.new(self._secret, str(name).encode(), hashlib.sha256).hexdigest()[:12]

    def state(self, run: str, client: Any, round: int) -> bytes | None:
        """What a client kept after a round; None if it did not take part in it.

        Args:
            run: The run.
            client: The client's name.
            round: Rounds done before that one.
        """
        where = "run = ? and client = ? and round = ?"
        row = self._database.execute(f"select data from state where {where}", (run, str(client), round))
        found = row.fetchone()
        return None if found is None else found[0]

    def put_state(
        self, run: str, client: Any, round: int, data: bytes, counted: int = -1, durable: int = -1
    ) -> None:
        """Keeps a client's state after a round, whole or not at all.

        Whether the server will count the round is not known yet. So the state that the client came from stays
        beside it, and that of the server's last checkpoint, to which the server may go back.

        Args:
            run: The run.
            client: The client's name.
            round: Rounds done before the round.
            data: The state.
            counted: The last round of the client that the server counted.
            durable: The same at the server's last checkpoint.
        """
        who = (run, str(client))
        with self._writing() as database:
            others = "run = ? and client = ? and round not in (?, ?)"
            database.execute(f"delete from state where {others}", (*who, counted, durable))
            database.execute("insert or replace into state values (?, ?, ?, ?)", (*who, round, data))

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        with self._database:  # a transaction, which an exception takes back
            yield self._database


def _secret(folder: Path | None) -> bytes:
    if folder is None:
        return os.urandom(32)
    path = folder / "pseudonyms.key"
    if not path.exists():
        write_atomically(path, os.urandom(32))
        path.chmod(0o600)
    return path.read_bytes()
