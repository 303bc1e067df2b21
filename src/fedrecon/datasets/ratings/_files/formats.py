"""The formats of rating files: how each is written, and which one a file is."""

import csv
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import PurePath

from fedrecon.datasets.ratings._files.source import JSON_SUFFIXES, PARQUET_SUFFIXES
from fedrecon.datasets.ratings._reader_options import Columns, Reading
from fedrecon.datasets.ratings._validation import NAMING, nearest, quoted
from fedrecon.errors import DataError


@dataclass(frozen=True)
class Format:
    """How a rating file is written.

    Attributes:
        name: The name of the format in messages.
        separator: The characters between the fields of a line; "" where lines have no fields.
        header: Whether the first line names the columns.
        columns: The columns that are read: names, or without a header positions in a line.
        fields: The number of fields that each line has; 0, the default, where the first line tells.
        optional: Whether a file without the time column, or with times that cannot be read, is read too;
            False by default.
        integer_ids: Whether ids must be whole numbers; otherwise they may be any text; True by default.
        scale: The least and the greatest rating allowed; None allows any finite number. By default 0.5 and 5,
            MovieLens' half stars.
        unrated: The rating that stands for none; None, the default, where there is no such.
        quoted: Whether a field may stand in quotation marks; True by default.
        is_json: Whether each line is an object of JSON; False by default.
    """

    name: str
    separator: str
    header: bool
    columns: Columns
    fields: int = 0
    optional: bool = False
    integer_ids: bool = True
    scale: tuple[float, float] | None = (0.5, 5.0)
    unrated: float | None = None
    quoted: bool = True
    is_json: bool = False

    @property
    def is_text(self) -> bool:
        """Whether the file consists of lines of fields."""
        return bool(self.separator)


_MOVIELENS = Columns("userId", "movieId", "rating", "timestamp")
_POSITIONS = Columns(1, 2, 3, 4)
# RecBole's names of columns, which its headers follow by the kinds of their values.
_RECBOLE = {"client": "user_id", "item": "item_id", "rating": "rating", "time": "timestamp"}
_WORD = re.compile(r"[A-Za-z_]{2}")  # in names of columns, and seldom in ids and numbers
_MATRIX = 20  # fields of a line that has no names, of which a rating has no more
_KIND = re.compile(r":(?:token|float|token_seq|float_seq)$")

# Half stars came with MovieLens 10M, which is written like 1M; 100K and 1M have whole stars from 1 on.
DAT = Format("ratings.dat", "::", False, _POSITIONS, fields=4, quoted=False)
U_DATA = Format("u.data", "\t", False, _POSITIONS, fields=4, scale=(1.0, 5.0), quoted=False)
CSV = Format("a comma-separated table", ",", True, _MOVIELENS, optional=True)
PARQUET = replace(CSV, name="Parquet", separator="")
JSON = replace(CSV, name="JSON Lines", separator="", is_json=True)
_NAMES = {
    ",": "a comma-separated table",
    ";": "a semicolon-separated table",
    "\t": "a tab-separated table",
    "|": "a table separated by '|'",
    " ": "a table separated by spaces",
    "::": "a table separated by '::'",
}
# How files begin that are no tables, and what is to be done with them.
_BINARY = {
    b"PK\x03\x04": "is a zip archive or an Excel workbook: an archive's name must end in .zip, a "
    "workbook must be saved as CSV",
    b"\xd0\xcf\x11\xe0": "is an Excel workbook, which must be saved as CSV",
    b"Rar!": "is a RAR archive, which must be unpacked first",
    b"7z\xbc\xaf": "is a 7z archive, which must be unpacked first",
    b"\x89HDF": "is an HDF5 file, whose table must be saved as Parquet or CSV",
    b"SQLite format 3": "is an SQLite file, whose table must be saved as Parquet or CSV",
    b"ARROW1": "is an Arrow file without ratings by client; its table must be saved as Parquet",
}
_TAR = 257, b"ustar"


