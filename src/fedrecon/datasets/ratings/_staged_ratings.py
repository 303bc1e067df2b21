"""Ratings of files in a database, where a conversion counts their ids and sorts them; see `convert`."""

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pyarrow as pa
from jaxtyping import Int64, Shaped

from fedrecon.data._arrow_bridge import decoded, one_chunk, to_arrow, to_numpy
from fedrecon.datasets.ratings._core import keep_core
from fedrecon.datasets.ratings._files.formats import Format
from fedrecon.datasets.ratings._files.layout import detect_format
from fedrecon.datasets.ratings._files.source import Source
from fedrecon.datasets.ratings._files.stream import Piece, stream
from fedrecon.datasets.ratings._ids import FaultyRow, Vocabulary, vocabulary
from fedrecon.datasets.ratings._load import Places, check_scale
from fedrecon.datasets.ratings._reader_options import Reading
from fedrecon.datasets.ratings._validation import quoted
from fedrecon.errors import DataError

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

_ROWS = 1 << 17  # of a batch that comes back

# Called with what is being done, how much of it is done, and how much there is.
Progress = Callable[[str, int, int], None]


class RatingFile(NamedTuple):
    """A source, and how it is written."""

    source: Source
    form: Format
    size: int

    @staticmethod
    def of(source: Source, reading: Reading) -> "RatingFile":
        if source.is_lenskit:
            raise DataError(
                f"{source.where}: must be text, JSON or Parquet; folders of LensKit are for `prepare`"
            )
        size = sum(path.stat().st_size for path in source.parts or (source.path,))
        return RatingFile(source, detect_format(source, reading), size)


