"""The clients' examples: columnar, ragged, one row per client, in memory or mapped from a file."""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int, Int64, UInt64

from fedrecon._safe_text import counted
from fedrecon.core._array_like import ArrayLike, FilePath
from fedrecon.data._client_file.checksums import Column
from fedrecon.data._columns import checked_mask, in_order, offsets_of, stored
from fedrecon.data._field_stats import NONE, FieldStats, measured, merged
from fedrecon.data._from_arrays import check_replacements, checked, checked_vocabularies, gathered
from fedrecon.data._hashing import checked_keys
from fedrecon.data._padding import PaddedGather
from fedrecon.data._positions import client_positions
from fedrecon.data._random_split import cut, shuffle
from fedrecon.data._shards.rows import ClientColumn, columns_at, whole
from fedrecon.data._table_ids import place_of
from fedrecon.data._unpacking import UNPACKED_GIB, limit_of
from fedrecon.errors import DataError, whole_number

_PIECE = 1 << 22  # examples that are looked at together: what bounds the memory that it takes


class Clients:
    """The examples of many clients, immutable.

    A field is an array `[example, ...]` for each client. Client i's examples keep their order; whatever
    reorders or cuts them returns another `Clients`.

    Attributes:
        num_examples: The number of examples of each client, `[client]`.
        vocabularies: For fields that were mapped to dense ids, the original id of each.

    Example:
        >>> ann, bob = {"item": [3, 1], "rating": [4.0, 5.0]}, {"item": [2], "rating": [1.0]}
        >>> Clients.from_arrays({"ann": ann, "bob": bob})
        Clients(2 clients, 3 examples, fields item, rating)
    """

    def __init__(
        self,
        ids: ClientColumn,
        keys: ClientColumn,
        starts: ClientColumn,
        num_examples: Int[np.ndarray, "client"],
        columns: Mapping[str, Column],
        vocabularies: Mapping[str, np.ndarray],
        field_stats: Mapping[str, FieldStats] | None = None,
    ):
        self._ids, self._keys = ids, keys  # of a folder of shards they are in memory once they are asked for
        self.num_examples = num_examples
        self.vocabularies = dict(vocabularies)
        self._starts, self._columns = starts, dict(columns)
        self._index: dict[Any, int] | None = None
        self._field_stats = dict(field_stats or {})

    # ---- made from -----------------------------------------------------------------------------------

    @staticmethod
    def from_columns(
        ids: ArrayLike,
        offsets: ArrayLike,
        columns: Mapping[str, Any],
        vocabularies: Mapping[str, Any] | None = None,
        keys: UInt64[np.ndarray, "client"] | None = None,
        *,
        may_be_nan: Collection[str] = (),
    ) -> "Clients":
        """From flat columns of which client i owns the rows `offsets[i]:offsets[i + 1]`.

        Args:
            ids: The clients' names, unique 64-bit integers or strings, `[client]`.
            offsets: `[client + 1]`, not decreasing, from 0 to the number of rows.
            columns: Name to array `[row, ...]` of numbers. 64-bit numbers are stored in 32 bits where
                they fit. Doubles become 32-bit floats, or integers if they are whole and above 2²⁴, as times
                are; they stay doubles where different ones of a client would become equal, as times with
                fractions would: then `sorted_by` sees all digits, and programs get them in 32 bits.
            vocabularies: For fields that hold dense ids, the original id of each: different strings or
                different 64-bit integers.
            keys: Hashes of the ids, where these came from other clients and shall draw as they do; by
                default those of integers and strings, by which 7 and "7" are two clients.
            may_be_nan: Names of NumPy's fields in which NaN is meant: models see it. By default NaN is a
                missing value, and refused. Models that know missing values are better served by a second
                field that marks them, since a gradient through NaN is NaN.

        Raises:
            DataError: The parts do not fit together, or a value is missing or NaN.
        """
        names, ends, narrow = checked(ids, offsets, columns, may_be_nan)
        known = checked_vocabularies(vocabularies or {}, narrow)
        return Clients(names, checked_keys(names, keys), ends[:-1], np.diff(ends), narrow, known)

    @staticmethod
    def from_arrays(
        arrays: Mapping[Any, Mapping[str, Any]], *, may_be_nan: Collection[str] = ()
    ) -> "Clients":
        """From a mapping of client id to its fields, each an array `[example, ...]`.

        The parameter `may_be_nan` is that of `from_columns`.

        Raises:
            DataError: A client lacks a field or a value, NaN among them, or its fields differ in length; the
                message names it.
        """
        return Clients.from_columns(*gathered(arrays), may_be_nan=may_be_nan)

    @staticmethod
    def from_table(frame: object, client: str = "client", *, vocabularies: Sequence[str] = ()) -> "Clients":
        """From a table of pandas, Polars or Arrow.

        A row is an example; or, where columns hold lists that may differ in length, a client whose examples
        they are.

        Where a row is an example, clients are sorted by their ids, and rows keep their order within a client;
        where a row is a client, clients keep their order. Columns of strings are mapped to dense ids, and the
        mapping is kept in `vocabularies`. An id that is the canonical decimal of a 64-bit integer, such as
        "17", is that integer, whatever the others are: clients of these come first, ascending, and draw alike
        in all tables. Other texts, such as "017", are strings; a column with one has strings alone.

        Args:
            frame: Anything that Arrow can read as a table. The index of pandas is no field; one with a name
                is refused, unless it holds the client or is named in `vocabularies`.
            client: The name of the column that holds the client's name.
            vocabularies: Names of columns of whole numbers that are ids, such as those of items, and are
                mapped to dense ids as strings are: 0 for the first one in the table, and so on, so that a
                model's table needs a row for each and no more. By default whole numbers stay as they are.

        Raises:
            DataError: The column is missing, or a column lacks values, NaN among them, or is neither numbers
                nor strings; or where a row is a client, a column holds no lists or lists of other lengths.
        """
        from fedrecon.data._arrow import from_rows

        return Clients.from_columns(*from_rows(frame, client, vocabularies))

    @staticmethod
    def from_parquet(
        path: FilePath,
        client: str = "client",
        *,
        vocabularies: Sequence[str] = (),
        unpacked_gib: float | int = UNPACKED_GIB,
    ) -> "Clients":
        """From a Parquet file: one example per row, or one client per row with list columns.

        The parameters `client` and `vocabularies` are those of `from_table`, and `unpacked_gib` is the number
        of GiB that the file may unpack to, 2 by default.

        Raises:
            DataError: The file cannot be read, or as for `from_table`.
        """
        from fedrecon.data._arrow import from_parquet

        return Clients.from_columns(*from_parquet(path, client, vocabularies, unpacked_gib))

    @staticmethod
    def open(path: FilePath, *, unpacked_gib: float | int = UNPACKED_GIB) -> "Clients":
        """Maps a file that `write` made, or a folder of `write_shards`; examples stay on the disk.

        The files hold checksums. What is small is checked here; examples are checked when they are first
        used, which then raises a DataError where they are not what was written. A file that another program
        compressed is read into memory; it may unpack to `unpacked_gib` GiB, 2 by default.

        Warns:
            UncheckedWarning: The file has no checksums, as an earlier version made it.

        Raises:
            DataError: There is no such file, or it is damaged or of another kind; a shard is missing or of
                another folder.
        """
        if Path(path).is_dir():
            from fedrecon.data._shards.opened import open_folder

            return Clients(*open_folder(path))
        from fedrecon.data._client_file.file import open_clients

        return Clients(*open_clients(path, limit=limit_of(unpacked_gib)))

    def write(self, path: FilePath) -> None:
        """Writes a client file (Arrow IPC, one row per client), whole or not at all."""
        from fedrecon.data._client_file.file import write_clients

        columns = {name: self.column(name) for name in self.fields}
        field_stats = {name: self.field_stats(name) for name in self.fields}
        write_clients(path, self.ids, self.keys, self.num_examples, columns, self.vocabularies, field_stats)

    # ---- read ----------------------------------------------------------------------------------------

    @property
    def ids(self) -> np.ndarray:
        """The clients' names, 64-bit integers or strings, `[client]`."""
        self._ids = whole(self._ids)
        return self._ids

    @property
    def keys(self) -> UInt64[np.ndarray, "client"]:
        """Stable hashes of the clients' names, uint64 `[client]`."""
        self._keys = whole(self._keys)
        return self._keys

    def __len__(self) -> int:
        return len(self.num_examples)

    def __repr__(self) -> str:
        names = ", ".join(self.fields)
        size = f"{counted(len(self), 'client')}, {counted(int(self.num_examples.sum()), 'example')}"
        return f"Clients({size}, fields {names})"

    @property
    def fields(self) -> tuple[str, ...]:
        """Names of the fields."""
        return tuple(self._columns)

    @cached_property
    def offsets(self) -> Int64[np.ndarray, "client_and_one"]:
        """Where each client's examples begin in `column`, and at last how many examples there are.

        Client i owns the rows `offsets[i]:offsets[i + 1]` of every column. `[client + 1]`, read-only.
        """
        offsets = offsets_of(self.num_examples)
        offsets.flags.writeable = False  # it is shared by all who ask
        return offsets

    def owners(self) -> Int64[np.ndarray, "example"]:
        """The client that each row of `column` belongs to, as a position among the clients, ascending."""
        return np.repeat(np.arange(len(self)), self.num_examples)

    def positions(self) -> Int64[np.ndarray, "example"]:
        """The place of each row of `column` among the examples of its client, counted from 0."""
        return np.arange(self.offsets[-1]) - np.repeat(self.offsets[:-1], self.num_examples)

    def __getitem__(self, client: object) -> dict[str, np.ndarray]:
        """The examples of one client, by its id; 7 and "7" name the same client."""
        self._index = self._index or {x: i for i, x in enumerate(self.ids.tolist())}
        i = place_of(client, self._index)
        start, stop = self._starts[i], self._starts[i] + self.num_examples[i]
        return {name: column[start:stop] for name, column in self._columns.items()}

    def column(self, field: str) -> np.ndarray:
        """A field of all clients, one after the other: `[example, ...]`."""
        self._check_field(field)
        column = self._columns[field]
        if self._contiguous():
            start = int(self._starts[0]) if len(self) else 0
            return column[start : start + int(self.num_examples.sum())]
        return column[self._rows()]

    def field_stats(self, field: str) -> FieldStats:
        """The range of a field's numbers, and whether they repeat at a client; read where it is not known.

        Of a part of other clients it may be their range.
        """
        if field not in self._field_stats:
            stats = NONE._replace(distinct=self.blank(field, 0).ndim == 1)
            for piece in self.pieces():
                stats = merged(stats, measured(piece.column(field), piece.owners()))
            self._field_stats[field] = stats
        return self._field_stats[field]

    def distinct(self, field: str) -> bool:
        """Whether a field holds one whole number per example, and no number twice at any client."""
        return self.field_stats(field).distinct

    def pieces(self, examples: int = _PIECE) -> Iterator["Clients"]:
        """The clients in consecutive pieces of about so many examples, one client at least."""
        ends = self.offsets[1:]
        start = 0
        while start < len(self):
            before = int(ends[start - 1]) if start else 0
            stop = max(start + 1, int(np.searchsorted(ends, before + examples, side="right")))
            yield self if stop - start == len(self) else self._at(slice(start, stop))
            start = stop

    def blank(self, field: str, *shape: int) -> np.ndarray:
        """Zeros of a field's type, `[*shape, ...]`."""
        column = self._columns[field]
        return np.zeros((*shape, *column.shape[1:]), column.dtype)

    def padded(self, field: str, clients: Int[np.ndarray, "row"], size: int) -> np.ndarray:
        """A field of some clients, padded with zeros: `[row, size, ...]`.

        Args:
            field: The name of the field.
            clients: Their positions; none may have more than `size` examples.
            size: The number of examples of a row, padding included.
        """
        return self.places(clients, size).field(field)

    def places(self, clients: Int[np.ndarray, "row"], size: int) -> PaddedGather:
        """Where the examples of some clients lie, to read several fields; arguments as of `padded`."""
        return PaddedGather.of(self._columns, self._starts[clients], self.num_examples[clients], size)

    # ---- other clients -------------------------------------------------------------------------------

    def take(self, clients: object) -> "Clients":
        """Some of the clients; the examples are shared, not copied.

        Args:
            clients: Their positions, in the order wanted, or one boolean for each client: a mask. Negative
                positions count from the end; a position that comes twice gives the client twice.

        Raises:
            DataError: It is neither, a position is out of range, or the mask is of another length.
        """
        return self._at(client_positions("the clients to take", clients, len(self)))

    def _at(self, clients: slice | Int[np.ndarray, "row"]) -> "Clients":
        ids, keys, starts = columns_at((self._ids, self._keys, self._starts), clients)
        same = self._columns, self.vocabularies, self._field_stats
        return Clients(ids, keys, starts, self.num_examples[clients], *same)

    def select(self, *fields: str) -> "Clients":
        """The same clients with these fields only."""
        for field in fields:
            self._check_field(field)
        columns = {f: self._columns[f] for f in fields}
        field_stats = {f: x for f, x in self._field_stats.items() if f in columns}
        return self._with(columns=columns, field_stats=field_stats)

    def with_columns(self, /, **columns: Any) -> "Clients":
        """The same clients and examples with further fields, or with other numbers in fields they have.

        The other fields keep their numbers and are shared where the clients lie one after the other, as
        they do unless they were taken in another order or cut.

        Args:
            columns: Name of a field to its numbers `[example, ...]`, one client after the other as in
                `column`; they are stored as `from_columns` stores them. The vocabulary of a field that is
                replaced stays.

        Raises:
            DataError: A column does not hold numbers, holds NaN in a field that had none, or has not one row
                for every example, or no places in its vocabulary.

        Example:
            >>> clients = Clients.from_arrays({"ann": {"rating": [4.0, 5.0]}, "bob": {"rating": [1.0]}})
            >>> clients.with_columns(liked=clients.column("rating") > 3)["ann"]["liked"].tolist()
            [True, True]
        """
        before = {name: self.column(name) for name in columns if name in self.fields}
        check_replacements(columns, before, self.ids, self.offsets, self.vocabularies)
        return self._of_rows(self.num_examples, {name: self.column(name) for name in self.fields} | columns)

    def filter_examples(self, mask: ArrayLike) -> "Clients":
        """The same clients, also those with no example left, with some of their examples in their order.

        Args:
            mask: Which examples stay: truth values `[example]`, one client after the other as in `column`.

        Raises:
            DataError: The mask does not hold one truth value for every example.

        Example:
            >>> clients = Clients.from_arrays({"ann": {"rating": [4.0, 5.0]}, "bob": {"rating": [1.0]}})
            >>> clients.filter_examples(clients.column("rating") > 4).num_examples.tolist()
            [1, 0]
        """
        mask = checked_mask(mask, int(self.offsets[-1]))
        counts = np.diff(offsets_of(mask)[self.offsets])
        if self._contiguous():
            return self._of_rows(counts, {name: self.column(name)[mask] for name in self.fields})
        rows = self._rows()[mask]  # so that only what stays is gathered
        return self._of_rows(counts, {name: column[rows] for name, column in self._columns.items()})

    def _of_rows(self, num_examples: Int[np.ndarray, "client"], columns: Mapping[str, Any]) -> "Clients":
        """The same clients with columns of their examples alone, one client after the other."""
        offsets = offsets_of(num_examples)
        kept = in_order(columns, stored(columns), offsets)
        return self._with(starts=offsets[:-1], num_examples=num_examples, columns=kept, field_stats=None)

    def shuffled(self, seed: int) -> "Clients":
        """Every client's examples in a random order, fixed by the seed and the client's id alone."""
        seed = whole_number("seed", seed)

        def order(piece: Clients) -> np.ndarray:
            return shuffle(piece.keys, piece.num_examples, piece.positions(), seed)

        return self._reordered(order)

    def sorted_by(self, field: str) -> "Clients":
        """Every client's examples by a field, ascending; equal values keep their order."""
        self._check_field(field)

        def order(piece: Clients) -> np.ndarray:
            return np.lexsort((piece.column(field), piece.owners()))

        return self._reordered(order)

    def cap(self, most: int) -> "Clients":
        """The first `most` examples of every client."""
        most = whole_number("cap", most, 1, error=DataError)
        return self._with(num_examples=np.minimum(self.num_examples, most))

    def split(self, fractions: Mapping[str, float | int], seed: int) -> dict[str, "Clients"]:
        """Cuts the clients into disjoint sets, at random by the seed and the clients' ids.

        Args:
            fractions: Name of a set to its share of the clients, each in (0, 1], together at most 1.
            seed: Another seed gives another cut; the order of the clients changes nothing.

        Raises:
            DataError: A share is out of its range, or they sum to more than 1.
            ValueError: `seed` is not a whole number.
        """
        sets = cut(self.keys, fractions, whole_number("seed", seed))
        return {name: self._at(chosen) for name, chosen in sets.items()}

    def _with(self, **other: Any) -> "Clients":
        outer = {"ids": self._ids, "keys": self._keys, "num_examples": self.num_examples}
        inner = {"starts": self._starts, "columns": self._columns, "field_stats": self._field_stats}
        return Clients(**{"vocabularies": self.vocabularies, **outer, **inner, **other})

    def _check_field(self, field: str) -> None:
        if field not in self._columns:
            raise DataError(f"the clients have the fields {list(self.fields)}, not {field!r}")

    def _contiguous(self) -> bool:
        starts = whole(self._starts)
        return bool(np.array_equal(starts[1:], (starts + self.num_examples)[:-1]))

    def _rows(self) -> np.ndarray:
        return np.repeat(whole(self._starts), self.num_examples) + self.positions()

    def _reordered(self, order: Callable[["Clients"], np.ndarray]) -> "Clients":
        """The examples, seen one client after the other, in an order for each piece; copies them."""
        columns = {name: self.blank(name, int(self.num_examples.sum())) for name in self.fields}
        at = 0
        for piece in self.pieces():
            rows = piece._rows()[order(piece)]
            for name, column in columns.items():
                column[at : at + len(rows)] = self._columns[name][rows]
            at += len(rows)
        return self._with(starts=self.offsets[:-1], columns=columns)
