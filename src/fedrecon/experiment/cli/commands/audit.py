"""`fedrecon audit`: attacks a run as somebody would who sees what it sends or releases."""

from pathlib import Path
from typing import TYPE_CHECKING, cast

import click

from fedrecon.experiment.cli import options

# It takes JAX, which is loaded when the command computes.
if TYPE_CHECKING:
    from fedrecon.experiment.analysis.audits import Observer


@options.command
@options.run_folder
@click.option(
    "--observer",
    required=True,
    type=click.Choice(["update", "sum", "model"]),
    help="what is seen: single updates, the sum of a cohort's, or the released model",
)
@options.data("where the run's data are now")
@click.option("--clients", type=click.IntRange(min=1), metavar="N", help="training clients to attack")
@click.option("--trials", type=click.IntRange(min=1), metavar="N", help="runs with and without a canary")
@options.code
@options.pass_invocation
def command(
    invocation: options.Invocation,
    run: str,
    observer: str,
    data: str | None,
    clients: int | None,
    trials: int | None,
    code: tuple[str, ...],
) -> None:
    """Attacks a run as an observer would, on its own training clients, and writes what is found into the
    run folder, as audit.json: which items, vectors and ratings come back, how well membership is told,
    and a lower bound of epsilon from canaries. report shows it.

      fedrecon audit runs/private --observer update   as the server sees single clients
      fedrecon audit runs/private --observer sum      as it sees a cohort, with the run's noise
      fedrecon audit runs/private --observer model    as anybody sees the released parameters
    """
    from fedrecon.experiment.cli import runs

    with runs.begin(invocation).together():
        from fedrecon.experiment.analysis.audit import audit_run
        from fedrecon.experiment.analysis.audit_figures import write_audit_figure
        from fedrecon.experiment.analysis.audits import read_audits
        from fedrecon.experiment.storage.run_folder import PLOTS
        from fedrecon.experiment.training.run_experiment import console

        config = runs.saved_config(run, code=code)
        screen, place = console(), runs.absolute(data, config)
        audit_run(Path(run), config, cast("Observer", observer), place, screen, clients, trials)
        audits = [(config.name, audit) for audit in read_audits(Path(run))]
        screen.print(f"Plot:  {write_audit_figure(Path(run) / PLOTS, audits)[0]}", markup=False)
