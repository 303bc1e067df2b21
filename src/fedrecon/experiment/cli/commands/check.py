"""`fedrecon check`: whether client files, and folders of them, hold what was written."""

import click

from fedrecon.experiment.cli import options


@options.command
@click.argument("paths", metavar="PATH...", nargs=-1, required=True)
def command(paths: tuple[str, ...]) -> None:
    """Reads client files, and folders of shards, from beginning to end, and compares all with the checksums
    that stand in them. A run checks only what it reads.

      fedrecon check clients.arrow
      fedrecon check population/

    Each file gets a line. The status is 1 where one is damaged, missing, or of another folder.
    """
    from fedrecon._safe_text import counted
    from fedrecon.data._clients import Clients
    from fedrecon.data._shards.check import check_clients
    from fedrecon.errors import DataError
    from fedrecon.experiment.console.progress_bar import show_progress
    from fedrecon.experiment.console.screen import screen_of_output

    screen, faults = screen_of_output(), 0
    for path in paths:
        # A folder with a damaged shard cannot be opened, and is checked all the same.
        try:
            total = int(Clients.open(path).num_examples.sum(dtype="int64"))
        except DataError:
            total = 0
        with show_progress(screen, "examples", total) as advance:
            for checked in check_clients(path, advance if total else None):
                faults += checked.fault is not None
                what = f"{counted(checked.clients, 'client')}, {counted(checked.examples, 'example')}"
                if checked.fault is not None:
                    screen.print(f"damaged: {checked.fault}")
                elif checked.clients:
                    screen.print(f"good: {checked.path}: {what}")
                else:
                    screen.print(f"good: {checked.path}")
    if faults:
        raise DataError(f"{counted(faults, 'file')} of those checked must be put back, see above")
