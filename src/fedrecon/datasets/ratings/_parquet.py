"""Reads ratings from Parquet."""

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet
from jaxtyping import Float64, Int64

from fedrecon.data._arrow_bridge import is_number, is_text, missing_rows, one_chunk, to_numpy, value_type
from fedrecon.data._unpacking import check_parquet
from fedrecon.datasets.ratings._archive import Source, reason
from fedrecon.datasets.ratings._columns import Table
from fedrecon.datasets.ratings._formats import Format, present_columns
from fedrecon.datasets.ratings._validation import quoted
from fedrecon.errors import DataError


def read_parquet(source: Source, found: Format) -> Table:
    """The ratings of a Parquet file.

    Times that are dates or timestamps are counted in their own unit.

    Raises:
        DataError: The file is damaged, lacks a column, or a column has nulls or a type that cannot be used.
    """
    try:
        file = pyarrow.parquet.ParquetFile(source.native())
        columns = present_columns(source.where, file.schema_arrow.names, found)
        names = [name for name in columns if name is not None]
        check_parquet(source.where, file.metadata, names, source.limit)
        table = file.read(names)
    except DataError:
        raise
    except (pa.ArrowException, OSError, ValueError, MemoryError) as error:
        raise DataError(f"{source.where}: cannot be read as Parquet: {reason(error)}") from error
    return Table(
        client=_ids(source, table, "client", columns.client),
        item=_ids(source, table, "item", columns.item),
        rating=_ratings(source, table, columns.rating),
        time=None if columns.time is None else _times(source, table, columns.time),
    )


def _ids(source: Source, table: pa.Table, role: str, name: str) -> Any:
    """The column, dictionary-encoded anew: a dictionary that was stored may hold words that no row has."""
    column = _without_nulls(source, table, role, name)
    stored = value_type(column.type)
    if pa.types.is_integer(stored):
        wanted = stored
    elif is_text(stored):
        wanted = pa.large_string()
    else:
        raise _type_error(source, role, name, "whole numbers or text", column.type)
    return one_chunk(column.cast(wanted).dictionary_encode())


def _ratings(source: Source, table: pa.Table, name: str) -> Float64[np.ndarray, "rating"]:
    column = _without_nulls(source, table, "rating", name)
    if not (is_number(column.type) or pa.types.is_decimal(column.type)):
        raise _type_error(source, "rating", name, "numbers", column.type)
    return to_numpy(column.cast(pa.float64(), safe=False))


def _times(source: Source, table: pa.Table, name: str) -> Int64[np.ndarray, "rating"]:
    column = _without_nulls(source, table, "time", name)
    if pa.types.is_date32(column.type):
        column = column.cast(pa.int32())
    elif not (
        pa.types.is_integer(column.type)
        or pa.types.is_timestamp(column.type)
        or pa.types.is_date64(column.type)
    ):
        raise _type_error(source, "time", name, "whole numbers, dates or timestamps", column.type)
    try:
        return to_numpy(column.cast(pa.int64()))
    except pa.ArrowInvalid as error:
        raise DataError(
            f"{source.where}: column {quoted(name)} (the time) must fit in 64 bits: {reason(error)}"
        ) from error


def _without_nulls(source: Source, table: pa.Table, role: str, name: str) -> Any:
    column = table[name]
    missing = missing_rows(column)
    if len(missing):
        where = f"{source.where}, row {1 + missing[0]}"
        raise DataError(f"{where}: column {quoted(name)} (the {role}) must have a value, has none")
    return column


def _type_error(source: Source, role: str, name: str, wanted: str, got: pa.DataType) -> DataError:
    return DataError(f"{source.where}: column {quoted(name)} (the {role}) must hold {wanted}, holds {got}")
