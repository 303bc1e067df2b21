"""`fedrecon sweep`: tunes an experiment."""

from pathlib import Path

import click

from fedrecon.experiment.cli import options


@options.command
@options.experiment(required=True)
@click.argument("space", metavar="SPACE")
@options.changes
@options.data("the data (setting data.path)")
@click.option("--seed", type=int, metavar="N", help="the seed (setting seed), of the search too")
@click.option("--trials", type=int, default=20, metavar="COUNT", help="in all; default: 20")
@click.option("--jobs", type=int, default=1, metavar="COUNT", help="trials at the same time")
@click.option("--metric", metavar="NAME", help="to tune; default: what is read first, such as rmse")
@click.option("--prune", is_flag=True, help="stop trials that are worse than the median")
@click.option("--out", metavar="DIR", help="the folder; default: runs/NAME-sweep")
@options.pass_invocation
def command(
    invocation: options.Invocation,
    experiment: str,
    space: str,
    overrides: tuple[str, ...],
    data: str | None,
    seed: int | None,
    trials: int,
    jobs: int,
    metric: str | None,
    prune: bool,
    out: str | None,
) -> int:
    """Tunes settings on the validation clients with Optuna, and writes the best configuration as an
    experiment. The test clients take no part: they are for the one run of the best configuration
    afterwards.

      fedrecon sweep experiments/movielens.toml space.toml --trials 20 --jobs 2

    SPACE names settings and between which values they may be:

      model.factors = { low = 10, high = 60, step = 10 }
      algorithm.update.optimizer.learning_rate = { low = 0.05, high = 1.0, log = true }
      algorithm.server_optimizer.name = ["sgd", "adam"]

    After Ctrl-C or a kill the same command goes on. It needs an extra: pip install 'fedrecon[sweep]'.
    """
    from fedrecon._safe_text import file_name
    from fedrecon.errors import whole_number
    from fedrecon.experiment import config as configs
    from fedrecon.experiment.cli import runs
    from fedrecon.experiment.settings.sections import SettingError
    from fedrecon.experiment.sweep import space as spaces

    config = runs.with_options(configs.load(experiment, overrides), data, seed)
    whole_number("--trials", trials, 1, error=SettingError)
    whole_number("--jobs", jobs, 1, error=SettingError)
    dimensions = spaces.load(space, config)
    runs.begin(invocation)
    from fedrecon.experiment.sweep.run import sweep
    from fedrecon.experiment.training.run_experiment import console

    folder = Path(out) if out else Path("runs") / f"{file_name(config.name)}-sweep"
    return 0 if sweep(config, dimensions, folder, console(), trials, jobs, metric, prune) else 130
