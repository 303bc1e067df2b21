"""`fedrecon export`: writes files that reconstruct and recommend on a device."""

from pathlib import Path

import click

from fedrecon.experiment.cli import options


@options.command
@options.run_folder
@click.option("--out", required=True, metavar="DIR", help="the folder of the files")
@click.option(
    "--support-max",
    type=click.IntRange(1),
    metavar="N",
    help="examples of a user at most; default: as in evaluation",
)
@click.option(
    "--top", type=click.IntRange(1), default=20, metavar="K", help="items to recommend; default: 20"
)
@click.option(
    "--precision",
    type=click.Choice(("float32", "float16", "int8")),
    default="float32",
    help="of stored tables; default: float32",
)
@click.option("--seed", type=int, default=0, metavar="N", help="of what users draw; default: 0")
@click.option(
    "--with",
    "extra",
    type=click.Choice(("update",)),
    help="also a client's part of a round of training, update.onnx",
)
@click.option(
    "--format",
    "file_format",
    type=click.Choice(("onnx", "stablehlo")),
    default="onnx",
    help="stablehlo: an archive of jax.export for CPUs, CUDA and TPUs; default: onnx",
)
@click.option("--static", is_flag=True, help="also the page that shows it, for any static web server")
@click.option("--titles", default="", metavar="FILE", help="what items are called, for the page")
@click.option("--runtime", metavar="PATH", help="the browser's runtime; default: the cache, or npm pack")
@options.code
@options.pass_invocation
def command(
    invocation: options.Invocation,
    run: str,
    out: str,
    support_max: int | None,
    top: int,
    precision: str,
    seed: int,
    extra: str | None,
    file_format: str,
    static: bool,
    titles: str,
    runtime: str | None,
    code: tuple[str, ...],
) -> None:
    """Writes a run's parameters as an inference graph that reconstructs a user on a device and recommends
    or predicts: model.onnx, model.json, which describes it, and vectors.npz, random inputs with their
    outputs. The file is compared with JAX, on random inputs and on the run's test clients, and kept
    only if it does the same.

      fedrecon export runs/mine --out device
      fedrecon export runs/mine --out small --precision int8
      fedrecon export runs/mine --out site --static --titles films.csv

    With --format stablehlo it writes model.stablehlo instead of model.onnx, for servers with JAX.

    It needs an extra, but for stablehlo: pip install 'fedrecon[export]'.
    """
    from fedrecon.experiment.cli import runs

    runs.begin(invocation)
    from fedrecon.experiment.serving.export import Wanted, export_run
    from fedrecon.experiment.training.run_experiment import console

    wanted = Wanted(
        support_max, top, precision, seed, extra == "update", static, titles, runtime, file_format
    )
    export_run(Path(run), runs.saved_config(run, code=code), Path(out), console(), wanted)
