"""Reads ratings from Parquet: a file, the parts of a table, or a data set that LensKit saved."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet
from jaxtyping import Float64

from fedrecon.data._arrow_bridge import (
    decoded,
    from_lists,
    is_list,
    is_number,
    is_text,
    missing_rows,
    one_chunk,
    to_arrow,
    to_numpy,
    value_type,
)
from fedrecon.data._unpacking import check_unpacked, parquet_size
from fedrecon.datasets.ratings._columns import Table, Times
from fedrecon.datasets.ratings._files.csv import NoTimes
from fedrecon.datasets.ratings._files.formats import Format, find_columns
from fedrecon.datasets.ratings._files.source import Source, reason
from fedrecon.datasets.ratings._files.times import (
    NUMBERS,
    RULE,
    convert_numeric_times,
    parse_times,
    parse_times_of_form,
)
from fedrecon.datasets.ratings._ids import FaultyRow
from fedrecon.datasets.ratings._reader_options import Columns
from fedrecon.datasets.ratings._validation import quoted
from fedrecon.errors import DataError

LENSKIT = Format(
    "LensKit's Parquet", "", True, Columns("user_num", "item_num"), integer_ids=False, scale=None
)


def read_parquet(source: Source, form: Format) -> Table:
    """The ratings of a Parquet file, or of the parts of a table in the order of their names.

    Times that are dates or timestamps are counted in their own unit.

    Raises:
        DataError: A file is damaged, lacks a column, or a column has nulls or a type that cannot be used.
    """
    tables: list[pa.Table] = []
    for path in source.parts or (None,):
        where = source.where if path is None else str(path)
        file, taken = source.native() if path is None else _open(path), sum(x.nbytes for x in tables)
        columns, table = _read(where, file, form, source.limit, taken)
        tables.append(table)
    if len(tables) == 1:
        return _numbered(source.where, columns, tables[0], form.optional, 0, 0)
    try:
        table = pa.concat_tables(tables, promote_options="permissive")
    except pa.ArrowException as error:
        raise DataError(
            f"{source.where}: its parts must have columns of one type: {reason(error)}"
        ) from error
    return _numbered(source.where, columns, table, form.optional, 0, 0)


def stream_parquet(source: Source, form: Format, rows: int) -> Iterator[tuple[Table, str, float]]:
    """The ratings of a Parquet file, or of the parts of a table, piece by piece.

    Args:
        source: The file or the parts.
        form: How they are written.
        rows: The number of rows to read at a time.

    Yields:
        Some ratings, the form of their times (`""` without any), and the share of the source read by then.

    Raises:
        DataError: As for `read_parquet`; rows in messages are counted in each part.
        NoTimes: The file's times cannot be read, which are optional: it must be read without them.
    """
    paths = source.parts or (None,)
    for number, path in enumerate(paths):
        where = source.where if path is None else str(path)
        try:
            opened = pyarrow.parquet.ParquetFile(source.native() if path is None else _open(path))
            columns = find_columns(where, opened.schema_arrow.names, form)
            names = [str(name) for name in dict.fromkeys(columns) if name is not None]
            total, done, before = max(opened.metadata.num_rows, 1), 0, 0
            for batch in opened.iter_batches(rows, columns=names):
                table = pa.Table.from_batches([batch])
                ratings = _numbered(where, columns, table, form.optional, done, before)
                done, before = done + len(batch), before + len(ratings.client)
                if ratings.time is None and columns.time is not None:
                    raise NoTimes
                written = "" if ratings.time is None else _form_of_times(where, columns, table)
                yield ratings, written, (number + done / total) / len(paths)
        except (pa.ArrowException, OSError, MemoryError) as error:
            raise DataError(f"{where}: cannot be read as Parquet: {reason(error)}") from error


def read_lenskit(source: Source, columns: Columns | None) -> Table:
    """The ratings of a folder that LensKit saved: its default interactions, by numbers of users and items.

    Args:
        source: The folder.
        columns: The caller's own columns; only the attributes that are read as rating and time may be named.

    Raises:
        DataError: The folder is not as LensKit writes it.
    """
    path = source.parts[0]
    try:
        schema = json.loads(path.read_text(encoding="utf-8"))
        kinds = schema["relationships"]
        name = schema.get("default_interaction") or next(k for k, v in kinds.items() if v.get("interaction"))
        entities = {alias: entity or alias for alias, entity in kinds[name]["entities"].items()}
        attributes = list(kinds[name].get("attributes", {}))
        client, item = entities["user"], entities["item"]
    except (OSError, ValueError, KeyError, TypeError, AttributeError, StopIteration) as error:
        raise DataError(
            f"{path}: must be the schema of a LensKit data set with interactions of user and item: "
            f"{reason(error) or type(error).__name__}"
        ) from None
    named = LENSKIT.columns
    if columns is not None:
        named = named._replace(rating=columns.rating, time=columns.time)
    else:
        given = {"rating": "rating", "time": "timestamp"}
        named = named._replace(**{role: name for role, name in given.items() if name in attributes})
    form = replace(LENSKIT, columns=named)
    where = source.path / f"{name}.parquet"
    columns_there, table = _read(str(where), _open(where), form, source.limit)
    ratings = _numbered(str(where), columns_there, table, False, 0, 0)
    return ratings._replace(
        client=_name_entities(str(where), ratings.client, _read_entities(source, client)),
        item=_name_entities(str(where), ratings.item, _read_entities(source, item)),
    )


def read_column_names(source: Source) -> list[str]:
    """The names of the columns of a file, or of the first part of a table.

    Raises:
        DataError: The file is not Parquet, or damaged.
    """
    path = source.parts[0] if source.parts else None
    return _schema(
        source.where if path is None else str(path), source.native() if path is None else _open(path)
    ).names


def _read_entities(source: Source, name: str) -> Any:
    """The ids of a class of LensKit's entities, in the order of their numbers."""
    path = source.path / f"{name}.parquet"
    form = replace(LENSKIT, columns=Columns(f"{name}_id", f"{name}_id"))
    _, table = _read(str(path), _open(path), form, source.limit)
    try:
        return _ids(str(path), table, name, f"{name}_id")
    except FaultyRow as fault:
        raise _at_row(str(path), 0, fault) from None


