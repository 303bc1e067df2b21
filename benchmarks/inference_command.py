"""`fedrecon personalize` of a client file, from process start to end."""

import io
import os
import re
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

from rich.console import Console

from benchmarks import recipe
from benchmarks.options import Row
from fedrecon import Clients
from fedrecon.experiment.config import resolve
from fedrecon.experiment.training.run_experiment import run_experiment

FEW = 500  # clients, which leave the compiled programs in the cache
REPEATS = 2
TOP = 20
_SAID = re.compile(r"clients in ([\d.]+) s, .* to start; peak memory ([\d.]+) (MB|GB)")
_MEGABYTES = {"MB": 1.0, "GB": 1000.0}


class Timed(NamedTuple):
    """A command that ran.

    Attributes:
        wall: Seconds from process start to end.
        cpu: Seconds of all its threads.
        steady: Seconds from the first part of the file to the file.
        peak: Memory, megabytes.
    """

    wall: float
    cpu: float
    steady: float
    peak: float


def rows(clients: Clients, penalty: float) -> list[Row]:
    """The command's rows.

    Args:
        clients: Who is personalised; their items are numbered from 0.
        penalty: Of the users' factors.
    """
    found = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        _train(folder / "run", len(clients.vocabularies["item"]), penalty)
        clients.write(folder / "clients.arrow")
        clients.take(range(min(FEW, len(clients)))).write(folder / "few.arrow")
        for kind, flags in (("local parameters", []), (f"the best {TOP} items", ["--top", str(TOP)])):
            repeats = 1
            if len(clients) > FEW:  # not where somebody tries the benchmark out
                _call(folder, "few.arrow", flags)
                repeats = REPEATS
            times = [_call(folder, "clients.arrow", flags) for _ in range(repeats)]
            found += _rows(kind, len(clients), min(times))
    return found


def _train(folder: Path, items: int, penalty: float) -> None:
    """A run of two rounds: how good its item table is changes nothing in what inference takes."""
    values = {
        "task": "synthetic_ratings",
        "data": {"clients": 100, "items": items},
        "model": {"factors": recipe.FACTORS, "init": "normal", "user_penalty": penalty},
        "algorithm": {"reconstruct": {"kind": "newton"}},
        "training": {"rounds": 2, "clients_per_round": 10},
    }
    run_experiment(resolve(values, "benchmark"), folder, Console(file=io.StringIO()))


def _call(folder: Path, data: str, flags: list[str]) -> Timed:
    environment = {k: v for k, v in os.environ.items() if k != "JAX_COMPILATION_CACHE_DIR"}
    out = folder / "out.parquet"
    command = [sys.executable, "-m", "fedrecon", "personalize", "run", "--data", data, "--out", out.name]
    cpu, start = _cpu_of_children(), time.perf_counter()
    done = subprocess.run(
        [*command, *flags],
        cwd=folder,
        env={**environment, "XDG_CACHE_HOME": str(folder / "cache")},
        capture_output=True,
        text=True,
        check=False,
    )
    wall = time.perf_counter() - start
    if done.returncode != 0:
        raise RuntimeError(f"fedrecon personalize ended with {done.returncode}: {done.stderr.strip()}")
    out.unlink()
    said = _SAID.search(done.stdout)
    if said is None:
        raise RuntimeError(f"fedrecon personalize does not say what it took: {done.stdout.strip()}")
    peak = float(said[2]) * _MEGABYTES[said[3]]
    return Timed(wall, _cpu_of_children() - cpu, float(said[1]), peak)


def _cpu_of_children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _rows(kind: str, count: int, took: Timed) -> list[Row]:
    note = f"{count:,} clients of a client file, into Parquet; the compiled program from the cache"
    return [
        Row(f"command, {kind}: clients per second", count / took.wall, "", note),
        Row("  once it has started", count / took.steady if took.steady else None, ""),
        Row("  start", took.wall - took.steady, "s", "imports, the run's data and parameters"),
        Row("  of CPU per client", took.cpu / count * 1e6, "µs", "start included"),
        Row("  peak memory", took.peak, "MB", "pages of the mapped file included"),
    ]
