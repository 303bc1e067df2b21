"""Rating files of any size as a client file, by DuckDB: grouped, sorted and numbered in bounded memory.

The files are read piece by piece by the readers' own rules into a database in a hidden folder beside the
client file. DuckDB counts the ids and sorts the ratings, on the disk where they do not fit in memory, and the
client file is written from what comes back in order. It is the same file, byte for byte, that `prepare` and
`write` make in memory.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from fedrecon.data._scratch import scratch
from fedrecon.data._unpacking import UNPACKED_GIB
from fedrecon.datasets.ratings._files.find import find
from fedrecon.datasets.ratings._files.source import reason
from fedrecon.datasets.ratings._grouped_writer import GroupedWriter
from fedrecon.datasets.ratings._reader_options import Column, Reading
from fedrecon.datasets.ratings._staged_ratings import Progress, RatingFile, StagedRatings
from fedrecon.errors import DataError, whole_number

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

ORDERS = ("time", "file")
MEMORY_MIB = 256


def convert(
    sources: Sequence[str | os.PathLike[str]],
    out: str | os.PathLike[str],
    *,
    columns: Mapping[str, Column] | None = None,
    scale: Sequence[float | int] | None = None,
    duplicates: str = "error",
    separator: str = "",
    encoding: str = "utf-8",
    unrated: float | int | None = None,
    unpacked_gib: float | int = UNPACKED_GIB,
    order: str | None = None,
    cap: int | None = None,
    least_ratings: int = 0,
    core: int = 0,
    shards: int | None = None,
    memory_mib: int = MEMORY_MIB,
    progress: Progress | None = None,
) -> None:
    """Writes a client file of rating files that together may exceed the memory.

    Of one file it writes what `prepare(file).write(out)` writes, with `sorted_by("time")` between where the
    order is by time, and `cap`. Plain text and Parquet are read piece by piece; JSON Lines, packed files and
    those of other encodings than UTF-8 one file after the other into memory.

    Args:
        sources: The files, folders or archives, each as for `prepare`. Of ratings that are otherwise equal
            the order of the sources decides, and within one that of its rows.
        out: The client file, or the folder of shards, which is written whole or not at all.
        columns: The names of the columns, as for `prepare`; None, the default, for those of a format with
            known columns.
        scale: The lowest and highest rating, as for `prepare`; None, the default, for those of the format.
        duplicates: The treatment of items that a client rates twice, also in two sources: `"error"`, the
            default, `"last"` or `"all"`, as for `prepare`.
        separator: The separator between the fields of a text, as for `prepare`; by default the first line
            tells.
        encoding: The encoding of a text, as for `prepare`; UTF-8 by default.
        unrated: The rating that stands for none, whose rows are left out; None, the default, for no such.
        unpacked_gib: The number of GiB that a packed file may unpack to; 2 by default.
        order: A client's ratings in the order of `"time"` or of the `"file"`; None, the default, for that of
            time where there are times.
        cap: The number of ratings of a client that are kept, the first in their order; None, the default,
            keeps all.
        least_ratings: The number of ratings, before the cap, below which a client is left out; 0, the
            default, leaves out nobody. Items keep their numbers.
        core: The number of ratings that each client and each item must have of those that are left, before
            `cap` and `least_ratings` (the k-core); an item that is left out gets no number. 0, the default,
            leaves out nothing.
        shards: The number of client files of a folder `out`, see `fedrecon.data.write_shards`; None, the
            default, for one file.
        memory_mib: The memory that DuckDB may use before it goes to the disk, in MiB, at least 64; 256 by
            default. The whole process takes about 350 MiB more, and 100 bytes for each client.
        progress: Is called with what is being done (`"bytes"` are read, `"ratings"` and then
            `"ratings in shards"` are written), how much of
            it is done, and how much there is; None, the default, calls nothing.

    Raises:
        DataError: A source cannot be read or breaks a rule, sources do not go together, nobody is left, or
            the package duckdb is missing.
        OSError: The client file cannot be written.
        ValueError: An argument is out of its range.
    """
    reading = Reading.of(columns, scale, duplicates, separator, encoding, unrated)
    if not sources:
        raise ValueError("sources must name a rating file at least, got none")
    if order is not None and order not in ORDERS:
        raise ValueError(f"order must be one of {', '.join(ORDERS)}, got {order!r}")
    cap = None if cap is None else whole_number("cap", cap, 1)
    least_ratings = whole_number("least_ratings", least_ratings, 0)
    core = whole_number("core", core, 0)
    shards = None if shards is None else whole_number("shards", shards, 1)
    memory_mib = whole_number("memory_mib", memory_mib, 64)
    inputs = [RatingFile.of(find(path, reading, unpacked_gib), reading) for path in sources]
    path = Path(out)
    # Around the database, too: a full disk shows where it is opened or closed as well.
    with scratch(path) as folder, _translated(path), _database(folder, memory_mib) as connection:
        staged = StagedRatings(connection, reading, inputs, progress or (lambda *_: None))
        staged.read()
        staged.keep_core(core)
        staged.count_ids()
        by_time = "time" in staged.kinds if order is None else order == "time"
        if by_time and "time" not in staged.kinds:
            raise DataError(f"{inputs[0].source.where}: must have times for the order 'time', has none")
        writer = GroupedWriter(folder, [n for n in ("item", "rating", "time") if n in staged.kinds], cap)
        writer.least, writer.duplicates = least_ratings, duplicates
        done = 0
        for columns_read in staged.in_order(by_time):
            done += len(columns_read["client"])
            if not writer.add(columns_read):
                raise staged.first_duplicate()
            staged.progress("ratings", done, staged.count)
        if not writer.close():
            raise staged.first_duplicate()
        if not len(writer.clients):
            raise DataError(f"least_ratings must leave a client, nobody has {least_ratings} ratings")
        ids, in_shards = staged.client_ids(writer.all_clients), partial(staged.progress, "ratings in shards")
        writer.write(path, ids, staged.ids("item"), shards, in_shards)


def _database(folder: Path, memory_mib: int) -> "DuckDBPyConnection":
    # Nothing is ever fetched: what is needed of DuckDB comes with the package.
    settings: dict[str, Any] = {
        "autoinstall_known_extensions": False,
        "autoload_known_extensions": False,
        "memory_limit": f"{memory_mib}MiB",
        "temp_directory": str(folder / "spill"),
    }
    return _duckdb().connect(str(folder / "ratings.duckdb"), config=settings)


@contextmanager
def _translated(path: Path) -> Iterator[None]:
    """Turns errors of DuckDB, such as those of a full disk, into a `DataError` that names the client file."""
    duckdb = _duckdb()
    try:
        yield
    except duckdb.Error as error:
        raise DataError(f"{path}: cannot be made: {reason(error)}") from error


def _duckdb() -> ModuleType:
    try:
        return import_module("duckdb")
    except ImportError:
        raise DataError("conversion needs the package duckdb: pip install 'fedrecon[convert]'") from None
