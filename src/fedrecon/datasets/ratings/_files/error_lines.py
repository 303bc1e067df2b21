"""Reads text files line by line, slowly, to say which line is wrong and why."""

import csv
import io
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from fedrecon.datasets.ratings._files.formats import Format
from fedrecon.datasets.ratings._files.source import Source
from fedrecon.datasets.ratings._files.times import RULE, is_time
from fedrecon.datasets.ratings._reader_options import Columns
from fedrecon.datasets.ratings._validation import id_fault, quoted, rating_fault
from fedrecon.errors import DataError

_ENDS = ("\n", "\r")


class Record(NamedTuple):
    """One rating as it is written.

    Attributes:
        line: The number of its first line, from 1.
        fields: The fields of the record, as text.
        ended: Whether the last line of the record ends with a line break.
    """

    line: int
    fields: list[str]
    ended: bool


def first_fault(source: Source, form: Format, columns: Columns, otherwise: str) -> DataError:
    """The first line that breaks a rule; `otherwise` is said where none does."""
    header, records = _split(source, form)
    roles = {role: column for role, column in columns._asdict().items() if column is not None}
    if form.optional:
        roles.pop("time", None)
    last, count = header, form.fields
    places = {role: column - 1 for role, column in roles.items() if isinstance(column, int)}
    if header is not None:
        count = len(header.fields)
        places = {role: header.fields.index(str(column)) for role, column in roles.items()}
    is_first = True
    for last in records:
        count = count or len(last.fields)
        fault = _fault(last, count, form, places)
        if fault is not None and last.ended:
            header_hint = _HEADER if columns.by_position and is_first and not form.fields else ""
            return DataError(f"{source.where}, line {last.line}: {fault}{header_hint}")
        is_first = False
        if fault is not None:
            break
    if last is not None and not last.ended:
        return DataError(f"{source.where}, line {last.line}: {_CUT}")
    return DataError(f"{source.where}: cannot be read as {form.name}: {otherwise}")


_HEADER = "; if this line is a header, columns are given by its names, such as data.columns.client"
_CUT = "must end with a newline: the file seems cut short (if it is complete, append a newline)"


def truncated(source: Source) -> DataError:
    """The last line has no end."""
    with _lines(source) as text:
        last = sum(1 for _ in text)
    return DataError(f"{source.where}, line {last}: {_CUT}")


def numbers(source: Source, form: Format, rows: Sequence[int]) -> list[int]:
    """The line of each of the `rows`, which count the ratings from 0."""
    wanted = set(rows)
    lines = {row: record.line for row, record in enumerate(_split(source, form)[1]) if row in wanted}
    return [lines[row] for row in rows]


def _fault(record: Record, count: int, form: Format, places: dict[str, int]) -> str | None:
    fields = record.fields
    if len(fields) != count:
        separated = form.separator.join(fields)
        likely = next(
            (s for s in ("::", "\t", ",", ";", "|") if len(separated.split(s)) == count and count > 1), None
        )
        hint = "" if likely is None else f", which seems separated by {likely!r}"
        rule = f"must have {count} fields separated by {form.separator!r}"
        return f"{rule}, got {len(fields)}: {quoted(separated)}{hint}"
    faults = [id_fault(role, fields[places[role]], form.integer_ids) for role in ("client", "item")]
    if "rating" in places:
        faults.append(rating_fault(fields[places["rating"]], form.scale, form.unrated))
    if "time" in places and not is_time(fields[places["time"]]):
        faults.append(f"{RULE}, got {quoted(fields[places['time']])}")
    return next((fault for fault in faults if fault is not None), None)


def _lines(source: Source) -> io.TextIOWrapper:
    # Bytes that are not UTF-8 survive as surrogates, so that a message can show them.
    return io.TextIOWrapper(io.BufferedReader(source.open()), "utf-8-sig", "surrogateescape", newline="")


def _split(source: Source, form: Format) -> tuple[Record | None, Iterator[Record]]:
    """The header, where there is one, and the ratings."""
    records = _records(source, form)
    return (next(records, None) if form.header else None), records


def _records(source: Source, form: Format) -> Iterator[Record]:
    ended = True

    def watched(text: io.TextIOWrapper) -> Iterator[str]:
        nonlocal ended
        for line in text:
            ended = line.endswith(_ENDS)
            yield line

    with _lines(source) as text:
        if not form.quoted:
            for number, line in enumerate(watched(text), 1):
                if bare := line.rstrip("\r\n"):
                    yield Record(number, bare.split(form.separator), ended)
            return
        reader = csv.reader(watched(text), delimiter=form.separator)
        start = 0
        try:
            for fields in reader:
                if fields:
                    yield Record(start + 1, fields, ended)
                start = reader.line_num
        except csv.Error as error:
            raise DataError(
                f"{source.where}, line {start + 1}: cannot be read as {form.name}: {error}"
            ) from error
