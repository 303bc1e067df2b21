"""Rating files as arrays: MovieLens in all its formats, and any table of ratings in text, JSON or Parquet."""

import os
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from jaxtyping import Bool, Float64, Int64

from fedrecon.data._arrow_bridge import to_arrow, to_numpy
from fedrecon.data._unpacking import UNPACKED_GIB
from fedrecon.datasets.ratings._columns import Ratings, Table, stable_order
from fedrecon.datasets.ratings._files import error_lines as lines
from fedrecon.datasets.ratings._files.csv import read_text
from fedrecon.datasets.ratings._files.find import find
from fedrecon.datasets.ratings._files.formats import Format
from fedrecon.datasets.ratings._files.json import find_lines, read_json
from fedrecon.datasets.ratings._files.layout import detect_format
from fedrecon.datasets.ratings._files.parquet import LENSKIT, read_lenskit, read_parquet
from fedrecon.datasets.ratings._files.source import Source
from fedrecon.datasets.ratings._ids import FaultyRow, vocabulary
from fedrecon.datasets.ratings._reader_options import Column, Reading
from fedrecon.datasets.ratings._validation import GREATEST, quoted, scale_fault
from fedrecon.errors import DataError


def read_ratings(
    path: str | os.PathLike[str],
    *,
    columns: Mapping[str, Column] | None = None,
    scale: Sequence[float | int] | None = None,
    duplicates: str = "error",
    separator: str = "",
    encoding: str = "utf-8",
    unrated: float | int | None = None,
    unpacked_gib: float | int = UNPACKED_GIB,
) -> Ratings:
    """Reads a rating file.

    MovieLens' `ratings.dat` (1M, 10M), `ratings.csv` (latest, 20M, 25M, 32M) and `u.data` (100K), RecBole's
    `.inter` and a folder that LensKit saved are known by their names or their first line. Any other table, in
    CSV, JSON Lines or Parquet, is read with `columns`. Text and JSON may be packed as .gz, .bz2, .xz, .lzma
    or .zst.

    Args:
        path: The file; a folder or .zip archive that holds one rating file; or a folder of the Parquet parts
            of one table.
        columns: The names of the columns, `{"client": ..., "item": ...}` and, if wanted, `"rating"` and
            `"time"`; or in a text without a header their positions, counted from 1. Without `"rating"` the
            file has items alone. Ids may be text; those that are written as 64-bit integers in the usual way
            are these integers, see `Clients.from_table`. By default those of MovieLens, whose ids must be
            whole numbers of 64 bits. Times are whole numbers, floats, or dates (ISO 8601 and
            `Wed Aug 30 00:00:26 -0700 2017`).
        scale: The least and the greatest rating allowed. By default (1, 5) for `u.data`, (0.5, 5) for the
            other MovieLens formats, and any finite number where `columns` are given.
        duplicates: The treatment of items that a client rates twice: "error", the default, refuses the file,
            "last" keeps the rating that comes last in the file, "all" keeps all.
        separator: The separator between the fields of a text: ",", ";", tab, "|", space or "::"; by default
            the first line tells. Where it is no comma, ratings may have a decimal comma.
        encoding: The encoding of a text, such as "latin-1"; UTF-8 by default.
        unrated: The rating that stands for none, such as 0 in Book-Crossing, whose rows are left out; None by
            default.
        unpacked_gib: GiB that a packed file (.gz, .zip, Parquet and others) may unpack to; 2 by default.

    Returns:
        The ratings, in the order of the file.

    Raises:
        DataError: The file is missing, damaged, empty or cut short, or breaks a rule; the message names the
            file, the line (of Parquet, the row), the rule and the value.
        ValueError: An argument has none of the values above.
    """
    reading = Reading.of(columns, scale, duplicates, separator, encoding, unrated)
    return read(find(path, reading, unpacked_gib), reading)


def read(source: Source, reading: Reading) -> Ratings:
    """`read_ratings` of a file that is found already."""
    if source.is_lenskit:
        form, table = LENSKIT, read_lenskit(source, reading.columns)
    else:
        form = detect_format(source, reading)
        reader = read_text if form.is_text else read_json if form.is_json else read_parquet
        table = reader(source, form)
    rows = None if reading.unrated is None else _find_rated_rows(table, reading.unrated)
    if rows is not None:
        table = _take_rows(table, rows)
    if not len(table.client):
        raise DataError(f"{source.where}: must hold ratings, has none")
    places = Places(source, form, rows)
    try:
        return _ratings(table, form, reading, places)
    except FaultyRow as fault:
        raise DataError(f"{source.where}, {places.of([fault.row])[0]}: {fault.message}") from None


