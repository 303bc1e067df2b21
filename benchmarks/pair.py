"""Runs the same commands in this checkout and in another one in turn, and reports the ratios of what they
take, here / there.
"""

import argparse
import json
import multiprocessing
import tempfile
import traceback
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple, ParamSpec, TypeVar

from rich.console import Console
from rich.status import Status
from rich.table import Table

from benchmarks import table
from benchmarks.options import Options, add_flags, positive, read_flags
from benchmarks.pair_checkout import HERE, Checkout, NotACheckoutError
from benchmarks.pair_work import Sample, Work

PAIRS = 15

P = ParamSpec("P")
T = TypeVar("T")


class Ratio(NamedTuple):
    """One measure of one work on both sides.

    Attributes:
        benchmark: The work's name.
        what: The measure's label.
        unit: Unit of `here` and `there`.
        here: Median over the runs of this checkout.
        there: Median over the runs of the other checkout.
        ratio: Median of the ratios here / there of the pairs.
        least: The least of these ratios.
        most: The largest of them.
        pairs: Here and there of every pair, in the order in which they ran.
    """

    benchmark: str
    what: str
    unit: str
    here: float
    there: float
    ratio: float
    least: float
    most: float
    pairs: list[tuple[float, float]]


def ratios(benchmark: str, here: Sequence[Sample], there: Sequence[Sample]) -> list[Ratio]:
    """The ratios of all measures that every run of both sides reports, and reports above zero."""
    lines = []
    for measure in here[0]:
        if all(sample.get(measure, 0) > 0 for sample in (*here, *there)):
            pairs = [(a[measure], b[measure]) for a, b in zip(here, there, strict=True)]
            quotients = [a / b for a, b in pairs]
            lines.append(
                Ratio(
                    benchmark,
                    measure.what,
                    measure.unit,
                    median(a for a, _ in pairs),
                    median(b for _, b in pairs),
                    median(quotients),
                    min(quotients),
                    max(quotients),
                    pairs,
                )
            )
    return lines


def in_pairs(
    work: Work,
    sides: tuple[Checkout, Checkout],
    pairs: int,
    options: Options,
    ratings: Path | None,
    progress: Callable[[str], None] = lambda _: None,
) -> tuple[list[Sample], list[Sample]]:
    """Runs a work on two sides in turn, after one uncounted run of each that fills its caches.

    Args:
        work: What runs.
        sides: The two checkouts.
        pairs: How many times each runs.
        options: Sizes of the work.
        ratings: File of ratings for work that needs one.
        progress: Is called with a short text before each run.

    Returns:
        What each side took, a sample a run, in the order of the pairs.
    """
    for side in sides:
        progress("preparation and a run to warm up")
        work.prepare(side, options, ratings)
        work.measure(side, options, ratings)
    samples: tuple[list[Sample], list[Sample]] = ([], [])
    for pair in range(pairs):
        progress(f"pair {pair + 1} of {pairs}")
        # Every other pair runs in reverse, so that a machine that slows down steadily favours no side.
        for index in (0, 1) if pair % 2 == 0 else (1, 0):
            samples[index].append(work.measure(sides[index], options, ratings))
    return samples


def run(
    names: Sequence[str],
    works: Mapping[str, Work],
    roots: tuple[Path, Path],
    pairs: int,
    options: Options,
    screen: Console,
    json_path: str | None = None,
) -> int:
    """Pairs every name and prints the table; returns 1 where a command failed, else 0.

    Args:
        names: Of the works.
        works: What can be paired, by name.
        roots: The folders of the checkouts, here and there.
        pairs: How many times each side runs each work.
        options: Sizes of the work.
        screen: Where progress and the table are shown.
        json_path: File for the results, written anew after each name; None for no file.

    Raises:
        NotACheckoutError: One of the folders is not a checkout whose commands can run.
    """
    lines: list[Ratio] = []
    failures: dict[str, str] = {}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        sides = Checkout(roots[0], folder / "here"), Checkout(roots[1], folder / "there")
        about = _apart(_about, *roots)
        screen.print(f"here {_named(about['here'])}, there {_named(about['there'])}; ratios are here / there")
        ratings = None
        if any(works[name].needs_ratings for name in names):
            ratings = Path(options.data).absolute() if options.data else _apart(_generated, folder, options)
        for name in names:
            try:
                with screen.status(name) as status:
                    samples = in_pairs(works[name], sides, pairs, options, ratings, _shown(status, name))
                lines += ratios(name, *samples)
            except Exception as error:  # whatever it is, the others' results took minutes
                traceback.print_exception(error)
                failures[name] = f"{type(error).__name__}: {error}"
            if json_path:  # after each: a kill costs one, which may be minutes
                asked = {**asdict(options), "pairs": pairs}
                rows = [line._asdict() for line in lines]
                report = {**about, "options": asked, "rows": rows, "failures": failures}
                Path(json_path).write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    screen.print(_table(lines, failures))
    return int(bool(failures))


