"""`fedrecon compare`: puts runs side by side."""

from pathlib import Path

import click

from fedrecon.experiment.cli import options


@options.command
@options.run_folders
@click.option(
    "--out", metavar="DIR", default="comparison", help="the folder to write to; default: comparison"
)
@options.targets
def command(runs: tuple[str, ...], out: str, target: tuple[str, ...]) -> None:
    """Puts runs side by side: prints tables of quality, cost and paired differences, and writes them as
    Markdown, CSV and LaTeX, with the runs in one figure.

      fedrecon compare runs/paper runs/newton --target rmse=0.93

    The folder that `fedrecon run --seeds N` left is one method, and so are runs that differ in their
    seed only. Others are compared with the first. Where the data or their splits differ, it says so and
    pairs nothing.
    """
    from fedrecon.experiment.analysis.compare import compare_runs
    from fedrecon.experiment.analysis.targets import Target
    from fedrecon.experiment.console.screen import screen_of_output

    targets = [Target.parse(text) for text in target]
    compare_runs([Path(run) for run in runs], Path(out), screen_of_output(), targets)
