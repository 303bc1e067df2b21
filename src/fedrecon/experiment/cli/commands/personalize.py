"""`fedrecon personalize`: reconstructs every client of some data, or recommends to it."""

from pathlib import Path

import click

from fedrecon.experiment.cli import options


@options.command
@options.run_folder
@options.data("a client file, or what the run's task reads", required=True, metavar="CLIENTS")
@options.changes
@click.option("--out", required=True, metavar="FILE", help="the file: .parquet or .csv")
@click.option("--top", type=int, metavar="K", help="recommend so many items to each client")
@click.option("--seen", is_flag=True, help="also items that the client has rated")
@click.option("--field", metavar="NAME", help="the field of the items, where it is not clear")
@click.option("--share", metavar="I/N", help="make the Ith of N shares of the file, I from 1 to N")
@click.option("--join", is_flag=True, help="join the parts that shares have made")
@click.option("--ray", is_flag=False, flag_value="", metavar="[ADDRESS]", help="by a cluster of Ray")
@click.option("--workers", type=click.IntRange(1), metavar="N", help="of Ray's cluster; default: one a core")
@options.code
@options.pass_invocation
def command(
    invocation: options.Invocation,
    run: str,
    data: str,
    overrides: tuple[str, ...],
    out: str,
    top: int | None,
    seen: bool,
    field: str | None,
    share: str | None,
    join: bool,
    ray: str | None,
    workers: int | None,
    code: tuple[str, ...],
) -> None:
    """Personalises every client of some data with a run's parameters, all of a client's examples being its
    support set, and writes a Parquet file with a row for each: its id, and its local parameters or,
    with --top, the items with the highest scores that it has not rated yet, however low. Ids are those
    of the data. Clients are served with what the run's evaluation serves them with. Runs whose algorithm
    keeps nothing of its clients serve from their folder alone; of others the data have to be where the run
    found them. --set says how the clients' data are read, where that differs from the run's own.

      fedrecon personalize runs/mine --data clients.arrow --out users.parquet
      fedrecon personalize runs/mine --data ratings.csv --out recommended.parquet --top 20
      fedrecon personalize runs/mine --data new.csv --set data.columns.client=person --out top.csv --top 20

    A .csv file has a line for each recommended item with its rank, or for each client a column for each
    number of its local parameters. An apostrophe is put before ids that a spreadsheet would take for
    formulas, such as =1; numbers stay as they are, and so does everything in Parquet.

    Killed and started again, it goes on where it was. With --share several processes or hosts fill one
    file: each is given the same command with another share, and the last to finish joins the parts.

      fedrecon personalize runs/mine --data clients.arrow --out users.parquet --share 1/2
      fedrecon personalize runs/mine --data clients.arrow --out users.parquet --share 2/2

    With --ray a process on each core of a cluster of Ray makes a share: of the cluster at an address, such
    as auto, or of one that the command starts on this host. It needs an extra: pip install 'fedrecon[ray]'.
    """
    from fedrecon.experiment.cli import runs
    from fedrecon.experiment.serving.parquet_parts import personalized_format
    from fedrecon.experiment.serving.shares import WHOLE, Share
    from fedrecon.experiment.settings.sections import SettingError

    if top is None:
        for name, given in (("--field", field is not None), ("--seen", seen)):
            if given:
                raise SettingError(f"{name} says which items are recommended, and needs --top K")
    personalized_format(Path(out))
    if share is not None and join:
        raise SettingError("--share makes parts and --join joins those that are there: give one of them")
    if ray is not None and (share is not None or join):
        raise SettingError("--ray makes all shares and joins them: give neither --share nor --join with it")
    if workers is not None and ray is None:
        raise SettingError("--workers says how many processes of Ray's cluster work, and needs --ray")
    part = None if join else WHOLE if share is None else Share.parse(share)
    reading = runs.reading(overrides)
    runs.begin(invocation)
    from fedrecon.experiment.serving.personalize import personalize_run
    from fedrecon.experiment.serving.wanted import Wanted
    from fedrecon.experiment.training.run_experiment import console

    config = runs.saved_config(run, code=code)
    place = str(runs.absolute(data, config))
    wanted = Wanted(top, field, seen)
    if ray is not None:
        from fedrecon.experiment.serving.on_ray import Request, personalize_on_ray

        paths = str(Path(run).absolute()), str(Path(place).absolute()), str(Path(out).absolute())
        request = Request(*paths, wanted, tuple(reading), tuple(code))
        personalize_on_ray(request, console(), ray or None, workers)
        console().print(f"Clients: {out}")
        return
    personalize_run(Path(run), config, place, Path(out), console(), wanted, reading, part)
