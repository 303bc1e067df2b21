"""The command line: `fedrecon --help`."""

import argparse
import os
import sys
import time
from collections.abc import Sequence

OVERVIEW = """\
Federated Reconstruction: partially local federated learning in JAX.

  fedrecon run                                      trains on generated ratings: needs no data
  fedrecon run experiments/movielens.toml           the paper's MovieLens 1M result
  fedrecon resume runs/movielens-20260101-120000    goes on after a kill or Ctrl-C
"""

RUN = """\
Trains, evaluates on clients that were never trained on, and leaves a run folder with the configuration,
metrics.csv, checkpoints, plots, summary.md and result.json.

Without EXPERIMENT it runs an embedded one, on ratings that are generated.

Any setting can be changed from here:
  fedrecon run experiments/movielens.toml --set training.rounds=100 \\
      --set algorithm.server_optimizer.name=adam --set algorithm.server_optimizer.learning_rate=0.01
`fedrecon settings` lists them all, with what they mean and their defaults.

If the run folder already holds this run, it goes on from its last checkpoint.
"""

SETTINGS = """\
Prints every setting as an experiment file with comments: save it, edit it, run it.

  fedrecon settings > my.toml
  fedrecon settings --set task=movielens --set algorithm.name=fedavg
"""

EVALUATE = """\
Evaluates a run's parameters: reconstructs each unseen client's local parameters on its support set and scores
them on its query set. Prints the table, and writes the clients' metrics into the run folder, as
evaluated-clients-NAME.parquet: what the run itself measured stays, and is what plot and compare take.

With --data it takes the data from there: the run's own data at another place, or other data, of which all
clients are evaluated as unseen ones; there, items are matched by their ids and ratings of items that the run
does not know are left out, and counted. Where the run holds one interaction out of each user (ranking), so it
is done to them.
"""

PERSONALIZE = """\
Personalises every client of some data with a run's parameters, all of a client's examples being its support
set, and writes a Parquet file with a row for each: its id, and its local parameters or, with --top, the items
with the highest scores that it has not rated yet, however low. Ids are those of the data. Clients are served
with what the run's evaluation serves them with. The run's own data have to be where it found them.

  fedrecon personalize runs/mine --data clients.arrow --out users.parquet
  fedrecon personalize runs/mine --data ratings.csv --out recommended.parquet --top 20

Killed and started again, it goes on where it was.
"""


CURVES = """\
Evaluates a run's parameters again and again: with 1 to 100 reconstruction steps; with more and more support
examples, scored on the same last fifth of a client's; and by how many examples a client has. Clients that
were trained on, such as --split "seen test", are always scored on their held-out examples, and get the first
of the others as support. Writes curves.csv and a figure into the run folder.
"""


COMPARE = """\
Puts runs side by side: prints tables of quality, cost and paired differences, and writes them as Markdown,
CSV and LaTeX, with the runs in one figure.

  fedrecon compare runs/paper runs/newton --target rmse=0.93

The folder that `fedrecon run --seeds N` left is one method, and so are runs that differ in their seed only.
Others are compared with the first. Where the data or their splits differ, it says so and pairs nothing.
"""


REPORT = """\
Makes one page of HTML of runs, to look at or to send: curves to hover over, tables, how the clients fare,
the settings and where they differ, and how to make the runs again. It needs no other file and no network.

  fedrecon report runs/paper runs/newton --out report.html
"""


SWEEP = """\
Tunes settings on the validation clients with Optuna, and writes the best configuration as an experiment. The
test clients take no part: they are for the one run of the best configuration afterwards.

  fedrecon sweep experiments/movielens.toml space.toml --trials 20 --jobs 2

SPACE names settings and between which values they may be:

  model.factors = { low = 10, high = 60, step = 10 }
  algorithm.update.optimizer.learning_rate = { low = 0.05, high = 1.0, log = true }
  algorithm.server_optimizer.name = ["sgd", "adam"]

After Ctrl-C or a kill the same command goes on. It needs an extra: pip install 'fedrecon[sweep]'.
"""

GENERATE = """\
Writes a client file of generated ratings, of any size: what a large product's data look like, to try out what
grows with clients and what does not.

  fedrecon generate --clients 1000000 --items 100000 --out population.arrow
  fedrecon run experiments/movielens.toml --data population.arrow --set data.order=file \\
      --set training.clients_per_round=1000
"""


