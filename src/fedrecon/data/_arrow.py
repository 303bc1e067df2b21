"""Clients from tables of Arrow, data frames and Parquet."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fedrecon.core._array_like import FilePath
from fedrecon.data import _arrow_bridge as bridge
from fedrecon.data._arrow_bridge import ArrowColumn
from fedrecon.data._columns import offsets_of
from fedrecon.data._from_arrays import vocabulary
from fedrecon.data._table_ids import TableIds, table_ids, table_keys
from fedrecon.data._unpacking import UNPACKED_GIB, check_unpacked, limit_of, parquet_size
from fedrecon.errors import DataError

# The arguments of `Clients.from_columns`: ids, offsets, columns, vocabularies, keys.
ClientColumns = tuple[Any, Any, dict[str, np.ndarray], dict[str, np.ndarray], Any]


def from_rows(frame: object, client: str, numbered: Sequence[str] = ()) -> ClientColumns:
    """See `Clients.from_table`; `numbered` is what it calls `vocabularies`."""
    import pyarrow as pa

    is_index_wanted = _check_index(frame, (client, *numbered))
    try:
        if isinstance(frame, pa.Table):
            table = frame
        elif is_index_wanted:  # also where it is a range, which Arrow would leave out
            table = pa.Table.from_pandas(frame, preserve_index=True)
        else:
            table = pa.table(frame)
    except (pa.ArrowException, TypeError, ValueError) as error:
        got = f"{type(frame).__name__}: {', '.join(map(str, error.args))}"
        rule = "; a column must hold values of one type" if hasattr(frame, "columns") else ""
        raise DataError(f"a table must be of pandas, Polars or Arrow, got {got}{rule}") from error
    _require(table.column_names, client)
    table = _without_row_numbers(table, client)
    _check_numbered(table.column_names, client, numbered)
    if _list_columns(table, client):
        return _from_lists(table, client, "", numbered)
    table = table.cast(pa.schema([f.with_type(bridge.without_views(f.type)) for f in table.schema]))
    for name in table.column_names:
        if len(missing := bridge.missing_rows(table[name])):
            raise DataError(
                f"column {name!r} must have a value in every row, {len(missing):,} are missing, the first at "
                f"position {missing[0]}"
            )
    owners = bridge.decoded(table[client])  # a category that no row has is no client
    _check_owners(client, owners)
    codes, names = bridge.encoded(owners)
    ids, rank = _ids(client, names)  # by id, so that the order of the rows decides nothing
    place = np.empty_like(rank)
    place[rank] = np.arange(len(rank))
    codes = place[codes]
    order = np.argsort(codes, kind="stable")
    counts = np.bincount(codes, minlength=len(ids))
    columns, vocabularies = {}, {}
    for name in table.column_names:
        if name == client:
            continue
        values = table[name]
        if pa.types.is_dictionary(values.type) or bridge.is_text(values.type) or name in numbered:
            _check_ids(name, values)
            columns[name], words = bridge.encoded(values)
            vocabularies[name] = _words(name, words)
        else:
            columns[name] = _values(name, values)
        columns[name] = columns[name][order]
    ids = ids[rank]
    return ids, offsets_of(counts), columns, vocabularies, table_keys(ids)


def from_parquet(
    path: FilePath, client: str, numbered: Sequence[str] = (), unpacked_gib: float | int = UNPACKED_GIB
) -> ClientColumns:
    """See `Clients.from_parquet`; `numbered` is what it calls `vocabularies`."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    if not Path(path).exists():
        raise DataError(f"{path}: there is no such file")
    try:
        parts, size = [path] if Path(path).is_file() else pq.ParquetDataset(path).files, 0
        for part in parts:  # before the table is read, for which Arrow's own message is of several lines
            metadata = pq.read_metadata(part)
            names = metadata.schema.to_arrow_schema().names
            if part is path:  # in a folder the client may be a column that only the names of folders hold
                _require(names, client, path)
            size += parquet_size(metadata, names)
        check_unpacked(str(path), size, limit_of(unpacked_gib))
        table = pq.read_table(path)
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path} cannot be read as Parquet: {error}") from error
    _require(table.column_names, client, path)
    table = _without_row_numbers(table, client)
    if not _list_columns(table, client):
        try:
            return from_rows(table, client, numbered)
        except DataError as error:
            raise DataError(f"{path}: {error}") from None
    _check_numbered(table.column_names, client, numbered)
    return _from_lists(table, client, f"{path}: ", numbered)


def _list_columns(table: Any, client: str) -> list[str]:
    """The columns of lists that may differ in length: where there are such, a row is a client."""
    return [n for n in table.column_names if n != client and bridge.is_list(table.schema.field(n).type)]