def format_of(name: str, head: bytes, reading: Reading, where: str) -> Format:
    """The format of a file, known by its first bytes or else by its name.

    Args:
        name: The name of the file, without the suffix of its packing.
        head: The first bytes of the file.
        reading: The options with which the file is read. A table with `columns` is the caller's own: its ids
            may be text, its ratings any finite number.
        where: The name of the file in messages.

    Raises:
        DataError: Nothing tells the format; it is one that is not read, and the message says what to do; or
            columns are asked for by name of a format without names, or the other way round.
    """
    suffix = PurePath(name).suffix.lower()
    columns = reading.columns
    if head.startswith(b"PAR1") or suffix in PARQUET_SUFFIXES:
        return take_own_columns(PARQUET, columns, where)
    _refuse_binary(where, head)
    line = first_line(head)
    if line.startswith("{") or suffix in JSON_SUFFIXES:
        if line.startswith("["):
            raise DataError(
                f"{where}: must be JSON Lines, an object on each line, got an array: `jq -c '.[]' IN > OUT` "
                "makes them of it"
            )
        return take_own_columns(JSON, columns, where)
    if re.fullmatch(r"[0-9]+:", line):
        raise DataError(
            f"{where}, line 1: must have fields, got {quoted(line)}: the lines of the Netflix Prize name the "
            "film of those that follow, and must be written as client,item,rating,time first"
        )
    if columns is not None:
        return _detect_own_text(suffix, line, columns, reading.separator)
    return _detect_public_text(suffix, line, reading.separator, where)


def take_own_columns(form: Format, columns: Columns | None, where: str) -> Format:
    """The format of a table with columns of the caller's own, which all have names."""
    if columns is None:
        return form
    if columns.by_position:
        raise DataError(
            f"{where}: columns must be given by name, as {form.name} names them, got the positions "
            f"{[column for column in columns if column is not None]}"
        )
    return replace(form, columns=columns, optional=False, integer_ids=False, scale=None)


def _detect_own_text(suffix: str, line: str, columns: Columns, separator: str) -> Format:
    separator = separator or _detect_separator(line, suffix, columns)
    return Format(
        _NAMES[separator],
        separator,
        not columns.by_position,
        columns,
        integer_ids=False,
        scale=None,
        # Titles with quotation marks are frequent where tabs separate them, and then mean themselves.
        quoted=separator in ",;|" or (separator == "\t" and not columns.by_position),
    )


def _detect_public_text(suffix: str, line: str, separator: str, where: str) -> Format:
    """The format of a text whose columns nobody named."""
    typed = next((s for s in ("\t", ",", ";", " ") if _find_recbole_columns(line.split(s)) is not None), None)
    if typed is not None:
        columns = _find_recbole_columns(line.split(typed))
        assert columns is not None
        return Format(
            "RecBole's interactions", typed, True, columns, integer_ids=False, scale=None, quoted=False
        )
    if separator:
        table = replace(CSV, name=_NAMES[separator], separator=separator, quoted=separator != "::")
        return next(
            (form for form in (DAT, U_DATA) if form.separator == separator and _is_row(line, form)), table
        )
    if "::" in line or (suffix == ".dat" and not any(s in line for s in "\t,;|")):
        return DAT
    if suffix == ".data" or ("\t" in line and _is_row(line, U_DATA)):
        return U_DATA
    separator = _detect_separator(line, suffix, _MOVIELENS)
    if separator == " ":
        raise DataError(
            f"{where}, line 1: must have fields separated by '::', a tab, ',' or ';', got "
            f"{quoted(line)}; the columns of a table that names none are given by their positions, such as "
            "data.columns.client = 1"
        )
    return replace(CSV, name=_NAMES[separator], separator=separator)


def _is_row(line: str, form: Format) -> bool:
    """Whether a line looks like a rating of a format without a header, and not like names of columns."""
    fields = line.split(form.separator)
    return len(fields) == form.fields and not any(_WORD.search(field) for field in fields)


def _detect_separator(line: str, suffix: str, columns: Columns) -> str:
    """The separator with which a line has the columns that are wanted, or else the most fields."""
    wanted = [str(column) for column in columns if isinstance(column, str)]

    def fitness(separator: str) -> tuple[int, int, bool]:
        fields = split(line, separator)
        return (
            sum(name in fields for name in wanted),
            len(fields),
            separator == {".tsv": "\t"}.get(suffix, ","),
        )

    best = max(("\t", ";", ",", "|", "::"), key=fitness)
    return best if len(split(line, best)) > 1 or " " not in line else " "