COMPLETE = """\
Reconstructs a new user's local parameters from its text, and shows the next words after a prompt by the run's
parameters alone and with the user's own part. For runs of the task next_word.

  fedrecon complete runs/next_word --history me.txt --prompt "see you at the"

A word that the user has and the run's vocabulary lacks can be among the latter: it stands for its bucket.
Without the user's part a bucket is "(another word)".
"""


def parser() -> argparse.ArgumentParser:
    """The parser; each command's function is imported when it is called."""
    raw = argparse.RawDescriptionHelpFormatter
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--traceback", action="store_true", help="show where an error came from")
    top = argparse.ArgumentParser("fedrecon", description=OVERVIEW, formatter_class=raw)
    top.add_argument("--version", action="store_true", help="print the version")
    commands = top.add_subparsers(metavar="COMMAND", dest="command")

    def command(name: str, help: str, description: str | None = None) -> argparse.ArgumentParser:
        return commands.add_parser(
            name, help=help, description=description or help, formatter_class=raw, parents=[common]
        )

    def with_experiment(sub: argparse.ArgumentParser) -> None:
        sub.add_argument("experiment", nargs="?", metavar="EXPERIMENT", help="a TOML file; default: embedded")
        with_changes(sub)

    def with_changes(sub: argparse.ArgumentParser) -> None:
        sub.add_argument(
            "--set",
            action="append",
            default=[],
            metavar="NAME=VALUE",
            dest="overrides",
            help="change a setting, by its dotted name; may be given many times",
        )

    def with_targets(sub: argparse.ArgumentParser) -> None:
        sub.add_argument(
            "--target",
            action="append",
            default=[],
            metavar="METRIC=VALUE",
            help="count the rounds and clients it took to get there; may be given many times",
        )

    def with_distributed(sub: argparse.ArgumentParser) -> None:
        sub.add_argument(
            "--distributed",
            action="store_true",
            help="one of several processes: set JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES, JAX_PROCESS_ID",
        )

    run = command("run", "train and evaluate", RUN)
    with_experiment(run)
    with_distributed(run)
    run.add_argument("--data", metavar="PATH", help="the data (setting data.path)")
    run.add_argument("--out", metavar="DIR", help="the run folder; default: runs/NAME-DATE-TIME")
    run.add_argument("--seed", type=int, metavar="N", help="the seed (setting seed)")
    run.add_argument(
        "--seeds", type=int, metavar="COUNT", help="run so many seeds; report mean and deviation"
    )
    resume = command("resume", "go on with a run that was killed or interrupted")
    resume.add_argument("run", metavar="RUN", help="its folder")
    resume.add_argument("--data", metavar="PATH", help="where its data are now")
    with_distributed(resume)
    evaluate = command("evaluate", "evaluate a run's parameters", EVALUATE)
    evaluate.add_argument("run", metavar="RUN", help="its folder")
    evaluate.add_argument("--data", metavar="PATH", help="where the data are, or other data")
    with_distributed(evaluate)
    personalize = command("personalize", "reconstruct every client, or recommend to it", PERSONALIZE)
    personalize.add_argument("run", metavar="RUN", help="its folder")
    personalize.add_argument(
        "--data", required=True, metavar="CLIENTS", help="a client file, or what the run's task reads"
    )
    personalize.add_argument("--out", required=True, metavar="FILE", help="the Parquet file")
    personalize.add_argument("--top", type=int, metavar="K", help="recommend so many items to each client")
    personalize.add_argument("--seen", action="store_true", help="also items that the client has rated")
    personalize.add_argument("--field", metavar="NAME", help="the field of the items, where it is not clear")
    curves = command("curves", "quality by reconstruction steps, support share and examples", CURVES)
    curves.add_argument("run", metavar="RUN", help="its folder")
    curves.add_argument("--data", metavar="PATH", help="where its data are now")
    curves.add_argument("--split", metavar="NAME", default="test", help="of the clients; default: test")
    generate = command("generate", "write generated ratings, of any size", GENERATE)
    generate.add_argument("--out", required=True, metavar="FILE", help="the client file")
    generate.add_argument("--clients", type=int, default=10_000, metavar="N", help="default: 10000")
    generate.add_argument("--items", type=int, default=10_000, metavar="N", help="default: 10000")
    generate.add_argument(
        "--ratings", type=float, default=100.0, metavar="MEAN", help="per client, above 20; default: 100"
    )
    generate.add_argument("--seed", type=int, default=0, metavar="N", help="default: 0")
    plot = command("plot", "draw runs, several in one figure to compare them")
    plot.add_argument("runs", nargs="+", metavar="RUN", help="run folders")
    plot.add_argument(
        "--out", metavar="DIR", help="where to; default: plots/ in the run or, for several, here"
    )
    compare = command("compare", "tables and figures of several runs side by side", COMPARE)
    compare.add_argument("runs", nargs="+", metavar="RUN", help="run folders, or folders of several seeds")
    compare.add_argument("--out", metavar="DIR", default="comparison", help="where to; default: comparison")
    with_targets(compare)
    report = command("report", "a page of HTML of one or several runs", REPORT)
    report.add_argument("runs", nargs="+", metavar="RUN", help="run folders, or folders of several seeds")
    report.add_argument("--out", metavar="FILE", default="report.html", help="default: report.html")
    with_targets(report)
    sweep = command("sweep", "tune settings on the validation clients", SWEEP)
    sweep.add_argument("experiment", metavar="EXPERIMENT", help="a TOML file")
    sweep.add_argument("space", metavar="SPACE", help="a TOML file of settings and their ranges")
    with_changes(sweep)
    sweep.add_argument("--data", metavar="PATH", help="the data (setting data.path)")
    sweep.add_argument("--seed", type=int, metavar="N", help="the seed (setting seed), of the search too")
    sweep.add_argument("--trials", type=int, default=20, metavar="COUNT", help="in all; default: 20")
    sweep.add_argument("--jobs", type=int, default=1, metavar="COUNT", help="trials at the same time")
    sweep.add_argument("--metric", metavar="NAME", help="to tune; default: what is read first, such as rmse")
    sweep.add_argument("--prune", action="store_true", help="stop trials that are worse than the median")
    sweep.add_argument("--out", metavar="DIR", help="the folder; default: runs/NAME-sweep")
    describe = command("describe", "what is in a data file: clients, examples, histograms")
    describe.add_argument(
        "data", metavar="DATA", help="a rating file, its folder or archive, texts by client, or a client file"
    )
    describe.add_argument(
        "--client", metavar="COLUMN", help="the column that names the client, in any Parquet file"
    )
    for name in ("item", "rating", "time"):
        describe.add_argument(
            f"--{name}", metavar="COLUMN", help="likewise, in ratings with columns of your own"
        )
    complete = command("complete", "the next words of a new user, with and without its own part", COMPLETE)
    complete.add_argument("run", metavar="RUN", help="its folder")
    complete.add_argument(
        "--history", required=True, metavar="FILE", help="the user's text, a sentence a line"
    )
    complete.add_argument("--prompt", required=True, metavar="TEXT", help="the beginning of a sentence")
    complete.add_argument("--top", type=int, default=5, metavar="K", help="words to show; default: 5")
    settings = command("settings", "list all settings, with meanings and defaults", SETTINGS)
    with_experiment(settings)
    return top


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command.

    Returns:
        0; 1 after an error; 2 if the command line or a setting is wrong; 130 after Ctrl-C.
    """
    started = time.monotonic()
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    top = parser()
    options = top.parse_args(arguments)
    options.started = started
    if options.version:
        from importlib.metadata import version

        print(f"fedrecon {version('fedrecon')}")
        return 0
    if options.command is None:
        top.print_help()
        return 0
    try:
        from fedrecon.experiment.cli import commands

        status: int = getattr(commands, options.command)(options)
        sys.stdout.flush()
        return status
    except KeyboardInterrupt:
        print("\nfedrecon: interrupted", file=sys.stderr)
        return _left(options, 130, "it was interrupted")
    except BrokenPipeError:  # the reader, such as head, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:
        if options.traceback and not getattr(options, "distributed", False):
            raise
        if options.traceback:
            sys.excepthook(type(error), error, error.__traceback__)
        status, message = 2 if type(error).__name__ == "SettingError" else 1, explain(error)
        print(f"fedrecon: {message}", file=sys.stderr)
        return _left(options, status, message)


def _left(options: argparse.Namespace, status: int, message: str) -> int:
    """The status; a process that is one of several ends here, else it would wait for the others."""
    if getattr(options, "distributed", False):
        from fedrecon.experiment.distributed.processes import leave

        leave(status, message)
    return status


def explain(error: Exception) -> str:
    """An error in words for the user of the command line."""
    if isinstance(error, ValueError) and str(error):
        return str(error)
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    kind = type(error).__name__
    return f"{kind}: {error}\n(unexpected; --traceback shows where it came from)"
