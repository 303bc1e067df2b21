"""Reads ratings from JSON Lines: an object on each line, as Amazon, Yelp and Goodreads publish reviews."""

import codecs
import io
import json
import math
from collections.abc import Iterator, Mapping
from typing import Any

import pyarrow as pa
import pyarrow.json

from fedrecon.data._arrow_bridge import is_text, one_chunk, to_numpy
from fedrecon.datasets.ratings._columns import Table, Times
from fedrecon.datasets.ratings._files.formats import Format, find_columns
from fedrecon.datasets.ratings._files.source import Source, reason, translated
from fedrecon.datasets.ratings._files.times import RULE, convert_numeric_times, is_time, parse_times
from fedrecon.datasets.ratings._reader_options import Columns
from fedrecon.datasets.ratings._validation import quoted
from fedrecon.errors import DataError, parsing_error

_BLOCK = 16 << 20  # bytes; a review must fit in it
_ENDINGS = "; a dictionary as Python prints it, in single quotes, must be written as JSON first"


def read_json(source: Source, form: Format) -> Table:
    """The ratings of a file of JSON Lines.

    Raises:
        DataError: A line is no object, lacks a field, or has one of another type.
    """
    number, first = _first_object(source)
    columns = find_columns(f"{source.where}, line {number}", list(first), form)
    roles = {role: str(name) for role, name in columns._asdict().items() if name is not None}
    kinds = {role: _choose_type(role, first[name]) for role, name in roles.items()}
    table = _parsed(source, roles, kinds)
    if table is None:
        table = _slowly(source, form, roles, kinds)
    times = _times(table) if "time" in roles else None
    if times is None and "time" in roles and not form.optional:
        _slowly(source, form, roles, kinds)  # names the first line whose time is none
        raise DataError(
            f"{source.where}: field {quoted(roles['time'])} (the time) must hold numbers alone, or dates of "
            "one form alone"
        )
    client, item = (one_chunk(table[role].dictionary_encode()) for role in ("client", "item"))
    return Table(client, item, to_numpy(table["rating"]) if "rating" in roles else None, times)


def read_json_columns(source: Source, form: Format) -> Columns:
    """The columns that are read, by the first line."""
    number, first = _first_object(source)
    return find_columns(f"{source.where}, line {number}", list(first), form)


def _first_object(source: Source) -> tuple[int, dict[str, Any]]:
    for number, value in _objects(source):
        return number, value
    raise DataError(f"{source.where}: must hold ratings, has none")


def _parsed(source: Source, roles: Mapping[str, str], kinds: Mapping[str, pa.DataType]) -> pa.Table | None:
    """The columns by their roles, fast; None where Arrow cannot read a line, or one lacks a value."""
    schema = pa.schema([(name, kinds[role]) for role, name in roles.items()])
    with source.native() as file, translated(source.where):
        try:
            table = pyarrow.json.read_json(
                file,
                pyarrow.json.ReadOptions(block_size=_BLOCK),
                pyarrow.json.ParseOptions(
                    explicit_schema=schema, newlines_in_values=False, unexpected_field_behavior="ignore"
                ),
            )
            if any(table[name].null_count for name in schema.names):
                return None
            table = table.select(list(roles.values())).rename_columns(list(roles))
            if "rating" in roles:
                place = table.column_names.index("rating")
                table = table.set_column(place, "rating", table["rating"].cast(pa.float64()))
        except (pa.ArrowException, ValueError):
            return None
    return table


