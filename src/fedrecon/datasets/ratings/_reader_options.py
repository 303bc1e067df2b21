"""How a rating file is to be read, apart from its format."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from fedrecon.datasets.ratings._validation import nearest

DUPLICATES = ("error", "last", "all")


class Columns(NamedTuple):
    """The names of a table's columns that are read.

    Attributes:
        client: The name of the column of the client.
        item: The name of the column of the item.
        rating: The name of the column of the rating.
        time: When, as whole numbers (or, in Parquet, also dates or timestamps); None reads no time.
    """

    client: str
    item: str
    rating: str
    time: str | None = None

    @staticmethod
    def of(names: Mapping[str, str]) -> "Columns":
        """The columns of a setting such as `{"client": "user", "item": "isbn", "rating": "stars"}`.

        Raises:
            ValueError: A key that is none of `client`, `item`, `rating`, `time`; one of the first three
                missing; a column used twice.
        """
        for key in names:
            if key not in Columns._fields:
                known = Columns._fields
                raise ValueError(f"columns must name {', '.join(known)}, got {key!r}{nearest(key, known)}")
        for key in ("client", "item", "rating"):
            if key not in names:
                raise ValueError(f"columns must name the {key} column, got {dict(names)}")
        if len(set(names.values())) < len(names):
            raise ValueError(f"columns must name each column once, got {dict(names)}")
        return Columns(**names)


class Reading(NamedTuple):
    """How a rating file is read; the parameters are those of `read_ratings`."""

    columns: Columns | None
    scale: tuple[float, float] | None
    duplicates: str

    @staticmethod
    def of(
        columns: Mapping[str, str] | None, scale: Sequence[float | int] | None, duplicates: str
    ) -> "Reading":
        """The checked parameters.

        Raises:
            ValueError: An argument of `read_ratings` is out of its range.
        """
        if duplicates not in DUPLICATES:
            raise ValueError(f"duplicates must be one of {', '.join(DUPLICATES)}, got {duplicates!r}")
        if scale is not None and (len(scale) != 2 or not scale[0] < scale[1]):
            raise ValueError(f"scale must be (least, greatest) with least < greatest, got {scale!r}")
        bounds = None if scale is None else (float(scale[0]), float(scale[1]))
        return Reading(None if columns is None else Columns.of(columns), bounds, duplicates)
