"""`fedrecon curves`: evaluates a run along curves."""

from pathlib import Path

import click

from fedrecon.experiment.cli import options


@options.command
@options.run_folder
@options.data("where its data are now")
@click.option("--split", metavar="NAME", default="test", help="the set of clients; default: test")
@options.code
@options.pass_invocation
def command(
    invocation: options.Invocation, run: str, data: str | None, split: str, code: tuple[str, ...]
) -> None:
    """Evaluates a run's parameters again and again: with 1 to 100 reconstruction steps; with more and more
    support examples, scored on the same last fifth of a client's; and by how many examples a client
    has. Clients that were trained on, such as --split "seen test", are always scored on their held-out
    examples, and get the first of the others as support. Writes curves.csv and a figure into the run
    folder.
    """
    from fedrecon.experiment.cli import runs

    runs.begin(invocation)
    from fedrecon.experiment.analysis.curves import draw
    from fedrecon.experiment.training.run_experiment import console

    config = runs.saved_config(run, code=code)
    draw(Path(run), config, runs.absolute(data, config), split, console())
