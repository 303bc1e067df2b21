"""`fedrecon generate`: writes a large generated federation as a client file."""

import itertools
import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from fedrecon.experiment.cli import options

if TYPE_CHECKING:
    from rich.console import Console

# Options of the command that have another name than the parameter of `population`.
_OPTIONS = {"num_clients": "clients", "num_items": "items", "mean_ratings": "ratings"}


@options.command
@click.option("--out", required=True, metavar="FILE", help="the client file")
@click.option(
    "--clients", type=click.IntRange(1, 2**31 - 1), default=10_000, metavar="N", help="default: 10000"
)
@click.option(
    "--items", type=click.IntRange(1, 2**31 - 1), default=10_000, metavar="N", help="default: 10000"
)
@click.option(
    "--ratings", type=float, default=100.0, metavar="MEAN", help="per client, above 20; default: 100"
)
@click.option("--seed", type=int, default=0, metavar="N", help="default: 0")
def command(out: str, clients: int, items: int, ratings: float, seed: int) -> None:
    r"""Writes a client file of generated ratings, of any size: what a large product's data look like, to
    try out what grows with clients and what does not.

      fedrecon generate --clients 1000000 --items 100000 --out population.arrow
      fedrecon run experiments/movielens.toml --data population.arrow --set data.order=file \
          --set training.clients_per_round=1000
    """
    from fedrecon.experiment.training.run_experiment import console

    generate(Path(out), console(), clients, items, ratings, seed)


def generate(out: Path, screen: "Console", clients: int, items: int, ratings: float, seed: int) -> None:
    """Writes generated ratings; memory does not grow with their number.

    Args:
        out: The path of the client file.
        screen: The console that shows the progress.
        clients: The number of clients.
        items: The number of items.
        ratings: The mean number of ratings of a client, above 20.
        seed: The seed of all draws.

    Raises:
        ValueError: A number is out of its range, or the file cannot be written.
    """
    from fedrecon._safe_text import counted
    from fedrecon.data._client_file.writer import ClientWriter
    from fedrecon.datasets.ratings._population import population
    from fedrecon.errors import RunError
    from fedrecon.experiment.console.progress_bar import show_progress
    from fedrecon.experiment.reporting.tables import size
    from fedrecon.experiment.settings.sections import SettingError
    from fedrecon.experiment.storage.resource_usage import peak_memory

    begun, written = time.monotonic(), 0
    if out.exists():
        raise SettingError(f"--out: {out} is there already; remove it, or name a new file")
    try:
        pieces = population(clients, items, mean_ratings=ratings, seed=seed)
        first = next(pieces)
    except ValueError as error:
        name, _, rule = str(error).partition(" ")
        raise SettingError(f"--{_OPTIONS.get(name, name)} {rule}") from None
    try:
        with (
            ClientWriter(out, first.vocabularies) as writer,
            show_progress(screen, "clients", clients) as advance,
        ):
            for piece in itertools.chain([first], pieces):
                writer.add(piece)
                written += int(piece.num_examples.sum())
                advance(len(piece))
    except OSError as error:
        raise RunError(f"{out}: cannot be written: {error.strerror}") from None
    seconds = time.monotonic() - begun
    screen.print(
        f"{counted(clients, 'client')}, {counted(written, 'rating')} of {counted(items, 'item')} "
        f"in {seconds:.1f} s; "
        f"{size(out.stat().st_size)}; peak memory {size(peak_memory() or 0)}"
    )
    screen.print(f"Clients: {out}")
