"""`fedrecon convert`: rating files of any size as a client file, in bounded memory."""

import time
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fedrecon._safe_text import counted
from fedrecon.experiment.cli import options

if TYPE_CHECKING:
    from rich.console import Console

    from fedrecon.datasets.ratings._reader_options import Column

_ROLES = ("client", "item", "rating", "time")


@options.command
@click.argument("sources", metavar="SOURCE...", nargs=-1, required=True)
@click.option("--out", required=True, metavar="FILE", help="the client file, or with --shards the folder")
@click.option("--client", metavar="COLUMN", help="the column of clients, by name, or from 1 without a header")
@click.option("--item", metavar="COLUMN", help="the column of items")
@click.option("--rating", metavar="COLUMN", help="the column of ratings; without it items alone are read")
@click.option("--time", "time_", metavar="COLUMN", help="the column of times; without it none are read")
@click.option("--order", type=click.Choice(["time", "file"]), help="default: by time where there are times")
@click.option("--duplicates", default="error", metavar="RULE", help="error (default), last or all")
@click.option("--cap", type=int, metavar="N", help="keep a client's first N ratings in that order")
@click.option("--least", type=int, default=0, metavar="N", help="leave out clients with fewer ratings")
@click.option("--core", type=int, default=0, metavar="K", help="keep clients and items with K of each other")
@click.option("--scale", type=float, nargs=2, metavar="LEAST MOST", help="the lowest and highest rating")
@click.option("--unrated", type=float, metavar="X", help="the rating that stands for none")
@click.option("--separator", default="", metavar="S", help="of a text's fields; the first line tells")
@click.option("--encoding", default="utf-8", metavar="NAME", help="of a text; default: utf-8")
@click.option("--shards", type=int, metavar="N", help="write a folder of N client files")
@click.option("--memory", type=int, default=256, metavar="MIB", help="of DuckDB; default: 256")
def command(
    sources: tuple[str, ...],
    out: str,
    client: str | None,
    item: str | None,
    rating: str | None,
    time_: str | None,
    order: str | None,
    duplicates: str,
    cap: int | None,
    least: int,
    core: int,
    scale: tuple[float, float] | None,
    unrated: float | None,
    separator: str,
    encoding: str,
    shards: int | None,
    memory: int,
) -> None:
    """Writes a client file of any number of rating files, in any order of their rows: CSV and other texts,
    Parquet, JSON Lines. Clients are sorted by id and a client's ratings by time, items are numbered. It
    needs an extra: pip install 'fedrecon[convert]'.

      fedrecon convert ratings.csv --out clients.arrow
      fedrecon convert 2024.csv 2025.parquet --out clients.arrow --client user --item isbn --time when
      fedrecon run experiments/ranking.toml --data clients.arrow

    With --shards a client's file follows from its id, and every command takes the folder as it takes a file.

      fedrecon convert ratings.csv --out clients --shards 16

    The memory is bounded: what does not fit is sorted on the disk, in a hidden folder beside the client file,
    which takes as much again as the file. Killed, it leaves no file, and the same command begins anew.
    """
    from fedrecon.data._clients import Clients
    from fedrecon.datasets.ratings._convert import convert
    from fedrecon.errors import RunError
    from fedrecon.experiment.console.screen import screen_of_output
    from fedrecon.experiment.reporting.tables import size
    from fedrecon.experiment.settings.sections import SettingError
    from fedrecon.experiment.storage.resource_usage import peak_memory

    path, begun, screen = Path(out), time.monotonic(), screen_of_output()
    if path.exists():
        raise SettingError(f"--out: {path} is there already; remove it, or name a new file")
    columns = columns_of(dict(zip(_ROLES, (client, item, rating, time_), strict=True)))
    try:
        with ProgressInStages(screen) as progress:
            convert(
                sources,
                path,
                columns=columns,
                scale=scale,
                duplicates=duplicates,
                separator=separator,
                encoding=encoding,
                unrated=unrated,
                order=order,
                cap=cap,
                least_ratings=least,
                core=core,
                shards=shards,
                memory_mib=memory,
                progress=progress,
            )
    except OSError as error:
        raise RunError(f"{path}: cannot be written: {error.strerror}") from None
    written = Clients.open(path)
    screen.print(
        f"{counted(len(written), 'client')}, {counted(int(written.num_examples.sum()), 'rating')} of "
        f"{counted(len(written.vocabularies['item']), 'item')} in {time.monotonic() - begun:.1f} s; "
        f"{size(_bytes_of(path))}; peak memory {size(peak_memory() or 0)}"
    )
    screen.print(f"Clients: {path}")


def _bytes_of(path: Path) -> int:
    """The size of a file, or of all files of a folder."""
    files = path.iterdir() if path.is_dir() else (path,)
    return sum(file.stat().st_size for file in files)


def columns_of(names: dict[str, str | None]) -> "dict[str, Column] | None":
    """The columns that options name; None where none is named, for a format with known columns.

    Args:
        names: The values of the options by the roles of the columns. Where all are numbers, they are
            positions in a file without a header.

    Raises:
        SettingError: The column of clients or of items is missing.
    """
    from fedrecon.experiment.settings.sections import SettingError

    given = {role: name for role, name in names.items() if name is not None}
    if not given:
        return None
    for role in ("client", "item"):
        if role not in given:
            raise SettingError(f"--{role} must name the {role} column where other columns are named")
    positions = all(name.isdecimal() for name in given.values())
    return {role: int(name) if positions else name for role, name in given.items()}


class ProgressInStages:
    """Shows the progress of a job with several stages, each in a unit of its own.

    Args:
        screen: The console that shows it.
    """

    def __init__(self, screen: "Console"):
        self._screen = screen
        self._stage, self._done = "", 0
        self._advance: Any = None
        self._shown = ExitStack()

    def __enter__(self) -> "ProgressInStages":
        return self

    def __exit__(self, *error: object) -> None:
        self._shown.close()

    def __call__(self, stage: str, done: int, total: int) -> None:
        """Shows that so much of a stage is done; a new stage ends the one before."""
        from fedrecon.experiment.console.progress_bar import show_progress

        if stage != self._stage or done < self._done:
            self._shown.close()
            self._stage, self._done = stage, 0
            self._advance = self._shown.enter_context(show_progress(self._screen, stage, total))
        self._advance(done - self._done)
        self._done = done
