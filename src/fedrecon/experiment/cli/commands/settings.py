"""`fedrecon settings`: prints all settings."""

import sys

import click

from fedrecon._safe_text import terminal, toml_in_ascii
from fedrecon.experiment.cli import options


@options.command
@options.experiment()
@options.changes
@click.option("--changed", is_flag=True, help="only what differs from the defaults")
def command(experiment: str | None, overrides: tuple[str, ...], changed: bool) -> None:
    """Prints every setting as an experiment file with comments: save it, edit it, run it.

    fedrecon settings > my.toml
    fedrecon settings --set task=movielens --set algorithm.name=fedavg
    fedrecon settings experiments/movielens.toml --changed
    """
    from fedrecon.experiment import config as configs
    from fedrecon.experiment.cli.settings_listing import changes, listing

    config = configs.load(experiment, overrides)
    text = terminal(changes(config) if changed else listing(config))
    # Experiment files are UTF-8, of which ASCII is a part that every encoding of an output writes alike.
    is_utf8 = (sys.stdout.encoding or "utf-8").lower().replace("-", "") == "utf8"
    print(text if is_utf8 else toml_in_ascii(text), end="")
