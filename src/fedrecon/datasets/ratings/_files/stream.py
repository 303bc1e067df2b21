"""Rating files of any format piece by piece, in the memory of a piece, by the rules of the readers."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from jaxtyping import Float64

from fedrecon.data._arrow_bridge import is_text, one_chunk, to_numpy
from fedrecon.datasets.ratings._columns import Times
from fedrecon.datasets.ratings._files.csv import NoTimes, OtherWay, stream_text
from fedrecon.datasets.ratings._files.formats import Format
from fedrecon.datasets.ratings._files.json import read_json
from fedrecon.datasets.ratings._files.parquet import stream_parquet
from fedrecon.datasets.ratings._files.source import Source
from fedrecon.datasets.ratings._files.times import NUMBERS, parse_times_of_form
from fedrecon.errors import DataError

_ROWS = 1 << 18


class Piece(NamedTuple):
    """Some ratings of a file, in the file's order.

    Attributes:
        client: The client of each rating, a dictionary-encoded array `[rating]`.
        item: The item of each rating, a dictionary-encoded array `[rating]`.
        rating: The value of each rating, `[rating]`; None where there are items without ratings.
        time: The time of each rating, `[rating]`; None without times.
        form: The form in which the times are written, of which all of a file's are; `""` without times.
        share: Which share of the file is read by then, from 0 to 1.
    """

    client: Any
    item: Any
    rating: Float64[np.ndarray, "rating"] | None
    time: Times | None
    form: str
    share: float


def stream(source: Source, form: Format, restart: Callable[[], None]) -> Iterator[Piece]:
    """The ratings of a file, piece by piece.

    Args:
        source: The file.
        form: How it is written.
        restart: Forgets the pieces so far, since the file must be read in another way from the start.

    Raises:
        DataError: The file cannot be read.
    """
    try:
        yield from _pieces(source, form, restart)
    except NoTimes:  # as the readers do, which see all times before they keep one
        restart()
        yield from _pieces(source, without_times(form), restart)


def without_times(form: Format) -> Format:
    """A format whose times are not read."""
    return replace(form, columns=form.columns._replace(time=None), optional=False)


def _pieces(source: Source, form: Format, restart: Callable[[], None]) -> Iterator[Piece]:
    if form.is_json:  # which is read at once, since Arrow's pieces do not name the line of a fault
        table = read_json(source, form)
        yield Piece(*table, _form_of(table.time), 1.0)
        return
    if form.is_text:
        pieces = _stream_text(source, form, restart)
    else:
        pieces = (
            Piece(*table, written, share) for table, written, share in stream_parquet(source, form, _ROWS)
        )
    first = ""
    for piece in pieces:
        first = first or piece.form
        if form.optional and piece.form != first:
            raise NoTimes
        yield piece


def _stream_text(source: Source, form: Format, restart: Callable[[], None]) -> Iterator[Piece]:
    size = source.path.stat().st_size
    way = 0
    while True:
        try:
            for columns, table, done in stream_text(source, form, way):
                rating = None if columns.rating is None else to_numpy(table[str(columns.rating)])
                written, time = ("", None) if columns.time is None else _times(table[str(columns.time)])
                if columns.time is not None and time is None:
                    if form.optional:
                        raise NoTimes
                    raise DataError(
                        f"{source.where}: column {columns.time!r} (the time) must hold numbers alone, or "
                        "dates of one form alone"
                    )
                client, item = (one_chunk(table[str(column)]) for column in (columns.client, columns.item))
                yield Piece(client, item, rating, time, written, min(done / max(size, 1), 1.0))
            return
        except OtherWay:
            restart()
            way += 1


def _times(column: pa.ChunkedArray) -> tuple[str, Times | None]:
    return parse_times_of_form(column) if is_text(column.type) else (NUMBERS, to_numpy(column))


def _form_of(time: Times | None) -> str:
    return "" if time is None else NUMBERS
