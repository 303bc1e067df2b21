"""`fedrecon deploy`: the same training over real processes."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from fedrecon.experiment.cli import options

if TYPE_CHECKING:
    from fedrecon.experiment.deploying.local import LocalDeployment


_server_folder = click.argument("server", metavar="SERVER")


@click.group(name="deploy", cls=options.Group)
def command() -> None:
    """Trains over real processes and networks, by Flower (extra `flower`) or NVFlare (extra `nvflare`)."""


@options.command
@click.argument("app", metavar="DIR")
@click.option("--experiment", required=True, metavar="FILE", help="the experiment, a TOML file")
@options.changes
def init(app: str, experiment: str, overrides: tuple[str, ...]) -> int:
    """Writes an app of Flower for an experiment: a few lines that import this library, and its settings."""
    from fedrecon.experiment import config as configs
    from fedrecon.experiment.deploying.flower_app import write_app

    write_app(Path(app), configs.load(experiment, overrides))
    return 0


@options.command
@click.argument("app", metavar="DIR")
@click.option("--nodes", type=int, default=4, metavar="COUNT", help="default: 4")
@options.data("the data (setting data.path), whose training clients are dealt out to the nodes")
@click.option("--out", required=True, metavar="RUN", help="the run folder")
@options.changes
@click.option("--seconds", type=float, default=600.0, metavar="S", help="a round's deadline; default: 600")
@click.option(
    "--engine",
    type=click.Choice(["flower", "nvflare"]),
    default="flower",
    help="the program whose processes carry the messages; default: flower",
)
@click.option("--verify", is_flag=True, help="simulate the same cohorts, and tell the largest difference")
def local(
    app: str,
    nodes: int,
    data: str | None,
    out: str,
    overrides: tuple[str, ...],
    seconds: float,
    engine: str,
    verify: bool,
) -> int:
    """Runs an app on this machine: a server and nodes as processes that never leave loopback. It ends them
    all, and leaves the run folder that a simulation leaves, with rounds.jsonl beside it.
    """
    from fedrecon.experiment.cli import runs
    from fedrecon.experiment.deploying.flower_app import experiment_of
    from fedrecon.experiment.deploying.local import LocalDeployment

    config = runs.with_options(experiment_of(Path(app), overrides), data)
    return _run(LocalDeployment(Path(app), config, Path(out), nodes, seconds, engine), verify)


@options.command
@options.run_folder
@click.option("--verify", is_flag=True, help="simulate the same cohorts, and tell the largest difference")
def resume(run: str, verify: bool) -> int:
    """Goes on with `deploy local` after a process, or this machine, has ended, from the last round that was
    done, with the same numbers.
    """
    from fedrecon.experiment.deploying.local import LocalDeployment

    return _run(LocalDeployment.of_run(Path(run)), verify)


@options.command
@options.run_folder
def status(run: str) -> int:
    """Tells how far a deployment is, of a run folder or of a server's folder: rounds that are done, and what
    was refused.
    """
    from fedrecon.experiment.deploying.status import status_of

    click.echo(status_of(Path(run)))
    return 0


@options.command
@click.argument("app", metavar="DIR")
@options.data("the data (setting data.path) that give the vocabularies; no client's examples are copied")
@click.option("--out", required=True, metavar="SERVER", help="the folder of the server, new or empty")
@options.changes
def prepare(app: str, data: str | None, out: str, overrides: tuple[str, ...]) -> int:
    """Writes the folder of a server's machine for an app, by the settings in its deployment.toml."""
    from fedrecon.experiment.cli import runs
    from fedrecon.experiment.deploying.flower_app import experiment_of
    from fedrecon.experiment.deploying.preparing import prepare_server
    from fedrecon.experiment.deploying.settings import read_settings

    config = runs.with_options(experiment_of(Path(app), overrides), data)
    prepare_server(Path(app), config, read_settings(Path(app)), Path(out))
    return 0


@click.group(cls=options.Group)
def keys() -> None:
    """Makes and revokes the keys of a deployment: a test authority, the server's certificate, node keys."""


@options.command
@_server_folder
@click.argument("nodes", metavar="NODE", nargs=-1)
def create(server: str, nodes: tuple[str, ...]) -> int:
    """Makes the authority and the server's certificate, where they are missing, and a key for each new node.
    A node's folder, with its private key, is SERVER/nodes/NODE; move it to the node's machine.
    """
    from fedrecon.experiment.deploying.preparing import create_keys

    for folder in create_keys(Path(server), nodes):
        click.echo(folder)
    return 0


@options.command
@_server_folder
@click.argument("node", metavar="NODE|server")
def rotate(server: str, node: str) -> int:
    """Revokes a node's key and makes a new one, or makes a new certificate for the server."""
    from fedrecon.experiment.deploying.preparing import rotate_keys

    folder = rotate_keys(Path(server), node)
    click.echo(folder)
    return 0


@options.command
@_server_folder
@click.argument("node", metavar="NODE")
def revoke(server: str, node: str) -> int:
    """Revokes a node's key; a running server ends its access within seconds."""
    from fedrecon.experiment.deploying.preparing import keys_of

    keys_of(Path(server)).revoke(node)
    return 0


@options.command
@_server_folder
def files(server: str) -> int:
    """Writes nginx, Caddy, systemd and Compose files for a deployment to SERVER/files."""
    from fedrecon.experiment.deploying.service_files import write_files

    for path in write_files(Path(server)):
        click.echo(path)
    return 0


@options.command
@_server_folder
@click.argument("nodes", metavar="NODE", nargs=-1)
def job(server: str, nodes: tuple[str, ...]) -> int:
    """Writes the job that runs a deployment in a federation of NVFlare to SERVER/job, and for each NODE the
    folder SERVER/nodes/NODE; move it to the node's machine, as `fedrecon` in the folder of its site.
    """
    from fedrecon.experiment.deploying.preparing import prepare_job

    for folder in prepare_job(Path(server), nodes):
        click.echo(folder)
    return 0


@options.command
@_server_folder
def server(server: str) -> int:
    """Runs the rounds of a deployment on the server's machine, from the last one that was done."""
    from fedrecon.experiment.deploying.server import run_server
    from fedrecon.experiment.deploying.status import describe_round

    run_server(Path(server), lambda line: click.echo(describe_round(line)))
    return 0


@options.command
@click.argument("folder", metavar="NODE")
def node(folder: str) -> int:
    """Runs a node on its machine: its worker and Flower's SuperNode, until it is asked to end."""
    from fedrecon.experiment.deploying.node import run_node

    run_node(Path(folder))
    return 0


for _one in (create, rotate, revoke):
    keys.add_command(_one)
for _one in (init, local, resume, status, prepare, files, job, server, node):
    command.add_command(_one)
command.add_command(keys)


def _run(deployment: "LocalDeployment", verify: bool) -> int:
    from fedrecon.experiment.deploying.status import describe_round
    from fedrecon.experiment.training.run_experiment import console, run_experiment, show

    screen = console()
    deployment.run(lambda line: screen.print(describe_round(line)))
    deployment.leave_run_folder()
    result = run_experiment(deployment.config, deployment.out, screen)
    values: dict[str, object] = {"rounds": len(deployment.records())}
    if verify:
        values["largest_difference"] = deployment.largest_difference()
        screen.print(f"largest difference from a simulation: {values['largest_difference']:.3g}")
    deployment.note(values)
    show(result, screen)
    return 0