def _name_entities(where: str, numbers: pa.DictionaryArray, ids: pa.DictionaryArray) -> pa.DictionaryArray:
    """A column of entities' numbers as a column of their ids."""
    words = ids.dictionary_decode()
    places = numbers.dictionary.cast(pa.int64())
    if len(places) and not 0 <= pc.min(places).as_py() <= pc.max(places).as_py() < len(words):
        raise DataError(f"{where}: must number the {len(words):,} entities from 0 on, got {pc.max(places)}")
    return pa.DictionaryArray.from_arrays(numbers.indices, words.take(places))


def _open(path: Path) -> Any:
    try:
        return pa.OSFile(str(path))
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {reason(error)}") from error


def _schema(where: str, file: Any) -> pa.Schema:
    try:
        return pyarrow.parquet.read_schema(file)
    except (pa.ArrowException, OSError, ValueError, MemoryError) as error:
        raise DataError(f"{where}: cannot be read as Parquet: {reason(error)}") from error


def _read(where: str, file: Any, form: Format, limit: int, taken: int = 0) -> tuple[Columns, pa.Table]:
    """The columns of one file, by name and as they are stored.

    Args:
        where: The name of the file in messages.
        file: The file.
        form: The format, which names the columns.
        limit: The number of bytes to which all files of a source may unpack together.
        taken: The bytes that the files before it take; 0 by default.
    """
    try:
        opened = pyarrow.parquet.ParquetFile(file)
        columns = find_columns(where, opened.schema_arrow.names, form)
        names = [str(name) for name in dict.fromkeys(columns) if name is not None]
        check_unpacked(where, taken + parquet_size(opened.metadata, names), limit)
        return columns, opened.read(names)
    except DataError:
        raise
    except (pa.ArrowException, OSError, ValueError, MemoryError) as error:
        raise DataError(f"{where}: cannot be read as Parquet: {reason(error)}") from error


def _numbered(
    where: str, columns: Columns, table: pa.Table, optional: bool, stored: int, before: int
) -> Table:
    """Some rows of a file as ratings.

    Args:
        where: The name of the file in messages.
        columns: The columns by their roles.
        table: The rows.
        optional: Whether times that cannot be read are left out.
        stored: The number of rows of the file before these.
        before: The number of ratings of the file before these: others, where a row is a client.

    Raises:
        DataError: The rows break a rule; the message names the row in the file.
    """
    try:
        exploded = _explode(where, table, str(columns.client))
    except FaultyRow as fault:
        raise _at_row(where, stored, fault) from None
    try:
        return _as_ratings(where, columns, exploded, optional)
    except FaultyRow as fault:
        raise _at_row(where, before, fault) from None


def _at_row(where: str, before: int, fault: FaultyRow) -> DataError:
    return DataError(f"{where}, row {1 + before + fault.row}: {fault.message}")


