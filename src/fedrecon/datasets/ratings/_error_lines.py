"""Reads text files line by line, slowly, to say which line is wrong and why."""

import csv
import io
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from fedrecon.datasets.ratings._archive import Source
from fedrecon.datasets.ratings._formats import Format
from fedrecon.datasets.ratings._reader_options import Columns
from fedrecon.datasets.ratings._validation import id_fault, quoted, rating_fault, time_fault
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


def first_fault(source: Source, found: Format, columns: Columns, otherwise: str) -> DataError:
    """The first line that breaks a rule; `otherwise` is said where none does."""
    header, records = _split(source, found)
    roles = columns._asdict()
    names = header.fields if header else list(roles)
    places = {
        role: names.index(column if header else role) for role, column in roles.items() if column is not None
    }
    last = header
    for last in records:
        fault = _fault(last, len(names), found, places)
        if fault is not None:
            return DataError(f"{source.where}, line {last.line}: {fault if last.ended else _CUT}")
    if last is not None and not last.ended:
        return DataError(f"{source.where}, line {last.line}: {_CUT}")
    return DataError(f"{source.where}: cannot be read as {found.name}: {otherwise}")


_CUT = "must end with a newline: the file seems cut short (if it is complete, append a newline)"


def truncated(source: Source) -> DataError:
    """The last line has no end."""
    with _lines(source) as text:
        last = sum(1 for _ in text)
    return DataError(f"{source.where}, line {last}: {_CUT}")


def numbers(source: Source, found: Format, rows: Sequence[int]) -> list[int]:
    """The line of each of the `rows`, which count the ratings from 0."""
    wanted = set(rows)
    lines = {row: record.line for row, record in enumerate(_split(source, found)[1]) if row in wanted}
    return [lines[row] for row in rows]


def head(source: Source, size: int = 1 << 16) -> bytes:
    """The first bytes of the file, to know its format by.

    Raises:
        DataError: There is not one.
    """
    with source.open() as stream:
        found = stream.read(size)
    if not found:
        raise DataError(f"{source.where}: must hold ratings, is empty")
    return found


def _fault(record: Record, count: int, found: Format, places: dict[str, int]) -> str | None:
    fields = record.fields
    if len(fields) != count:
        separated = found.separator.join(fields)
        likely = next(
            (s for s in ("::", "\t", ",", ";", "|") if len(separated.split(s)) == count and count > 1), None
        )
        hint = "" if likely is None else f", which seems separated by {likely!r}"
        rule = f"must have {count} fields separated by {found.separator!r}"
        return f"{rule}, got {len(fields)}: {quoted(separated)}{hint}"
    faults = [
        id_fault("client", fields[places["client"]], found.integer_ids),
        id_fault("item", fields[places["item"]], found.integer_ids),
        rating_fault(fields[places["rating"]], found.scale),
        time_fault(fields[places["time"]]) if "time" in places else None,
    ]
    return next((fault for fault in faults if fault is not None), None)


def _lines(source: Source) -> io.TextIOWrapper:
    # Bytes that are not UTF-8 survive as surrogates, so that a message can show them.
    return io.TextIOWrapper(io.BufferedReader(source.open()), "utf-8-sig", "surrogateescape", newline="")


def _split(source: Source, found: Format) -> tuple[Record | None, Iterator[Record]]:
    """The header, where there is one, and the ratings."""
    records = _records(source, found)
    return (next(records, None) if found.header else None), records


def _records(source: Source, found: Format) -> Iterator[Record]:
    ended = True

    def watched(text: io.TextIOWrapper) -> Iterator[str]:
        nonlocal ended
        for line in text:
            ended = line.endswith(_ENDS)
            yield line

    with _lines(source) as text:
        if not found.header:
            for number, line in enumerate(watched(text), 1):
                if bare := line.rstrip("\r\n"):
                    yield Record(number, bare.split(found.separator), ended)
            return
        reader = csv.reader(watched(text), delimiter=found.separator)
        start = 0
        try:
            for fields in reader:
                if fields:
                    yield Record(start + 1, fields, ended)
                start = reader.line_num
        except csv.Error as error:
            raise DataError(
                f"{source.where}, line {start + 1}: cannot be read as {found.name}: {error}"
            ) from error
