"""Rating files as arrays: MovieLens in all its formats, and any table of ratings in CSV or Parquet."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from jaxtyping import Bool, Float64

from fedrecon.data._unpacking import UNPACKED_GIB
from fedrecon.datasets.ratings import _error_lines as lines
from fedrecon.datasets.ratings._archive import Source, find
from fedrecon.datasets.ratings._columns import Ratings, Table
from fedrecon.datasets.ratings._csv import read_text
from fedrecon.datasets.ratings._formats import Format, format_of
from fedrecon.datasets.ratings._ids import FaultyRow, vocabulary
from fedrecon.datasets.ratings._parquet import read_parquet
from fedrecon.datasets.ratings._reader_options import Reading
from fedrecon.datasets.ratings._validation import GREATEST, quoted, scale_fault
from fedrecon.errors import DataError


def read_ratings(
    path: str | os.PathLike[str],
    *,
    columns: Mapping[str, str] | None = None,
    scale: Sequence[float | int] | None = None,
    duplicates: str = "error",
    unpacked_gib: float | int = UNPACKED_GIB,
) -> Ratings:
    """Reads a rating file.

    MovieLens' `ratings.dat` (1M, 10M), `ratings.csv` (latest, 20M, 25M, 32M) and `u.data` (100K) are known by
    their names or their first line. Any other table, in CSV or Parquet, is read with `columns`.

    Args:
        path: The file, or a folder or .zip archive that holds one rating file.
        columns: The names of the columns: `{"client": ..., "item": ..., "rating": ...}` and, if wanted,
            `"time"`. Then ids may be text; those that are written as 64-bit integers in the usual way are
            these integers, see `Clients.from_table`. By default those of MovieLens, whose ids must be whole
            numbers of 64 bits.
        scale: The least and the greatest rating allowed. By default (1, 5) for `u.data`, (0.5, 5) for the
            other MovieLens formats, and any finite number where `columns` are given.
        duplicates: What happens where a client rates an item twice: "error" refuses the file, "last" keeps
            the rating that comes last in the file, "all" keeps all.
        unpacked_gib: GiB that a packed file (.zip, Parquet) may unpack to; 2 by default.

    Returns:
        The ratings, in the order of the file.

    Raises:
        DataError: The file is missing, damaged, empty or cut short, or breaks a rule; the message names the
            file, the line (of Parquet, the row), the rule and the value.
        ValueError: An argument has none of the values above.
    """
    return read(find(path, columns is not None, unpacked_gib), Reading.of(columns, scale, duplicates))


def read(source: Source, reading: Reading) -> Ratings:
    """`read_ratings` of a file that is found already."""
    found = format_of(source.where, lines.head(source), reading.columns)
    if reading.scale is not None:
        found = replace(found, scale=reading.scale)
    table = read_text(source, found) if found.separator else read_parquet(source, found)
    if not len(table.rating):
        raise DataError(f"{source.where}: must hold ratings, has none")
    try:
        return _ratings(source, found, table, reading.duplicates)
    except FaultyRow as fault:
        raise DataError(
            f"{source.where}, {_places(source, found, [fault.row])[0]}: {fault.message}"
        ) from None


def _ratings(source: Source, found: Format, table: Table, duplicates: str) -> Ratings:
    text = bool(found.separator)
    clients = vocabulary("client", table.client, integer=text and found.integer_ids)
    items = vocabulary("item", table.item, integer=text and found.integer_ids)
    _check_scale(table.rating, found.scale)
    ratings = Ratings(
        clients.codes, items.codes, table.rating.astype(np.float32), table.time, clients.ids, items.ids
    )
    return ratings if duplicates == "all" else _without_duplicates(source, found, ratings, duplicates)


def _check_scale(rating: Float64[np.ndarray, "rating"], scale: tuple[float, float] | None) -> None:
    least, greatest = scale or (-GREATEST, GREATEST)
    good = (rating >= max(least, -GREATEST)) & (rating <= min(greatest, GREATEST))  # not where it is nan
    if not good.all():
        row = int(np.argmin(good))
        raise FaultyRow(row, str(scale_fault(float(rating[row]), scale)))


def _without_duplicates(source: Source, found: Format, ratings: Ratings, duplicates: str) -> Ratings:
    pairs = ratings.client.astype(np.int64) * len(ratings.item_ids) + ratings.item
    ordered = np.sort(pairs)
    if not (ordered[1:] == ordered[:-1]).any():
        return ratings
    del ordered
    order = np.argsort(pairs, kind="stable")
    again: Bool[np.ndarray, rating] = pairs[order[1:]] == pairs[order[:-1]]
    if duplicates == "error":
        second = int(order[1:][again].min())
        first = int(np.argmax(pairs == pairs[second]))
        places = _places(source, found, [first, second])
        client = ratings.client_ids[ratings.client[[second]]].tolist()[0]
        item = ratings.item_ids[ratings.item[[second]]].tolist()[0]
        raise DataError(
            f"{source.where}, {places[1]}: client {quoted(client)} must rate item {quoted(item)} "
            f"once, but did already on {places[0]} "
            '(duplicates="last", the setting data.duplicates, keeps the last rating, "all" keeps both)'
        )
    keep = np.ones(len(pairs), bool)
    keep[order[:-1][again]] = False
    return Ratings(
        ratings.client[keep],
        ratings.item[keep],
        ratings.rating[keep],
        None if ratings.time is None else ratings.time[keep],
        ratings.client_ids,
        ratings.item_ids,
    )


def _places(source: Source, found: Format, rows: list[int]) -> list[str]:
    """What a person calls these rows: lines of a text, rows of a table."""
    if not found.separator:
        return [f"row {row + 1}" for row in rows]
    return [f"line {number}" for number in lines.numbers(source, found, rows)]
