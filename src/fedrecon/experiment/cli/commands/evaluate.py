"""`fedrecon evaluate`: evaluates a run's parameters."""

from pathlib import Path

from fedrecon.experiment.cli import options


@options.command
@options.run_folder
@options.data("where the data are, or other data")
@options.distributed
@options.pass_invocation
def command(invocation: options.Invocation, run: str, data: str | None) -> None:
    """Evaluates a run's parameters: reconstructs each unseen client's local parameters on its support set
    and scores them on its query set. Prints the table, and writes the clients' metrics into the run
    folder, as evaluated-clients-NAME.parquet: what the run itself measured stays, and is what plot and
    compare take.

    With --data it takes the data from there: the run's own data at another place, or other data, of
    which all clients are evaluated as unseen ones; there, items are matched by their ids and ratings of
    items that the run does not know are left out, and counted. Where the run holds one interaction out
    of each user (ranking), so it is done to them.
    """
    from fedrecon.experiment.cli import runs

    with runs.begin(invocation).together():
        from fedrecon.experiment.serving.evaluate import evaluate_run
        from fedrecon.experiment.training.run_experiment import console

        config = runs.saved_config(run)
        evaluate_run(Path(run), config, runs.absolute(data, config), console())