class StagedRatings:
    """The ratings of all sources in a database, with the place of each in the sources.

    Attributes:
        kinds: The types of the columns `client`, `item` and, where there are such, `rating` and `time`.
        count: The number of ratings.
    """

    def __init__(
        self, connection: "DuckDBPyConnection", reading: Reading, inputs: list[RatingFile], progress: Progress
    ):
        self._connection, self._reading, self._inputs = connection, reading, inputs
        self.progress = progress
        self.kinds: dict[str, str] = {}
        self.count = 0
        self._row = 0  # the number of rows that were read
        self._form = ""  # in which times are written
        self._starts: list[int] = []  # of each source, the place of its first row

    def read(self) -> None:
        """Reads all sources.

        Raises:
            DataError: One cannot be read, breaks a rule, or does not go with those before.
        """
        total, before = sum(x.size for x in self._inputs), 0
        for source, form, size in self._inputs:
            start, kept, times = self._row, self.count, self._form
            self._starts.append(start)

            def restart(start: int = start, kept: int = kept, times: str = times) -> None:
                if kept:
                    self._connection.execute("DELETE FROM ratings WHERE row >= ?", [start])
                else:  # whose columns may be others than those that are read next
                    self._connection.execute("DROP TABLE IF EXISTS ratings")
                    self.kinds = {}
                self._row, self.count, self._form = start, kept, times

            for piece in stream(source, form, restart):
                try:
                    self._add(piece, source, form)
                except FaultyRow as fault:
                    place = Places(source, form, None).of([self._row - start + fault.row])[0]
                    raise DataError(f"{source.where}, {place}: {fault.message}") from None
                self.progress("bytes", before + int(size * piece.share), total)
            if self.count == kept:
                raise DataError(f"{source.where}: must hold ratings, has none")
            before += size

    def _add(self, piece: Piece, source: Source, form: Format) -> None:
        rows = np.arange(len(piece.client))
        if self._reading.unrated is not None and piece.rating is not None:
            rows = np.flatnonzero(piece.rating != self._reading.unrated)
        is_whole = len(rows) == len(piece.client)
        integer = form.is_text and form.integer_ids
        columns: dict[str, Any] = {"row": self._row + rows}
        try:
            for role, words in (("client", piece.client), ("item", piece.item)):
                # Encoded anew, since the ids of rows that are left out are no ids.
                kept = words if is_whole else decoded(words).take(to_arrow(rows)).dictionary_encode()
                columns[role] = vocabulary(role, kept, integer=integer)
            if piece.rating is not None:
                check_scale(piece.rating[rows], form.scale)
                columns["rating"] = piece.rating[rows].astype(np.float32)
        except FaultyRow as fault:
            raise FaultyRow(int(rows[fault.row]), fault.message) from None
        if piece.time is not None:
            if self._form not in ("", piece.form):
                raise DataError(
                    f"{source.where}: times must be all {self._form}, as those before, got {piece.form}"
                )
            self._form = piece.form
            columns["time"] = piece.time[rows]
        self._insert(columns, source.where)
        self._row += len(piece.client)
        self.count += len(rows)

    def _insert(self, columns: dict[str, Any], where: str) -> None:
        kinds = {name: _sql_type(x.ids if isinstance(x, Vocabulary) else x) for name, x in columns.items()}
        if not self.kinds:
            self.kinds = kinds
            fields = ", ".join(f"{name} {kind}" for name, kind in kinds.items())
            self._connection.execute(f"CREATE TABLE ratings ({fields})")
        if kinds.keys() != self.kinds.keys():
            before, now = (", ".join(sorted(x.keys() - {"row"})) for x in (self.kinds, kinds))
            raise DataError(f"{where}: must have the columns of what was read before, {before}, has {now}")
        for name, kind in kinds.items():
            if kind != self.kinds[name] and kind in ("VARCHAR", "DOUBLE"):
                self._connection.execute(f"ALTER TABLE ratings ALTER {name} TYPE {kind}")
                self.kinds[name] = kind
        arrays = {}
        for name, values in columns.items():
            if isinstance(values, Vocabulary):
                ids = values.ids
                if self.kinds[name] == "VARCHAR" and ids.dtype.kind == "i":
                    ids = np.array([str(x) for x in ids.tolist()], object)
                arrays[name] = to_arrow(ids).take(to_arrow(values.codes))
            else:
                arrays[name] = to_arrow(values)
        self._connection.register("piece", pa.table({name: arrays[name] for name in self.kinds}))
        self._connection.execute("INSERT INTO ratings SELECT * FROM piece")
        self._connection.unregister("piece")

    def keep_core(self, least: int) -> None:
        """Leaves out clients and items with fewer ratings; 0 leaves out nothing.

        Raises:
            DataError: Nothing is left; or a client rates an item twice and must not.
        """
        if not least:
            return
        if self._reading.duplicates == "error" and self._find_duplicate():
            raise self.first_duplicate()
        self.count = keep_core(self._connection, least, repeats=self._reading.duplicates == "all")

    def count_ids(self) -> None:
        """Numbers the items, and clients that are texts: integers come first, ascending, then other texts."""
        for role in ("client", "item"):
            distinct = f"SELECT DISTINCT {role} AS id FROM ratings"
            order = "id"
            if self.kinds[role] == "VARCHAR":
                number = "TRY_CAST(id AS BIGINT)"
                order = f"CASE WHEN CAST({number} AS VARCHAR) = id THEN {number} END NULLS LAST, id"
            elif role == "client":
                continue  # known by their numbers
            self._connection.execute(
                f"CREATE TABLE {role}s AS SELECT id, row_number() OVER (ORDER BY {order}) - 1 AS code "
                f"FROM ({distinct})"
            )

    def ids(self, role: str) -> Shaped[np.ndarray, " id"]:
        """The ids of a role that were numbered, in their order."""
        query = f"SELECT id FROM {role}s ORDER BY code"
        table = self._connection.sql(query).to_arrow_table()
        return to_numpy(one_chunk(table["id"]))

    def client_ids(self, keys: Int64[np.ndarray, " client"]) -> Shaped[np.ndarray, " client"]:
        """The ids of all clients, whose keys are those of `in_order`."""
        return self.ids("client") if self.kinds["client"] == "VARCHAR" else keys

    def in_order(self, by_time: bool) -> Iterator[dict[str, np.ndarray]]:
        """The ratings by client, and each client's by time or as they were read, some at a time.

        Yields:
            Under `client` a number that ascends as the clients' ids do, under `item` its number; `rating` and
            `time` where there are such; and `row`.
        """
        is_text = self.kinds["client"] == "VARCHAR"
        client, join = ("r.client", "") if not is_text else ("c.code", "JOIN clients c ON r.client = c.id")
        others = "".join(f", r.{name}" for name in ("rating", "time") if name in self.kinds)
        order = "client, time, row" if by_time else "client, row"
        # By `sql`: what `execute` gives to Arrow may be out of order.
        relation = self._connection.sql(
            f"SELECT {client} AS client, CAST(i.code AS INTEGER) AS item{others}, r.row AS row "
            f"FROM ratings r JOIN items i ON r.item = i.id {join} ORDER BY {order}"
        )
        for batch in relation.to_arrow_reader(_ROWS):
            yield {name: to_numpy(batch.column(name)) for name in batch.schema.names}

    def first_duplicate(self) -> DataError:
        """The error that names the first rating of an item that its client had rated before."""
        # Of its own, since the ratings in order may not be at their end.
        connection = self._connection.cursor()
        client, item, second = self._find_duplicate()[0]
        query = "SELECT min(row) FROM ratings WHERE client = ? AND item = ?"
        (first,) = connection.execute(query, [client, item]).fetchall()[0]
        (where, one), (there, other) = self._place(first), self._place(second)
        one = one if where == there else f"{where}, {one}"
        return DataError(
            f"{there}, {other}: client {quoted(client)} must rate item {quoted(item)} once, but did "
            f'already on {one} (duplicates="last" keeps the last rating, "all" keeps both)'
        )

    def _find_duplicate(self) -> list[Any]:
        """Client, item and row of the first rating of an item that its client had rated before, if any."""
        query = (
            "SELECT client, item, row FROM (SELECT client, item, row, "
            "row_number() OVER (PARTITION BY client, item ORDER BY row) AS n FROM ratings) "
            "WHERE n = 2 ORDER BY row LIMIT 1"
        )
        return self._connection.cursor().sql(query).fetchall()

    def _place(self, row: int) -> tuple[str, str]:
        number = int(np.searchsorted(self._starts, row, side="right")) - 1
        source, form, _ = self._inputs[number]
        return source.where, Places(source, form, None).of([row - self._starts[number]])[0]


def _sql_type(values: np.ndarray) -> str:
    """The type of a column: the one of DuckDB that holds an array's values."""
    if values.dtype.kind == "i":
        return "BIGINT"
    if values.dtype.kind == "f":
        return "DOUBLE" if values.itemsize > 4 else "FLOAT"
    return "VARCHAR"
