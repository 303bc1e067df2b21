"""`fedrecon resume`: goes on with a run."""

from pathlib import Path

import click

from fedrecon.experiment.cli import options


@options.command
@options.run_folder
@click.option("--rounds", type=int, metavar="N", help="go on to so many rounds, more than it was to have")
@options.data("where its data are now")
@options.changes
@options.code
@options.distributed
@options.pass_invocation
def command(
    invocation: options.Invocation,
    run: str,
    rounds: int | None,
    data: str | None,
    overrides: tuple[str, ...],
    code: tuple[str, ...],
) -> int:
    """Goes on with a run that was killed or interrupted, from its last checkpoint, or with --rounds also with
    one that is finished.

      fedrecon resume runs/mine
      fedrecon resume runs/mine --rounds 1000

    The first rounds stay as they are: the run ends as if it had been begun with so many. Not every run can
    have more: the noise of a private one is planned for its rounds, and a schedule may have ended at 0.

    The folder may be somebody else's. So code that it names, a task or a tokenizer, runs only if --code
    names it again, and numbers are sent to no tracking address that it alone names: name one again with
    --set tracking.name=mlflow --set tracking.uri=URI. Other settings cannot be changed.
    """
    from fedrecon.experiment.cli import runs

    config = runs.tracked(runs.saved_config(run, data, code), overrides)
    if rounds is not None and invocation.distributed:
        # Every process would write the number of rounds, and they know each other only afterwards.
        raise click.UsageError("--rounds and --distributed cannot be given together: extend the run first")
    if rounds is not None:
        config = runs.with_rounds(run, config, rounds)
    return runs.train(config, Path(run), invocation)
