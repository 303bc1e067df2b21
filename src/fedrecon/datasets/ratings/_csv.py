"""Reads rating files that are lines of text, fast."""

from typing import Any

import pyarrow as pa
import pyarrow.csv

from fedrecon.data._arrow_bridge import one_chunk, to_numpy
from fedrecon.datasets.ratings import _error_lines as lines
from fedrecon.datasets.ratings._archive import Source, reason, translated
from fedrecon.datasets.ratings._columns import Table
from fedrecon.datasets.ratings._formats import Format, first_line, header_columns
from fedrecon.datasets.ratings._reader_options import Columns

_BLOCK = 4 << 20


def read_text(source: Source, found: Format) -> Table:
    """The ratings of a text file.

    Raises:
        DataError: The file is not written as `found` says, or its last line has no end. What holds for ids
            and for the size of ratings is not checked here.
    """
    columns = found.columns
    if found.header:
        columns = header_columns(source.where, first_line(lines.head(source)), found)
    with source.native() as file, translated(source.where):
        size = file.size()
        try:
            table = pyarrow.csv.read_csv(file, *_options(found, columns))
        except (pa.ArrowException, ValueError) as error:
            raise lines.first_fault(source, found, columns, reason(error)) from error
        file.seek(size - 1)
        if file.read() not in (b"\n", b"\r"):
            raise lines.truncated(source)
    numbers = [name for name in (columns.rating, columns.time) if name is not None]
    if any(table[name].null_count for name in numbers):
        raise lines.first_fault(source, found, columns, "a number is missing")
    table = table.unify_dictionaries()
    return Table(
        client=one_chunk(table[columns.client]),
        item=one_chunk(table[columns.item]),
        rating=to_numpy(table[columns.rating]),
        time=None if columns.time is None else to_numpy(table[columns.time]),
    )


def _options(found: Format, columns: Columns) -> tuple[Any, Any, Any]:
    """Arrow's options to read, parse and convert."""
    names = [name for name in columns if name is not None]
    encoded = pa.dictionary(pa.int32(), pa.string())
    types = {columns.client: encoded, columns.item: encoded, columns.rating: pa.float64()}
    if columns.time is not None:
        types[columns.time] = pa.int64()
    fields = [] if found.header else names
    if found.separator == "::":
        # Arrow separates by one character: "a::b" is then a, nothing, b, and nothing must be there.
        gaps = [f"gap {number}" for number in range(1, len(names))]
        fields = [name for pair in zip(names, [*gaps, ""], strict=True) for name in pair][:-1]
        types |= dict.fromkeys(gaps, pa.null())
        names += gaps
    own = not found.integer_ids  # a table of the caller's own may have text with newlines beside what is read
    return (
        pyarrow.csv.ReadOptions(block_size=_BLOCK, column_names=fields or None),
        pyarrow.csv.ParseOptions(
            delimiter=found.separator[0],
            quote_char='"' if found.header else False,
            double_quote=found.header,
            newlines_in_values=own,
        ),
        pyarrow.csv.ConvertOptions(
            column_types=types, include_columns=names, null_values=[""], strings_can_be_null=False
        ),
    )