def split(line: str, separator: str) -> list[str]:
    """The fields of a line, without their quotation marks."""
    if len(separator) > 1:
        return line.split(separator)
    return next(csv.reader([line], delimiter=separator), [])


def _find_recbole_columns(names: Sequence[str]) -> Columns | None:
    """The columns of a header of RecBole's; None where it is another one."""
    plain = {_KIND.sub("", name): name for name in names if _KIND.search(name)}
    if not {"user_id", "item_id"} <= plain.keys():
        return None
    return Columns(**{role: plain[name] for role, name in _RECBOLE.items() if name in plain})


def _refuse_binary(where: str, head: bytes) -> None:
    for mark, remedy in _BINARY.items():
        if head.startswith(mark):
            raise DataError(f"{where}: {remedy}")
    if head[_TAR[0] :].startswith(_TAR[1]):
        raise DataError(f"{where}: is a tar archive, which must be unpacked first: tar -xf")
    if b"\0" in head:
        wide = head.startswith((b"\xff\xfe", b"\xfe\xff"))
        hint = '; it seems to be UTF-16: data.encoding = "utf-16" reads it' if wide else ""
        raise DataError(
            f"{where}: must be UTF-8 text or Parquet, but holds a byte 0 at offset {head.index(0)}{hint}"
        )


def first_line(head: bytes) -> str:
    """The first line that is not blank, without a byte order mark; "" where there is none."""
    lines = head.decode("utf-8-sig", "surrogateescape").splitlines()
    return next((line for line in lines if line), "")


def find_text_columns(where: str, line: str, form: Format) -> tuple[Columns, int]:
    """The columns to read from a table whose first line is `line`, and how many fields its lines have.

    Raises:
        DataError: A column is missing, or is there twice.
    """
    names = split(line, form.separator)
    if form.header:
        return find_columns(f"{where}, line 1", names, form), len(names)
    fields = form.fields or len(names)
    for role, position in _given(form.columns).items():
        if isinstance(position, int) and position > fields:
            raise DataError(
                f"{where}, line 1: must have a field {position} (the {role}), has {len(names)} separated by "
                f"{form.separator!r}: {quoted(line)}"
            )
    return form.columns, fields


def find_columns(where: str, names: Sequence[str], form: Format) -> Columns:
    """`form.columns`, less the time where it is optional and not among `names`."""
    columns = form.columns
    if form.optional and columns.time not in names:
        columns = columns._replace(time=None)
    typed = {_KIND.sub("", name): name for name in names if _KIND.search(name)}
    for role, column in _given(columns).items():
        if column not in names and column in typed:  # RecBole's, without the kind of its values
            columns = columns._replace(**{role: typed[str(column)]})
            continue
        count = names.count(str(column))
        if count == 0:
            raise DataError(
                f"{where}: must have a column {quoted(column)} (the {role}){_names(column, names, form)}"
            )
        if count > 1:
            raise DataError(f"{where}: must have one column {quoted(column)} (the {role}), has {count}")
    return columns


def _names(column: str | int, names: Sequence[str], form: Format) -> str:
    """The end of a message about a column that is not among `names`: what there is, and what to do."""
    is_row = form.is_text and not any(_WORD.search(name) for name in names)
    if is_row and len(names) > _MATRIX:
        return (
            f", has {len(names)} fields without names: a matrix with a row for each client must be written "
            "with a row for each rating first"
        )
    end = f"{nearest(str(column), names)}; it has {', '.join(map(quoted, names[:20]))}"
    if form.integer_ids:
        end += f"; one's own are named by columns, {NAMING}"
    return end + (
        "; in a file without a header they are positions, such as data.columns.client = 1" if is_row else ""
    )


def _given(columns: Columns) -> Mapping[str, str | int]:
    """The columns that are read, by their roles."""
    return {role: column for role, column in columns._asdict().items() if column is not None}