def _slowly(
    source: Source, form: Format, roles: Mapping[str, str], kinds: Mapping[str, pa.DataType]
) -> pa.Table:
    """The same, line by line: Arrow refuses a file for a fault in fields that nobody asked for.

    Raises:
        DataError: Naming the first line that breaks a rule.
    """
    columns: dict[str, list[Any]] = {role: [] for role in roles}
    for number, value in _objects(source):
        for role, name in roles.items():
            fault = _fault(role, name, value, kinds[role])
            if fault is not None and not (role == "time" and form.optional):
                raise DataError(f"{source.where}, line {number}: {fault}")
            columns[role].append(value.get(name))
    for role in roles.keys() & {"rating"}:
        columns[role] = [float(value) for value in columns[role]]
    for role in roles.keys() & {"time"}:  # numbers with and without a fraction, or what is no time at all
        columns[role] = ["" if value is None else str(value) for value in columns[role]]
    types = {**kinds, "rating": pa.float64(), "time": pa.string()}
    return pa.table({role: pa.array(values, types[role]) for role, values in columns.items()})


def find_lines(source: Source, rows: list[int]) -> list[int]:
    """The line of each of the `rows`, which count the ratings from 0."""
    wanted = set(rows)
    lines = {row: number for row, (number, _) in enumerate(_lines(source)) if row in wanted}
    return [lines[row] for row in rows]


def _times(table: pa.Table) -> Times | None:
    """The times, as numbers; None where some cannot be read."""
    column = table["time"]
    if pa.types.is_integer(column.type):
        return to_numpy(column)
    return parse_times(column) if is_text(column.type) else convert_numeric_times(to_numpy(column))


def _choose_type(role: str, value: object) -> pa.DataType:
    """The type in which Arrow reads a column whose first value is given."""
    if isinstance(value, str):
        return pa.string()
    if role == "rating" or (role == "time" and isinstance(value, float)):
        return pa.float64()
    return pa.int64()


def _lines(source: Source) -> Iterator[tuple[int, bytes]]:
    """The numbers of the lines that are not blank, from 1, and what they hold."""
    with source.open() as stream, io.BufferedReader(stream) as file:
        for number, line in enumerate(file, 1):
            content = line.removeprefix(codecs.BOM_UTF8) if number == 1 else line
            if content.strip():
                yield number, content


def _objects(source: Source) -> Iterator[tuple[int, dict[str, Any]]]:
    for number, line in _lines(source):
        where = f"{source.where}, line {number}"
        try:
            # Bytes that are not UTF-8 survive as surrogates: they may be in a field that nobody asked for.
            value = json.loads(line.decode("utf-8", "surrogateescape"))
        except RecursionError:
            raise DataError(f"{where}: must be JSON that is less deeply nested") from None
        except ValueError as error:
            hint, what = _ENDINGS if b"'" in line else "", reason(ValueError(parsing_error(error)))
            raise DataError(f"{where}: must be an object of JSON: {what}{hint}") from None
        if not isinstance(value, dict):
            raise DataError(f"{where}: must be an object of JSON, got {type(value).__name__}")
        yield number, value


def _fault(role: str, name: str, line: Mapping[str, Any], kind: pa.DataType) -> str | None:
    value = line.get(name)
    what = f"field {quoted(name)} (the {role})"
    if value is None:
        return f"{what} must have a value, has none"
    if role in ("client", "item"):
        return _id_fault(what, value, is_text(kind))
    if role == "rating":
        return None if _is_number(value) else f"{what} must be a finite number, got {quoted(value)}"
    return None if is_time(str(value)) else f"{what}: {RULE}, got {quoted(value)}"


def _id_fault(what: str, value: object, text: bool) -> str | None:
    if text and isinstance(value, str):
        surrogate = any("\ud800" <= letter <= "\udfff" for letter in value)
        return f"{what} must be Unicode text, got {quoted(value)}" if surrogate else None
    if not text and isinstance(value, int) and not isinstance(value, bool):
        fits = -(2**63) <= value < 2**63
        return None if fits else f"{what} must fit in 64 bits (-2**63 to 2**63 - 1), got {quoted(value)}"
    return f"{what} must be text in all lines or a whole number in all lines, got {quoted(value)}"


def _is_number(value: Any) -> bool:
    try:
        return not isinstance(value, bool) and math.isfinite(float(value))
    except (TypeError, ValueError, OverflowError):
        return False
