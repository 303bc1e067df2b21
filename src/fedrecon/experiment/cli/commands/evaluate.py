"""`fedrecon evaluate`: evaluates a run's parameters."""

from pathlib import Path

import click

from fedrecon.experiment.cli import options


@options.command
@options.run_folder
@options.data("where the data are now, or other data")
@options.changes
@options.distributed
@click.option("--through", metavar="DIR", help="evaluate through the files of an export, too")
@click.option("--json", metavar="FILE", help="the file for the results of --through")
@options.code
@options.pass_invocation
def command(
    invocation: options.Invocation,
    run: str,
    data: str | None,
    overrides: tuple[str, ...],
    through: str | None,
    json: str | None,
    code: tuple[str, ...],
) -> None:
    """Evaluates a run's parameters: reconstructs each unseen client's local parameters on its support set
    and scores them on its query set. Prints the table, and writes the clients' metrics into the run
    folder, as evaluated-clients-NAME.parquet: what the run itself measured stays, and is what plot and
    compare take.

    With --data it takes the data from there: the run's own data at another place, or other data, of
    which all clients are evaluated as unseen ones; there, items are matched by their ids and ratings of
    items that the run does not know are left out, and counted. Where the run holds one interaction out
    of each user (ranking), so it is done to them. --set says how other data are read, where that differs:

      fedrecon evaluate runs/mine --data new.csv --set data.columns.client=person

    With --through it evaluates the run's test clients through an exported file instead, beside it in
    JAX with the export's key, and writes both results into the file that --json names.
    """
    from fedrecon.experiment.cli import runs
    from fedrecon.experiment.settings.sections import SettingError

    if (through is None) != (json is None):
        raise SettingError("--through names an export and --json the file of results: give both or none")
    reading = runs.reading(overrides)
    if reading and (data is None or through is not None):
        raise SettingError("--set says how other data are read, and needs --data without --through")
    with runs.begin(invocation).together():
        from fedrecon.experiment.serving.evaluate import evaluate_run
        from fedrecon.experiment.training.run_experiment import console

        if through is not None and json is not None:
            from fedrecon.experiment.serving.export import evaluate_through

            config = runs.saved_config(run, data, code)
            evaluate_through(Path(run), config, Path(through), Path(json), console())
            return
        config = runs.saved_config(run, code=code)
        evaluate_run(Path(run), config, runs.absolute(data, config), console(), reading)
