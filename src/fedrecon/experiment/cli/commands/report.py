"""`fedrecon report`: makes a page of runs."""

from pathlib import Path

import click

from fedrecon._safe_text import terminal
from fedrecon.experiment.cli import options


@options.command
@options.run_folders
@click.option("--out", metavar="FILE", default="report.html", help="the page; default: report.html")
@options.targets
def command(runs: tuple[str, ...], out: str, target: tuple[str, ...]) -> None:
    """Makes one page of HTML of runs, to look at or to send: curves to hover over, tables, how the clients
    fare, the settings and where they differ, and how to make the runs again. It needs no other file and
    no network.

      fedrecon report runs/paper runs/newton --out report.html
    """
    from fedrecon.experiment.analysis.compare import report_runs
    from fedrecon.experiment.analysis.targets import Target

    targets = [Target.parse(text) for text in target]
    print(terminal(str(report_runs([Path(run) for run in runs], Path(out), targets))))
