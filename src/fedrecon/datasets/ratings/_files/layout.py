"""How a rating file is written: its format and the columns that are read, by its first bytes alone."""

from dataclasses import replace

from fedrecon.datasets.ratings._files.formats import (
    PARQUET,
    Format,
    find_columns,
    find_text_columns,
    first_line,
    format_of,
    take_own_columns,
)
from fedrecon.datasets.ratings._files.source import Source
from fedrecon.datasets.ratings._reader_options import Columns, Reading
from fedrecon.datasets.ratings._validation import quoted
from fedrecon.errors import DataError


def detect_format(source: Source, reading: Reading) -> Format:
    """The format of a file, with what the caller says of its ratings.

    Raises:
        DataError: The file cannot be read, or its format is none that is read.
    """
    if source.parts:
        form = take_own_columns(PARQUET, reading.columns, source.where)
    else:
        form = format_of(source.name, source.head(), reading, source.where)
    scale = form.scale if reading.scale is None else reading.scale
    return replace(form, scale=scale, unrated=reading.unrated)


def resolve_columns(source: Source, form: Format) -> Columns:
    """The columns of a file that are read.

    Raises:
        DataError: The file cannot be read, or lacks a column.
    """
    if form.is_text:
        return find_text_columns(source.where, first_line(source.head()), form)[0]
    if form.is_json:
        from fedrecon.datasets.ratings._files.json import read_json_columns

        return read_json_columns(source, form)
    from fedrecon.datasets.ratings._files.parquet import read_column_names

    return find_columns(source.where, read_column_names(source), form)


def has_columns(source: Source, reading: Reading) -> bool:
    """Whether a file is a table with the columns that are asked for."""
    try:
        resolve_columns(source, detect_format(source, reading))
    except DataError:
        return False
    return True


def describe(source: Source, reading: Reading) -> str:
    """How a file is read, for a person: its format and its columns with their roles.

    Raises:
        DataError: The file cannot be read, or lacks a column.
    """
    if source.is_lenskit:
        return "a data set that LensKit saved"
    form = detect_format(source, reading)
    columns = resolve_columns(source, form)
    roles = [
        f"{role} = {quoted(column) if isinstance(column, str) else f'field {column}'}"
        for role, column in columns._asdict().items()
        if column is not None
    ]
    parts = f" in {len(source.parts):,} parts" if source.parts else ""
    encoding = "" if source.is_utf_8 else f" in {source.encoding}"
    unrated = "" if reading.unrated is None else f"; a rating of {reading.unrated:g} stands for none"
    return f"{form.name}{parts}{encoding} with {', '.join(roles)}{unrated}"
