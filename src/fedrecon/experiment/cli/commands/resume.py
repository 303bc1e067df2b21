"""`fedrecon resume`: goes on with a run."""

from pathlib import Path

from fedrecon.experiment.cli import options


@options.command
@options.run_folder
@options.data("where its data are now")
@options.distributed
@options.pass_invocation
def command(invocation: options.Invocation, run: str, data: str | None) -> int:
    """Goes on with a run that was killed or interrupted, from its last checkpoint."""
    from fedrecon.experiment.cli import runs

    return runs.train(runs.saved_config(run, data), Path(run), invocation)
