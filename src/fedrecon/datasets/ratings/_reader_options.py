"""How a rating file is to be read, apart from its format."""

import codecs
import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from fedrecon.datasets.ratings._validation import GREATEST, nearest
from fedrecon.errors import plain

ANY_SCALE = (-GREATEST, GREATEST)
DUPLICATES = ("error", "last", "all")
SEPARATORS = (",", ";", "\t", "|", " ", "::")
# The name of a column, or where a file has no header its position, counted from 1.
Column = str | int


class Columns(NamedTuple):
    """The columns of a table that are read: all by their names, or all by their positions.

    Attributes:
        client: The column of the client.
        item: The column of the item.
        rating: The column of the rating; None, the default, reads items without ratings.
        time: The column of the time; None, the default, reads no time.
    """

    client: Column
    item: Column
    rating: Column | None = None
    time: Column | None = None

    @property
    def by_position(self) -> bool:
        """Whether the columns are positions in a file without a header."""
        return isinstance(self.client, int)

    @staticmethod
    def of(names: Mapping[str, Column]) -> "Columns":
        """The columns of a setting such as `{"client": "user", "item": "isbn", "rating": "stars"}`.

        Raises:
            ValueError: A key that is none of `client`, `item`, `rating`, `time`; one of the first two
                missing; a column used twice; names beside positions, or a position below 1.
        """
        for key in names:
            if key not in Columns._fields:
                known = Columns._fields
                raise ValueError(f"columns must name {', '.join(known)}, got {key!r}{nearest(key, known)}")
        for key in ("client", "item"):
            if key not in names:
                raise ValueError(f"columns must name the {key} column, got {dict(names)}")
        if len(set(names.values())) < len(names):
            raise ValueError(f"columns must name each column once, got {dict(names)}")
        if len({isinstance(column, int) for column in names.values()}) > 1:
            raise ValueError(
                "columns must be names or, in a file without a header, positions, and not both, got "
                f"{dict(names)}"
            )
        for column in names.values():
            if isinstance(column, bool) or (isinstance(column, int) and column < 1):
                raise ValueError(f"columns must be names, or positions from 1 on, got {column!r}")
        return Columns(**names)


class Reading(NamedTuple):
    """How a rating file is read; the parameters are those of `read_ratings`."""

    columns: Columns | None
    scale: tuple[float, float] | None
    duplicates: str
    separator: str
    encoding: str
    unrated: float | None

    @staticmethod
    def of(
        columns: Mapping[str, Column] | None,
        scale: Sequence[float | int] | None,
        duplicates: str,
        separator: str = "",
        encoding: str = "utf-8",
        unrated: float | int | None = None,
    ) -> "Reading":
        """The checked parameters.

        Raises:
            ValueError: An argument of `read_ratings` is out of its range.
        """
        if duplicates not in DUPLICATES:
            raise ValueError(f"duplicates must be one of {', '.join(DUPLICATES)}, got {duplicates!r}")
        if scale is not None and (len(scale) != 2 or not scale[0] < scale[1]):
            raise ValueError(f"scale must be (least, greatest) with least < greatest, got {scale!r}")
        if separator and separator not in SEPARATORS:
            allowed = ", ".join(map(repr, SEPARATORS))
            raise ValueError(
                f'separator must be one of {allowed}, or "" to be told from the file, got {separator!r}'
            )
        try:
            is_utf_8 = codecs.lookup(encoding).name == "utf-8"
            "".encode(encoding)  # which codecs that make no text refuse
        except (LookupError, ValueError, TypeError):
            raise ValueError(
                f"encoding must be one that Python knows, such as utf-8 or latin-1, got {encoding!r}"
            ) from None
        if unrated is not None and (isinstance(unrated, bool) or not math.isfinite(unrated)):
            raise ValueError(f"unrated must be a finite number, got {plain(unrated)}")
        bounds = None if scale is None else (float(scale[0]), float(scale[1]))
        return Reading(
            None if columns is None else Columns.of(columns),
            bounds,
            duplicates,
            separator,
            "utf-8" if is_utf_8 else encoding,
            None if unrated is None else float(unrated),
        )