def _as_ratings(where: str, columns: Columns, table: pa.Table, optional: bool) -> Table:
    return Table(
        client=_ids(where, table, "client", str(columns.client)),
        item=_ids(where, table, "item", str(columns.item)),
        rating=None if columns.rating is None else _ratings(where, table, str(columns.rating)),
        time=None if columns.time is None else _times(where, table, str(columns.time), optional),
    )


def _explode(where: str, table: pa.Table, client: str) -> pa.Table:
    """A table with a row for each rating; a row of the stored one may be a client, the others lists.

    Raises:
        DataError: Some columns hold lists and others do not, or a client's lists differ in length.
    """
    others = [name for name in table.column_names if name != client]
    lists = [name for name in others if is_list(table.schema.field(name).type)]
    if not lists:
        return table
    if len(lists) < len(others):
        single = next(name for name in others if name not in lists)
        raise DataError(
            f"{where}: where a row is a client, every column that is read must hold lists, "
            f"{quoted(single)} does not"
        )
    columns: dict[str, Any] = {}
    offsets = np.zeros(0, np.int64)
    for name in lists:
        values, ends = from_lists(_without_nulls(table, "lists", name))
        if columns and not np.array_equal(ends, offsets):
            raise DataError(f"{where}: the lists of a client must be of one length, {quoted(name)} differs")
        columns[name], offsets = values, ends
    owners = np.repeat(np.arange(len(table)), np.diff(offsets))
    return pa.table({client: decoded(table[client]).take(to_arrow(owners)), **columns})


def _ids(where: str, table: pa.Table, role: str, name: str) -> Any:
    """The column, dictionary-encoded anew: a dictionary that was stored may hold words that no row has."""
    column = _without_nulls(table, role, name)
    stored = value_type(column.type)
    if pa.types.is_integer(stored):
        wanted = stored
    elif is_text(stored):
        wanted = pa.large_string()
    else:
        raise _type_error(where, role, name, "whole numbers or text", column.type)
    return one_chunk(decoded(column).cast(wanted).dictionary_encode())


def _ratings(where: str, table: pa.Table, name: str) -> Float64[np.ndarray, "rating"]:
    column = _without_nulls(table, "rating", name)
    if not (is_number(column.type) or pa.types.is_decimal(column.type)):
        raise _type_error(where, "rating", name, "numbers", column.type)
    return to_numpy(column.cast(pa.float64(), safe=False))


def _times(where: str, table: pa.Table, name: str, optional: bool) -> Times | None:
    """The times; where they are optional, None for what cannot be read."""
    try:
        return _required_times(where, table, name)
    except (DataError, FaultyRow):
        if not optional:
            raise
        return None


def _form_of_times(where: str, columns: Columns, table: pa.Table) -> str:
    """How the times of a table are written, which tells their unit."""
    column = _explode(where, table, str(columns.client))[str(columns.time)]
    if is_text(column.type):
        return parse_times_of_form(decoded(column))[0]
    # Dates and timestamps are counted in their own unit, in which numbers and those of other types are not.
    return f"Parquet's {column.type}" if pa.types.is_temporal(value_type(column.type)) else NUMBERS


def _required_times(where: str, table: pa.Table, name: str) -> Times:
    column = _without_nulls(table, "time", name)
    kind = value_type(column.type)
    if pa.types.is_floating(kind) or is_text(kind):
        times = (
            parse_times(column.cast(pa.string()))
            if is_text(kind)
            else convert_numeric_times(to_numpy(column.cast(pa.float64())))
        )
        if times is None:
            raise DataError(f"{where}: column {quoted(name)}: {RULE}, in one form in all rows")
        return times
    if pa.types.is_date32(kind):
        column = column.cast(pa.int32())
    elif not (pa.types.is_integer(kind) or pa.types.is_timestamp(kind) or pa.types.is_date64(kind)):
        raise _type_error(where, "time", name, "numbers, dates, timestamps or text", column.type)
    try:
        return to_numpy(column.cast(pa.int64()))
    except pa.ArrowInvalid as error:
        raise DataError(
            f"{where}: column {quoted(name)} (the time) must fit in 64 bits: {reason(error)}"
        ) from error


def _without_nulls(table: pa.Table, role: str, name: str) -> Any:
    """A column.

    Raises:
        FaultyRow: Naming the first row that has no value in it.
    """
    column = table[name]
    missing = missing_rows(column)
    if len(missing):
        raise FaultyRow(int(missing[0]), f"column {quoted(name)} (the {role}) must have a value, has none")
    return column


def _type_error(where: str, role: str, name: str, wanted: str, got: pa.DataType) -> DataError:
    return DataError(f"{where}: column {quoted(name)} (the {role}) must hold {wanted}, holds {got}")
