"""Rating files as a federation: converted once into a client file, which serves until the source changes."""

import os
from collections.abc import Mapping, Sequence

import numpy as np

from fedrecon.data._cache import load_or_convert
from fedrecon.data._clients import Clients
from fedrecon.data._columns import offsets_of
from fedrecon.data._table_ids import table_keys
from fedrecon.data._unpacking import UNPACKED_GIB
from fedrecon.datasets.ratings._columns import Ratings, stable_order
from fedrecon.datasets.ratings._files.find import find
from fedrecon.datasets.ratings._files.layout import describe
from fedrecon.datasets.ratings._reader_options import Column, Reading

_VERSION = 3  # of what is made from a source and its settings


def prepare(
    path: str | os.PathLike[str],
    *,
    columns: Mapping[str, Column] | None = None,
    scale: Sequence[float | int] | None = None,
    duplicates: str = "error",
    separator: str = "",
    encoding: str = "utf-8",
    unrated: float | int | None = None,
    unpacked_gib: float | int = UNPACKED_GIB,
    cache: str | os.PathLike[str] | None = None,
) -> Clients:
    """The clients of a rating file, mapped from a client file that is made when it is needed.

    The client file is made whole or not at all, and anew when the source, a parameter or the version of the
    conversion changes; the one made from the former source is then removed.

    Args:
        path: The file, folder or archive, as for `read_ratings`.
        columns: The names of the columns, as for `read_ratings`; None, the default, for those of a format
            with known columns.
        scale: The lowest and highest rating, as for `read_ratings`; None, the default, for those of the
            format.
        duplicates: The treatment of items that a client rates twice, one of the values of `read_ratings`;
            "error" by default.
        separator: The separator between the fields of a text, as for `read_ratings`; by default the first
            line tells.
        encoding: The encoding of a text, as for `read_ratings`; UTF-8 by default.
        unrated: The rating that stands for none, as for `read_ratings`; None, the default, for no such
            rating.
        unpacked_gib: The number of GiB that a packed file may unpack to, as for `read_ratings`; 2 by default.
        cache: The folder of the client files; by default `cache_folder()`.

    Returns:
        Clients in the order of their ids, with the fields `item` (dense ids, int32; their original ids are
        `vocabularies["item"]`) and, where the source has them, `rating` (float32) and `time` (whole numbers,
        or floats where some have a fraction). A client's ratings are in the order of the source.

    Raises:
        DataError: The source cannot be read, see `read_ratings`; it changed while it was read; or the folder
            cannot be written.
        ValueError: An argument of `read_ratings` is out of its range.
    """
    reading = Reading.of(columns, scale, duplicates, separator, encoding, unrated)
    source = find(path, reading, unpacked_gib)

    def convert() -> Clients:
        from fedrecon.datasets.ratings._load import read  # what reads text takes long to import

        return group(read(source, reading))

    return load_or_convert(
        convert,
        kind="ratings",
        facts=(_VERSION, str(source.path.resolve()), source.member, tuple(reading)),
        fingerprint=source.fingerprint,
        where=source.where,
        folder=cache,
    )


def describe_source(
    path: str | os.PathLike[str],
    *,
    columns: Mapping[str, Column] | None = None,
    separator: str = "",
    encoding: str = "utf-8",
    unrated: float | int | None = None,
    unpacked_gib: float | int = UNPACKED_GIB,
) -> str:
    """How `prepare` reads a rating file, for a person: its format, and its columns with their roles.

    Args:
        path: The file, folder or archive, as for `read_ratings`.
        columns: The names of the columns, as for `read_ratings`; None, the default, for those of a format
            with known columns.
        separator: The separator between the fields of a text, as for `read_ratings`; by default the first
            line tells.
        encoding: The encoding of a text, as for `read_ratings`; UTF-8 by default.
        unrated: The rating that stands for none, as for `read_ratings`; None, the default, for no such
            rating.
        unpacked_gib: The number of GiB that a packed file may unpack to, as for `read_ratings`; 2 by default.

    Raises:
        DataError: The file cannot be read, or lacks a column.
        ValueError: An argument of `read_ratings` is out of its range.
    """
    reading = Reading.of(columns, None, "all", separator, encoding, unrated)
    return describe(find(path, reading, unpacked_gib), reading)


def group(ratings: Ratings) -> Clients:
    """The ratings by client, each client's in the order given."""
    columns: dict[str, np.ndarray] = {"item": ratings.item}
    if ratings.rating is not None:
        columns["rating"] = ratings.rating
    if ratings.time is not None:
        columns["time"] = ratings.time
    if np.any(ratings.client[1:] < ratings.client[:-1]):
        order = stable_order(ratings.client)
        columns = {name: column[order] for name, column in columns.items()}
    counts = np.bincount(ratings.client, minlength=len(ratings.client_ids))
    ids = ratings.client_ids
    return Clients.from_columns(ids, offsets_of(counts), columns, {"item": ratings.item_ids}, table_keys(ids))