def main(arguments: Sequence[str], works: Mapping[str, Work], here: Path = HERE) -> int:
    """Runs the command; returns its exit status: 1 where a command of one side failed.

    Args:
        arguments: Those after `pair`.
        works: What can be paired, by name.
        here: The checkout that is compared with that of `--against`.
    """
    parser = argparse.ArgumentParser("python -m benchmarks pair", description=__doc__)
    says = "; ".join(f"{name}: {work.says}" for name, work in works.items())
    parser.add_argument("names", nargs="+", metavar="NAME", help=says)
    parser.add_argument("--against", required=True, metavar="WORKTREE", help="a checkout of another commit")
    parser.add_argument(
        "--pairs", type=positive, default=PAIRS, metavar="N", help=f"runs of each side; default: {PAIRS}"
    )
    add_flags(parser)
    given = parser.parse_intermixed_args(arguments)
    for name in given.names:
        if name not in works:
            parser.error(f"NAME must be one of {', '.join(works)}, got {name!r}")
    if given.json and not Path(given.json).absolute().parent.is_dir():
        parser.error(f"--json: there is no folder {Path(given.json).absolute().parent}")
    roots = here, Path(given.against)
    try:
        return run(given.names, works, roots, given.pairs, read_flags(given), table.screen(), given.json)
    except NotACheckoutError as error:
        parser.error(f"--against: {error}")


def _apart(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Calls a function in a process of its own.

    On Linux a process's largest memory is at least what the process that started it held, so that this one
    must stay small: it never imports JAX.
    """
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function, *args, **kwargs).result()


def _about(here: Path, there: Path) -> dict[str, Any]:
    """The machine and the two checkouts, for scripts."""
    from fedrecon.experiment.storage.environment import environment, revision

    sides = {
        side: {"folder": str(root.resolve()), **revision(root)}
        for side, root in (("here", here), ("there", there))
    }
    return {"environment": environment(seed=0), **sides}


def _generated(folder: Path, options: Options) -> Path:
    """Writes the file of generated ratings that the benchmark `run` reads."""
    from benchmarks.whole_run import generated

    return generated(folder, options)


def _named(side: dict[str, Any]) -> str:
    """A checkout's commit, or its folder where git does not know it."""
    changed = " with changes" if side.get("changed") else ""
    return f"{side['revision'][:10]}{changed}" if "revision" in side else str(side["folder"])


def _shown(status: Status, name: str) -> Callable[[str], None]:
    return lambda doing: status.update(f"{name}: {doing}")


def _table(lines: Sequence[Ratio], failures: Mapping[str, str]) -> Table:
    cells, before = [], None
    for line in lines:
        name = line.benchmark if line.benchmark != before else ""
        before = line.benchmark
        here, there = table.number(line.here), table.number(line.there)
        spread = f"{line.least:.3f} to {line.most:.3f}"
        cells.append([name, line.what, here, there, line.unit, f"{line.ratio:.3f}x", spread])
    cells += [[name, "failed", "", "", "", "", reason] for name, reason in failures.items()]
    head = ["benchmark", "what", "here", "there", "unit", "ratio", "of the pairs"]
    return table.grid(cells, head, right=(2, 3, 5))
