"""A federation of a million clients: written, opened, and trained on, beside a hundredth of it."""

import multiprocessing
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from benchmarks import recipe, timing
from benchmarks.options import Options, Row
from fedrecon import Clients
from fedrecon.data import is_client_file
from fedrecon.experiment.storage.resource_usage import peak_memory
from fedrecon.experiment.training.run_experiment import console

CLIENTS, ITEMS, COHORT = 1_000_000, 100_000, 1_000
SHARE = 100  # of the clients, one in so many is the small population
ROUNDS = 40
CHUNKS = 8
WARM_UP = 3
MEGABYTE = 1e6


def run(options: Options) -> list[Row]:
    if options.data is not None and is_client_file(options.data):
        return _trained(Path(options.data), options, [])
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "population.arrow"
        as_asked = options.clients != Options.clients
        size = (options.clients, options.items) if as_asked else (CLIENTS, ITEMS)
        begun = time.perf_counter()
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
            peak = pool.submit(_generate, path, *size).result()
        rows = [
            Row("writing the client file", time.perf_counter() - begun, "s", "generated, in pieces"),
            Row("  its size", path.stat().st_size / MEGABYTE, "MB"),
            Row("  peak memory", peak / MEGABYTE, "MB", "of the process that wrote it"),
        ]
        return _trained(path, options, rows)


def _generate(path: Path, clients: int, items: int) -> int:
    from fedrecon.experiment.cli.commands.generate import generate

    generate(path, console(), clients, items, 100.0, recipe.SEED)
    return peak_memory() or 0


def _trained(path: Path, options: Options, rows: list[Row]) -> list[Row]:
    begun = time.perf_counter()
    whole = Clients.open(path)
    opened = time.perf_counter() - begun
    per_round = options.clients_per_round
    cohort = COHORT if per_round == Options.clients_per_round else per_round
    cohort = min(cohort, len(whole))
    populations = {
        len(clients): clients.cap(recipe.CAP)
        for clients in (whole.take(range(max(cohort, len(whole) // SHARE))), whole)
    }
    prepared: dict[int, float] = {}
    ways: dict[int, timing.Way] = {}
    for size, clients in populations.items():
        begun = time.perf_counter()
        rounds = timing.Rounds(recipe.simulation(clients, cohort))
        prepared[size] = time.perf_counter() - begun
        ways[size] = rounds.time
        rounds.time(WARM_UP)
    found = timing.in_turn(ways, options.rounds or ROUNDS, CHUNKS)
    ours = {size: timing.milliseconds(timed) for size, timed in found.items()}
    work = {size: timing.work(timed) for size, timed in found.items()}
    small, large = min(ours), max(ours)
    examples = int(whole.num_examples.sum())
    rows.append(Row("opening it", opened, "s", f"{len(whole):,} clients, {examples:,} examples"))
    for size in populations:
        rows += [
            Row(f"round, {size:,} clients", ours[size], "ms", f"cohorts of {cohort:,}"),
            Row("  of CPU", work[size], "ms"),
            Row(
                "  from clients to the first state", prepared[size], "s", "layout, checks, initial parameters"
            ),
        ]
    return [
        *rows,
        Row("large over small", ours[large] / ours[small], "x", "medians of wall time"),
        Row("  in CPU time", work[large] / work[small], "x"),
        Row("memory while training", resident() / MEGABYTE, "MB", "pages of the mapped file included"),
        Row("  peak", (peak_memory() or 0) / MEGABYTE, "MB"),
        Row("machine load", timing.load(), "", "processes that wanted a core in the last minute"),
    ]


def resident() -> int:
    """Bytes of memory that this process has now; where the system does not say, the most it ever had."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except OSError:
        return peak_memory() or 0
    import resource

    return pages * resource.getpagesize()
