"""`fedrecon resume`: goes on with a run."""

from pathlib import Path

from fedrecon.experiment.cli import options


@options.command
@options.run_folder
@options.data("where its data are now")
@options.changes
@options.code
@options.distributed
@options.pass_invocation
def command(
    invocation: options.Invocation,
    run: str,
    data: str | None,
    overrides: tuple[str, ...],
    code: tuple[str, ...],
) -> int:
    """Goes on with a run that was killed or interrupted, from its last checkpoint.

    The folder may be somebody else's. So code that it names, a task or a tokenizer, runs only if --code
    names it again, and numbers are sent to no tracking address that it alone names: name one again with
    --set tracking.name=mlflow --set tracking.uri=URI. Other settings cannot be changed.
    """
    from fedrecon.experiment.cli import runs

    config = runs.tracked(runs.saved_config(run, data, code), overrides)
    return runs.train(config, Path(run), invocation)
