"""`fedrecon settings`: prints all settings."""

from fedrecon._safe_text import terminal
from fedrecon.experiment.cli import options


@options.command
@options.experiment()
@options.changes
def command(experiment: str | None, overrides: tuple[str, ...]) -> None:
    """Prints every setting as an experiment file with comments: save it, edit it, run it.

    fedrecon settings > my.toml fedrecon settings --set task=movielens --set algorithm.name=fedavg
    """
    from fedrecon.experiment import config as configs
    from fedrecon.experiment.cli.settings_listing import listing

    print(terminal(listing(configs.load(experiment, overrides))), end="")
