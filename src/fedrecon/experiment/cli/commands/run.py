"""`fedrecon run`: trains what an experiment describes."""

from pathlib import Path

import click

from fedrecon.experiment.cli import options


@options.command
@options.experiment()
@options.changes
@options.distributed
@options.data("the data (setting data.path)")
@click.option("--out", metavar="DIR", help="the run folder; default: runs/NAME-DATE-TIME")
@click.option("--seed", type=int, metavar="N", help="the seed (setting seed)")
@click.option("--seeds", type=int, metavar="COUNT", help="run so many seeds; report mean and deviation")
@options.pass_invocation
def command(
    invocation: options.Invocation,
    experiment: str | None,
    overrides: tuple[str, ...],
    data: str | None,
    out: str | None,
    seed: int | None,
    seeds: int | None,
) -> int:
    r"""Trains, evaluates on clients that were never trained on, and leaves a run folder with the
    configuration, metrics.csv, checkpoints, plots, summary.md and result.json.

    Without EXPERIMENT it runs an embedded one: on ratings that are generated, or where --data names a
    file of ratings the recipe for one's own ratings, which suits any scale and needs no tuning:
      fedrecon run --data ratings.csv --set data.columns.client=person \
          --set data.columns.item=film --set data.columns.rating=stars

    Any setting can be changed from here:
      fedrecon run experiments/movielens.toml --set training.rounds=100 \
          --set algorithm.server_optimizer.name=adam --set algorithm.server_optimizer.learning_rate=0.01
    `fedrecon settings` lists them all, with what they mean and their defaults.

    If the run folder already holds this run, it goes on from its last checkpoint.

    The status is 4 if training diverged (with --seeds: that of one of them), and 130 after Ctrl-C.
    """
    from fedrecon._safe_text import terminal
    from fedrecon.errors import whole_number
    from fedrecon.experiment import config as configs
    from fedrecon.experiment.cli import runs
    from fedrecon.experiment.settings.sections import SettingError

    packaged = runs.packaged_for(experiment, data, overrides)
    config = runs.with_options(configs.load(experiment, overrides, packaged), data, seed)
    if packaged != configs.DEFAULT and not invocation.distributed:
        why = f"no experiment is named, and {data} holds ratings"
        print(terminal(f"{packaged}: the packaged recipe for one's own ratings, since {why}"))
    folder = Path(out) if out else runs.fresh_folder(Path("runs"), config.name)
    if seeds is None:
        return runs.train(config, folder, invocation)
    if invocation.distributed:
        raise SettingError(
            "--seeds and --distributed exclude each other: start each seed as a run of its own"
        )
    whole_number("--seeds", seeds, 2, error=SettingError)
    runs.begin(invocation)
    from fedrecon.experiment.analysis.seeds import train_seeds
    from fedrecon.experiment.training.run_experiment import console

    return runs.status_of(train_seeds(config, folder, seeds, console()))
