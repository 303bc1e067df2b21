"""The formats of rating files: how each is written, and which one a file is."""

import csv
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import PurePath

from fedrecon.datasets.ratings._reader_options import Columns
from fedrecon.datasets.ratings._validation import nearest, quoted
from fedrecon.errors import DataError


@dataclass(frozen=True)
class Format:
    """How a rating file is written.

    Attributes:
        name: The name of the format in messages.
        separator: Between the fields of a line; "" in a binary format.
        header: Whether the first line names the columns.
        columns: The names of the fields; without a header, the fields of a line in their order.
        optional_time: Whether a file without the time column is read too.
        integer_ids: Whether ids must be whole numbers; otherwise they may be any text.
        scale: The least and the greatest rating allowed; None allows any finite number.
    """

    name: str
    separator: str
    header: bool
    columns: Columns
    optional_time: bool = False
    integer_ids: bool = True
    scale: tuple[float, float] | None = (0.5, 5.0)


_MOVIELENS = Columns("userId", "movieId", "rating", "timestamp")
_POSITIONS = Columns("client", "item", "rating", "time")

# Half stars came with MovieLens 10M, which is written like 1M; 100K and 1M have whole stars from 1 on.
DAT = Format("ratings.dat", "::", False, _POSITIONS)
U_DATA = Format("u.data", "\t", False, _POSITIONS, scale=(1.0, 5.0))
CSV = Format("a comma-separated table", ",", True, _MOVIELENS, optional_time=True)
TSV = replace(CSV, name="a tab-separated table", separator="\t")
PARQUET = replace(CSV, name="Parquet", separator="")


def format_of(name: str, head: bytes, columns: Columns | None) -> Format:
    """The format of the file `name`, known by its name or else by its first line.

    Args:
        name: The name of the file.
        head: The first bytes of the file.
        columns: The columns asked for. A table that has them is the caller's own: its ids may be text,
            its ratings any finite number.

    Raises:
        DataError: Nothing tells the format, or `columns` are asked of a format without column names.
    """
    suffix = PurePath(name).suffix.lower()
    if head.startswith(b"PAR1") or suffix in (".parquet", ".pq"):
        found = PARQUET
    elif b"\0" in head:
        raise DataError(
            f"{name}: must be UTF-8 text or Parquet, but holds a byte 0 at offset {head.index(0)}"
        )
    else:
        found = _text_format(name, suffix, head, columns)
    if columns is None:
        return found
    if found in (DAT, U_DATA):
        raise DataError(
            f"{name}: columns can be given only for a table that names them, and {found.name} has no header"
        )
    return replace(found, columns=columns, optional_time=False, integer_ids=False, scale=None)


def _text_format(name: str, suffix: str, head: bytes, columns: Columns | None) -> Format:
    known = {".dat": DAT, ".data": U_DATA, ".csv": CSV, ".tsv": TSV}
    if suffix in known:
        return known[suffix]
    line = first_line(head)
    if columns is not None:
        return TSV if "\t" in line else CSV
    for found in (DAT, U_DATA, CSV):
        if found.separator in line:
            return found
    raise DataError(f"{name}, line 1: must have fields separated by '::', a tab or ',', got {quoted(line)}")


def first_line(head: bytes) -> str:
    """The first line that is not blank, without a byte order mark; "" where there is none."""
    lines = head.decode("utf-8-sig", "surrogateescape").splitlines()
    return next((line for line in lines if line), "")


def header_columns(where: str, line: str, found: Format) -> Columns:
    """The columns to read from a table with the header `line`.

    Raises:
        DataError: A column is missing, or is there twice.
    """
    names = next(csv.reader([line], delimiter=found.separator), [])
    for other in ("\t", ";", ",", "|"):
        if len(names) == 1 and other in line:
            raise DataError(
                f"{where}, line 1: columns must be separated by {found.separator!r}, got {quoted(line)}, "
                f"which seems separated by {other!r}"
            )
    return present_columns(f"{where}, line 1", names, found)


def present_columns(where: str, names: Sequence[str], found: Format) -> Columns:
    """`found.columns`, less the time where it is optional and not among `names`."""
    columns = found.columns
    if found.optional_time and columns.time not in names:
        columns = columns._replace(time=None)
    for role, column in columns._asdict().items():
        count = 1 if column is None else names.count(column)
        if count == 0:
            own = "; one's own are named by columns, the settings data.columns.client, .item and .rating"
            raise DataError(
                f"{where}: must have a column {quoted(column)} (the {role}){nearest(column, names)}; "
                f"it has {', '.join(map(quoted, names[:20]))}{own if found.integer_ids else ''}"
            )
        if count > 1:
            raise DataError(f"{where}: must have one column {quoted(column)} (the {role}), has {count}")
    return columns
