"""Reads rating files that are lines of fields, fast."""

from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pyarrow.csv

from fedrecon.data._arrow_bridge import one_chunk, to_numpy
from fedrecon.datasets.ratings._columns import Table
from fedrecon.datasets.ratings._files import error_lines as lines
from fedrecon.datasets.ratings._files.formats import Format, find_text_columns, first_line
from fedrecon.datasets.ratings._files.source import Source, reason, translated
from fedrecon.datasets.ratings._files.times import parse_times
from fedrecon.datasets.ratings._reader_options import Columns
from fedrecon.errors import DataError

_BLOCK = 4 << 20


def read_text(source: Source, form: Format) -> Table:
    """The ratings of a text file.

    Raises:
        DataError: The file is not written as `form` says, or its last line has no end. What holds for ids
            and for the size of ratings is not checked here.
    """
    columns, fields = find_text_columns(source.where, first_line(source.head()), form)
    with source.native() as file, translated(source.where):
        size = file.size()
        table = _parsed(file, source, form, columns, fields)
        file.seek(size - 1)
        if file.read() not in (b"\n", b"\r"):
            raise lines.truncated(source)
    if columns.rating is not None and table[str(columns.rating)].null_count:
        raise lines.first_fault(source, form, columns, "a number is missing")
    table = table.unify_dictionaries()
    return Table(
        client=one_chunk(table[str(columns.client)]),
        item=one_chunk(table[str(columns.item)]),
        rating=None if columns.rating is None else to_numpy(table[str(columns.rating)]),
        time=_times(table, source, form, columns),
    )


def _parsed(file: Any, source: Source, form: Format, columns: Columns, fields: int) -> pa.Table:
    """The columns, read in the usual way, or else with times as text and with a decimal comma."""
    for time, decimal_point in _ways(form, columns):
        try:
            file.seek(0)
            return pyarrow.csv.read_csv(file, *_options(form, columns, fields, time, decimal_point))
        except (pa.ArrowException, ValueError) as error:
            failure = error
    raise lines.first_fault(source, form, columns, reason(failure)) from failure


def _ways(form: Format, columns: Columns) -> list[tuple[pa.DataType, str]]:
    """The types of times and the decimal points to try, in this order."""
    ways = [(pa.int64(), ".")]
    if columns.time is not None:
        ways.append((pa.string(), "."))
    if columns.rating is not None and form.separator != ",":
        ways.append((pa.string(), ","))
    return ways


def stream_text(source: Source, form: Format, way: int) -> Iterator[tuple[Columns, pa.Table, int]]:
    """The columns of a text file, piece by piece, as `read_text` reads them at once.

    Args:
        source: The file.
        form: How it is written.
        way: Which of the ways to read it is tried, from 0.

    Yields:
        Which columns are read, some rows, and how many bytes of the file are read by then.

    Raises:
        OtherWay: The file is not written in that way, and the next one must be tried from the start.
        NoTimes: The file is written in no way with its times, which are optional.
        DataError: The file is written in none, or its last line has no end.
    """
    columns, fields = find_text_columns(source.where, first_line(source.head()), form)
    time, decimal_point = _ways(form, columns)[way]
    with source.native() as file, translated(source.where):
        size = file.size()
        try:
            with pyarrow.csv.open_csv(file, *_options(form, columns, fields, time, decimal_point)) as reader:
                for batch in reader:
                    table = pa.Table.from_batches([batch])
                    if columns.rating is not None and table[str(columns.rating)].null_count:
                        raise lines.first_fault(source, form, columns, "a number is missing")
                    if columns.time is not None and table[str(columns.time)].null_count:
                        raise pa.ArrowInvalid("a time is missing")
                    yield columns, table, min(file.tell(), size)
        except (pa.ArrowException, ValueError) as error:
            if isinstance(error, DataError):
                raise
            if way + 1 < len(_ways(form, columns)):
                raise OtherWay from error
            if form.optional and columns.time is not None:
                raise NoTimes from error
            raise lines.first_fault(source, form, columns, reason(error)) from error
        file.seek(size - 1)
        if file.read() not in (b"\n", b"\r"):
            raise lines.truncated(source)


class OtherWay(Exception):  # noqa: N818
    """A text file must be read in another way."""


class NoTimes(Exception):  # noqa: N818
    """The times of a file cannot be read, and nobody asked for them: it must be read without."""


def _times(table: pa.Table, source: Source, form: Format, columns: Columns) -> Any:
    if columns.time is None:
        return None
    column = table[str(columns.time)]
    if pa.types.is_integer(column.type) and not column.null_count:
        return to_numpy(column)
    # Of a time that nobody asked for, one that cannot be read stops nothing.
    times = None if pa.types.is_integer(column.type) else parse_times(column)
    if times is None and not form.optional:
        raise lines.first_fault(source, form, columns, "times must be all numbers, or all dates of one form")
    return times


def _options(
    form: Format, columns: Columns, fields: int, time: pa.DataType, decimal_point: str
) -> tuple[Any, Any, Any]:
    """Arrow's options to read, parse and convert."""
    read = [str(column) for column in columns if column is not None]
    encoded = pa.dictionary(pa.int32(), pa.string())
    types = {str(columns.client): encoded, str(columns.item): encoded}
    if columns.rating is not None:
        types[str(columns.rating)] = pa.float64()
    if columns.time is not None:
        types[str(columns.time)] = time
    names = [] if form.header else [str(position) for position in range(1, fields + 1)]
    if form.separator == "::":
        # Arrow separates by one character: "a::b" is then a, nothing, b, and nothing must be there.
        gaps = [f"gap {number}" for number in range(1, len(names))]
        names = [name for pair in zip(names, [*gaps, ""], strict=True) for name in pair][:-1]
        types |= dict.fromkeys(gaps, pa.null())
        read += gaps
    # A table with columns of the caller's own may have texts with newlines in columns that are not read.
    any_text = not form.integer_ids
    return (
        pyarrow.csv.ReadOptions(block_size=_BLOCK, column_names=names or None),
        pyarrow.csv.ParseOptions(
            delimiter=form.separator[0],
            quote_char='"' if form.quoted else False,
            double_quote=form.quoted,
            newlines_in_values=any_text and form.quoted,
        ),
        pyarrow.csv.ConvertOptions(
            column_types=types,
            include_columns=read,
            null_values=[""],
            strings_can_be_null=False,
            decimal_point=decimal_point,
        ),
    )