def _from_lists(table: Any, client: str, where: str, numbered: Sequence[str]) -> ClientColumns:
    """The clients of a table with a row for each, whose other columns are lists.

    Args:
        table: An Arrow table.
        client: The name of the column that holds the client's name.
        where: The beginning of messages.
        numbered: Names of columns of whole numbers that are mapped to dense ids.

    Raises:
        DataError: A column is no list, lacks values, or its lists differ in length from the others.
    """
    import pyarrow as pa

    if missing := len(bridge.missing_rows(table[client])):
        raise DataError(f"{where}column {client!r} must have a value in every row, {missing} are missing")
    ids = _ids(client, bridge.one_chunk(bridge.decoded(table[client]))).ids
    lists = _list_columns(table, client)
    columns, vocabularies, offsets = {}, {}, None
    for name in table.column_names:
        if name == client:
            continue
        if name not in lists:
            raise DataError(f"{where}where a row is a client, every column must be a list, {name!r} is not")
        if len(bridge.missing_rows(table[name])):
            raise DataError(f"{where}column {name!r} must have a value in every list, some are missing")
        values, ends = bridge.from_lists(table[name])
        if offsets is not None and not np.array_equal(ends, offsets):
            raise DataError(f"{where}the lists of a client must be of one length, {name!r} differs")
        offsets = ends
        if pa.types.is_dictionary(values.type) or bridge.is_text(values.type) or name in numbered:
            _check_ids(name, values)
            columns[name], words = bridge.encoded(bridge.decoded(values))
            vocabularies[name] = _words(name, words)
        else:
            columns[name] = _values(name, values, in_lists=True)
    return ids, offsets, columns, vocabularies, table_keys(ids)


def _check_numbered(names: list[str], client: str, numbered: Sequence[str]) -> None:
    """Refuses names of columns whose ids are to be mapped, where there are no such fields."""
    if isinstance(numbered, str):
        raise DataError(f"vocabularies must be a list of columns, such as [{numbered!r}], got {numbered!r}")
    fields = [name for name in names if name != client]
    for name in numbered:
        if name not in fields:
            raise DataError(f"vocabularies must name columns of {fields}, got {name!r}")


def _check_ids(name: str, values: ArrowColumn) -> None:
    """Refuses a column whose values cannot be ids."""
    import pyarrow as pa

    kind = bridge.value_type(values.type)
    if not (pa.types.is_integer(kind) or bridge.is_text(kind)):
        raise DataError(f"column {name!r} must hold whole numbers or strings to be mapped, got {kind}")


def _values(name: str, values: ArrowColumn, *, in_lists: bool = False) -> np.ndarray:
    """A column of numbers, or of lists of a fixed length, as an array; without a copy where Arrow allows."""
    import pyarrow as pa

    kind = values.type
    while pa.types.is_fixed_size_list(kind):
        kind = kind.value_type
    if not (bridge.is_number(kind) or pa.types.is_boolean(kind)):
        raise DataError(f"column {name!r} must hold numbers or strings, got {kind}")
    numbers = bridge.to_numpy(values)
    # Polars and Arrow keep NaN apart from null; pandas, and most files, do not.
    if numbers.dtype.kind == "f" and numbers.size:
        missing = np.flatnonzero(np.isnan(numbers).reshape(len(numbers), -1).any(axis=1))
        if len(missing):
            raise DataError(
                f"column {name!r} must have a value in every row, {len(missing):,} are missing (NaN), the "
                f"first at position {missing[0]}{' of all lists together' * in_lists}"
            )
    return numbers


def _ids(name: str, words: ArrowColumn) -> TableIds:
    """The ids that the words of a column stand for, which names the clients."""
    _check_owners(name, words)
    try:
        return table_ids(words)
    except OverflowError as error:
        raise DataError(f"column {name!r} {error}") from None


def _check_owners(name: str, owners: ArrowColumn) -> None:
    """Refuses a column that cannot name clients."""
    import pyarrow as pa

    if not (pa.types.is_integer(owners.type) or bridge.is_text(owners.type)):
        raise DataError(
            f"column {name!r} must hold integers or strings, as it names the clients; got {owners.type}"
        )


def _words(name: str, words: ArrowColumn) -> np.ndarray:
    """The original ids of a field whose column is encoded, in the order in which they are numbered."""
    import pyarrow as pa

    if not (pa.types.is_integer(words.type) or bridge.is_text(words.type)):
        return vocabulary(name, words.to_pylist())  # which says what is wrong with them
    try:
        return table_ids(words).ids
    except OverflowError as error:
        raise DataError(f"the vocabulary of {name!r} {error}") from None


def _without_row_numbers(table: Any, client: str) -> Any:
    """The table without the row numbers of pandas, to which Arrow gives such names, in Parquet as well."""
    names = [n for n in table.column_names if re.fullmatch(r"__index_level_\d+__", n) and n != client]
    return table.drop_columns(names) if names else table


def _check_index(frame: object, wanted: Sequence[str]) -> bool:
    """Refuses a pandas index that has a name and was not asked for, and returns whether one was.

    It may be data or the numbers of rows. Arrow takes it for a column, but only where it is no range, so that
    a filter would add a field.
    """
    names = [name for name in getattr(getattr(frame, "index", None), "names", ()) if name is not None]
    for name in names:
        if name not in wanted:
            raise DataError(
                f"a table's index must have no name, got {name!r}: reset_index() makes it a column and so a "
                "field, reset_index(drop=True) leaves it out"
            )
    return bool(names)


def _require(names: list[str], client: str, path: FilePath | None = None) -> None:
    where = f"{path}: " if path is not None else ""
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise DataError(
            f"{where}columns must have different names, {names.count(twice)} are called {twice!r}"
        )
    if client not in names:
        raise DataError(f"{where}column {client!r}, which names the client, is missing; there are {names}")
