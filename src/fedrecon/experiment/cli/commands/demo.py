"""`fedrecon demo`: shows a run on a page, computed in the browser."""

from pathlib import Path

import click

from fedrecon.experiment.cli import options


@options.command
@options.run_folder
@click.option("--other", metavar="RUN2", help="a second run with the same items, beside the first")
@click.option("--port", type=click.IntRange(0, 65535), default=8000, metavar="N", help="default: 8000")
@click.option(
    "--support-max",
    type=click.IntRange(1),
    metavar="N",
    help="examples of a user at most; default: as in evaluation",
)
@click.option(
    "--precision",
    type=click.Choice(("float32", "float16", "int8")),
    default="float16",
    help="of stored tables; default: float16",
)
@click.option("--titles", default="", metavar="FILE", help="what items are called: lines of id and title")
@click.option("--runtime", metavar="PATH", help="the browser's runtime; default: the cache, or npm pack")
@options.code
@options.pass_invocation
def command(
    invocation: options.Invocation,
    run: str,
    other: str | None,
    port: int,
    support_max: int | None,
    precision: str,
    titles: str,
    runtime: str | None,
    code: tuple[str, ...],
) -> None:
    """Exports a run and serves a page that shows it, to this machine alone: rate films and see what is
    recommended, or write and see the next words. All of it is computed in the browser, which lets
    nothing that is entered out.

      fedrecon demo runs/mine
      fedrecon demo runs/mine --titles films.csv
      fedrecon demo runs/mine --other runs/another

    It needs an extra, pip install 'fedrecon[export]', and npm or --runtime for the browser's part.
    """
    from fedrecon.experiment.cli import runs

    runs.begin(invocation)
    from fedrecon.experiment.serving.demo import serve_demo
    from fedrecon.experiment.serving.export import Wanted
    from fedrecon.experiment.training.run_experiment import console

    wanted = Wanted(support_max=support_max, precision=precision, titles=titles, runtime=runtime)
    chosen = [(Path(path), runs.saved_config(path, code=code)) for path in (run, other) if path is not None]
    serve_demo(chosen, port, console(), wanted)
