"""`fedrecon plot`: draws runs."""

from pathlib import Path

import click

from fedrecon._safe_text import terminal
from fedrecon.experiment.cli import options


@options.command
@options.run_folders
@click.option(
    "--out", metavar="DIR", help="the folder of the figures; default: plots/ in the run or, for several, here"
)
def command(runs: tuple[str, ...], out: str | None) -> None:
    """Draws runs, several in one figure to compare them."""
    from fedrecon.experiment.analysis.compare import plot_runs

    for path in plot_runs([Path(run) for run in runs], Path(out) if out else None):
        print(terminal(str(path)))
