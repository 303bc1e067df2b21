"""`fedrecon run` of the authors' recipe at one reconstruction epoch, from process start to end."""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.options import Options, Row
from benchmarks.recipe import SEED
from fedrecon.datasets.ratings import synthetic

ROUNDS = 500
EXPERIMENT = Path(__file__).resolve().parents[1] / "experiments" / "movielens.toml"


def run(options: Options) -> list[Row]:
    rounds = options.rounds or ROUNDS
    with tempfile.TemporaryDirectory() as folder:
        data = Path(options.data) if options.data is not None else generated(Path(folder), options)
        cold, warm = (
            _run(
                data,
                Path(folder) / "cache",
                Path(folder) / name,
                rounds,
                options.clients_per_round,
            )
            for name in ("cold", "warm")
        )
    said = f"{rounds} rounds, validation every 50, test at the end, run folder and plots"
    return _rows("cold", f"{said}; nothing cached: the ratings are read, programs compiled", *cold) + _rows(
        "warm", "the same again, with the caches of ratings and programs that the first run left", *warm
    )


def generated(folder: Path, options: Options) -> Path:
    """A file of ratings in the format of MovieLens 1M, of its shape."""
    clients, _ = synthetic(options.clients, options.items, seed=SEED)
    users = np.repeat(clients.ids, clients.num_examples)
    rows = users + 1, clients.column("item") + 1, clients.column("rating"), np.arange(len(users))
    path = folder / "ratings.dat"
    np.savetxt(path, np.column_stack(rows), fmt="%d", delimiter="::")
    return path


def _run(
    data: Path, cache: Path, out: Path, rounds: int, clients_per_round: int
) -> tuple[float, dict[str, Any]]:
    """Wall seconds of a run in a process of its own, and its result.json."""
    environment = {k: v for k, v in os.environ.items() if k != "JAX_COMPILATION_CACHE_DIR"}
    command = [
        sys.executable,
        "-m",
        "fedrecon",
        "run",
        str(EXPERIMENT),
        "--data",
        str(data),
        "--out",
        str(out),
    ]
    for setting in (
        "algorithm.reconstruct.epochs=1",
        f"training.rounds={rounds}",
        f"training.clients_per_round={clients_per_round}",
    ):
        command += ["--set", setting]
    start = time.perf_counter()
    done = subprocess.run(
        command,
        env={**environment, "XDG_CACHE_HOME": str(cache)},
        capture_output=True,
        text=True,
        check=False,
    )
    seconds = time.perf_counter() - start
    if done.returncode != 0:
        raise RuntimeError(f"fedrecon run ended with {done.returncode}: {done.stderr.strip()}")
    return seconds, json.loads((out / "result.json").read_text(encoding="utf-8"))


def _rows(kind: str, note: str, wall: float, result: dict[str, Any]) -> list[Row]:
    seconds, test = result["seconds"], result["test"]["recon_eval"]["examples"]
    return [
        Row(f"{kind}: process start to end", wall, "s", note),
        Row("  to the first round's end", seconds["to_first_round"], "s"),
        Row("  tracing and compiling", seconds["compilation"], "s"),
        Row("  programs compiled by the rounds", result["compilations"], ""),
        Row("  peak memory", result["peak_memory_bytes"] / 1e6, "MB"),
        Row("  test RMSE", test["rmse"], "", "ReconEval over examples"),
    ]
