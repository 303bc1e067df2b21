"""Runs benchmarks, each in a process of its own, and reports them in one table."""

import argparse
import json
import multiprocessing
import sys
import traceback
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from importlib import import_module
from pathlib import Path
from typing import Any

from benchmarks import pair, pair_work, table
from benchmarks.options import Options, Row, add_flags, read_flags

# What a name runs, and what it says. The modules import JAX: they are imported where they run.
BENCHMARKS = {
    "round": ("library_round", "the MovieLens round over a hand-written numba kernel"),
    "breakdown": ("breakdown", "what such a round is made of"),
    "trace": ("trace", "what the programs of such a round spend their time on, operation by operation"),
    "blocks": ("blocks", "the round by how many clients are side by side"),
    "cohort": ("cohort", "time per client as the cohort grows"),
    "dense": ("dense", "the round on whole tables: the library's, and written by hand in JAX"),
    "torch": ("torch_round", "the round as a PyTorch loop over clients"),
    "fedjax": ("fedjax_round", "the round on FedJAX's engine"),
    "next_word": ("next_word", "next-word training at the paper's size, over its matrix products alone"),
    "next_word_peers": (
        "next_word_peers",
        "the next-word round on whole tables, on FedJAX's engine, in PyTorch",
    ),
    "personalize": ("inference", "clients reconstructed per second, over the matrix products alone"),
    "population": ("population", "a million clients on the disk: writing, opening, rounds (minutes)"),
    "privacy": ("privacy_cost", "rounds with user-level differential privacy, and without"),
    "ranking": ("ranking", "how well peers that see all data rank; needs --data"),
    "wire": (
        "wire",
        "a deployment's messages: encoding and decoding over Arrow's, bytes over a simulation's",
    ),
    "run": ("whole_run", "fedrecon run from process start to end, cold and warm"),
}

# In a pair `run` and `personalize` are the commands of `fedrecon`; the other two do not time the library.
NOT_PAIRED = ("run", "personalize", "trace", "ranking")


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit status: 1 where a benchmark failed."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if list(arguments[:1]) == ["pair"]:
        return pair.main(
            arguments[1:], pair_work.works(name for name in BENCHMARKS if name not in NOT_PAIRED)
        )
    parser = _parser()
    given = parser.parse_args(arguments)
    for name in given.names:
        if name not in BENCHMARKS:
            parser.error(f"NAME must be one of {', '.join(BENCHMARKS)}, got {name!r}")
    screen = table.screen()
    if given.list:
        screen.print(table.grid([(name, says) for name, (_, says) in BENCHMARKS.items()], ["name", "what"]))
        return 0
    if given.json and not Path(given.json).absolute().parent.is_dir():
        parser.error(f"--json: there is no folder {Path(given.json).absolute().parent}")
    options = read_flags(given)
    results: dict[str, list[Row]] = {}
    failed = False
    for name in given.names or BENCHMARKS:
        with screen.status(f"{name}: {BENCHMARKS[name][1]}"):
            try:
                results[name] = _apart(name, options)
            except Exception as error:  # whatever it is, the others' results took minutes
                traceback.print_exception(error)
                results[name] = [Row("failed", None, "", f"{type(error).__name__}: {error}")]
                failed = True
        if given.json:  # after each: a kill costs one, which may be minutes
            text = json.dumps(report(options, results), indent=2)
            Path(given.json).write_text(text + "\n", encoding="utf-8")
    screen.print(table.grid(_cells(results), ["benchmark", "what", "value", "unit", "note"], right=(2,)))
    return int(failed)


def report(options: Options, results: dict[str, list[Row]]) -> dict[str, Any]:
    """The results for scripts: where they were made, with what, and every row of the table."""
    from fedrecon.experiment.storage.environment import environment

    return {
        "environment": environment(seed=0),
        "options": asdict(options),
        "rows": [
            {"benchmark": name, **row._replace(what=row.what.strip())._asdict()}
            for name, rows in results.items()
            for row in rows
        ],
    }


def run(name: str, options: Options) -> list[Row]:
    """Runs one benchmark in this process."""
    module: Any = import_module(f"benchmarks.{BENCHMARKS[name][0]}")
    return list(module.run(options))


def _apart(name: str, options: Options) -> list[Row]:
    """Runs one in a fresh process: none finds another's compiled programs, or its memory."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(run, name, options).result()


def _parser() -> argparse.ArgumentParser:
    more = "python -m benchmarks pair --help: how to compare two checkouts of the repository"
    parser = argparse.ArgumentParser("python -m benchmarks", description=__doc__, epilog=more)
    parser.add_argument("names", nargs="*", metavar="NAME", help="default: all")
    parser.add_argument("--list", action="store_true", help="say what there is")
    add_flags(parser)
    return parser


def _cells(results: dict[str, list[Row]]) -> list[list[str]]:
    lines = []
    for name, rows in results.items():
        for index, row in enumerate(rows):
            shown = "" if row.value is None else table.number(row.value)
            lines.append(["" if index else name, row.what, shown, row.unit, row.note])
    return lines