class Places(NamedTuple):
    """What a person calls the rows of a source: lines of a text, rows of a table.

    Attributes:
        source: The rating file.
        form: The format in which the file is written.
        rows: The rows of the file that were read, `[rating]`; None for all.
    """

    source: Source
    form: Format
    rows: Int64[np.ndarray, "rating"] | None

    def of(self, ratings: list[int]) -> list[str]:
        """The names of the rows of some ratings, which are counted from 0."""
        rows = ratings if self.rows is None else self.rows[ratings].tolist()
        if self.form.is_text:
            return [f"line {number}" for number in lines.numbers(self.source, self.form, rows)]
        if self.form.is_json:
            return [f"line {number}" for number in find_lines(self.source, rows)]
        return [f"row {row + 1}" for row in rows]


def _find_rated_rows(table: Table, unrated: float) -> Int64[np.ndarray, "row"] | None:
    """The rows that hold a rating; None where all do."""
    if table.rating is None:
        return None
    rows = np.flatnonzero(table.rating != unrated)
    return None if len(rows) == len(table.rating) else rows


def _take_rows(table: Table, rows: Int64[np.ndarray, "row"]) -> Table:
    """Some rows of a table; ids that none of these has are forgotten."""

    def ids(column: pa.DictionaryArray) -> pa.DictionaryArray:
        used, codes = np.unique(to_numpy(column.indices)[rows], return_inverse=True)
        return pa.DictionaryArray.from_arrays(
            to_arrow(codes.astype(np.int32)), column.dictionary.take(to_arrow(used))
        )

    rating, time = (None if column is None else column[rows] for column in (table.rating, table.time))
    return Table(ids(table.client), ids(table.item), rating, time)


def _ratings(table: Table, form: Format, reading: Reading, places: Places) -> Ratings:
    integer = form.is_text and form.integer_ids
    clients = vocabulary("client", table.client, integer=integer)
    items = vocabulary("item", table.item, integer=integer)
    values = None
    if table.rating is not None:
        check_scale(table.rating, form.scale if reading.scale is None else reading.scale)
        values = table.rating.astype(np.float32)
    ratings = Ratings(clients.codes, items.codes, values, table.time, clients.ids, items.ids)
    return (
        ratings if reading.duplicates == "all" else _without_duplicates(ratings, reading.duplicates, places)
    )


def check_scale(rating: Float64[np.ndarray, "rating"], scale: tuple[float, float] | None) -> None:
    """Checks that ratings are finite and within a scale.

    Raises:
        FaultyRow: Naming the first that is not.
    """
    least, greatest = scale or (-GREATEST, GREATEST)
    good = (rating >= max(least, -GREATEST)) & (rating <= min(greatest, GREATEST))  # not where it is nan
    if not good.all():
        row = int(np.argmin(good))
        raise FaultyRow(row, str(scale_fault(float(rating[row]), scale)))


def _without_duplicates(ratings: Ratings, duplicates: str, places: Places) -> Ratings:
    pairs = ratings.client.astype(np.int64) * len(ratings.item_ids) + ratings.item
    ordered = np.sort(pairs)
    if not (ordered[1:] == ordered[:-1]).any():
        return ratings
    del ordered
    order = stable_order(pairs)
    again: Bool[np.ndarray, rating] = pairs[order[1:]] == pairs[order[:-1]]
    if duplicates == "error":
        second = int(order[1:][again].min())
        first = int(np.argmax(pairs == pairs[second]))
        one, other = places.of([first, second])
        client = ratings.client_ids[ratings.client[[second]]].tolist()[0]
        item = ratings.item_ids[ratings.item[[second]]].tolist()[0]
        raise DataError(
            f"{places.source.where}, {other}: client {quoted(client)} must rate item {quoted(item)} "
            f"once, but did already on {one} "
            '(duplicates="last", the setting data.duplicates, keeps the last rating, "all" keeps both)'
        )
    keep = np.ones(len(pairs), bool)
    keep[order[:-1][again]] = False
    return Ratings(
        ratings.client[keep],
        ratings.item[keep],
        None if ratings.rating is None else ratings.rating[keep],
        None if ratings.time is None else ratings.time[keep],
        ratings.client_ids,
        ratings.item_ids,
    )
