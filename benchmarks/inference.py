"""Clients reconstructed per second with Newton's method: in memory, beside what the matrix products alone
take, and by the command, from process start to the file on the disk.
"""

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import numpy as np

from benchmarks import inference_command, recipe, timing
from benchmarks.options import Options, Row
from fedrecon import Clients, Newton, Solver, fedrecon, optimizer
from fedrecon.experiment.serving.personalize import PER_PART, threads
from fedrecon.models import matrix_factorization
from fedrecon.serving import Personalization
from fedrecon.simulation import TrainedState

EXAMPLES = 80
PENALTY = 1.0
CLIENTS = 16 * PER_PART
OF_COMMAND = 100_000  # clients
REPEATS = 5


def run(options: Options) -> list[Row]:
    # So many clients as in a large file; fewer only where somebody tries the benchmark out.
    as_asked = options.clients != Options.clients
    count = options.clients if as_asked else CLIENTS
    clients = _clients(count, options.items)
    model = matrix_factorization(options.items, recipe.FACTORS, init="normal", user_penalty=PENALTY)
    sgd = optimizer("sgd", learning_rate=1.0)
    algorithm = fedrecon(model, Newton(), Solver(sgd, 5), sgd)
    state = TrainedState.of(jax.jit(algorithm.init)(jax.random.key(recipe.SEED)), clients.vocabularies)
    table = np.asarray(state.global_params["item"]["factors"])
    personalization = Personalization(algorithm, state, clients.num_examples)
    parts = [np.arange(i, min(i + PER_PART, count)) for i in range(0, count, PER_PART)]
    starts = np.arange(count) * EXAMPLES
    items = clients.column("item")

    def ours(part: Any) -> Any:
        return personalization(clients.take(part))["user/factors"]

    def products(part: Any) -> Any:
        x = table[
            items[starts[part[0]] : starts[part[0]] + len(part) * EXAMPLES].reshape(len(part), EXAMPLES)
        ]
        return np.matmul(x.transpose(0, 2, 1), x)

    found = np.concatenate([ours(part) for part in parts[:1]])
    wall, cpu = _best(lambda: _all(ours, parts, threads()))
    alone, alone_cpu = _best(lambda: _all(products, parts, threads()))
    size = f"{recipe.FACTORS} factors, {EXAMPLES} examples, {options.items:,} items, {threads()} threads"
    return [
        Row("clients per second", count / wall, "", f"{size}; local parameters in memory"),
        Row("  per client", wall / count * 1e6, "µs"),
        Row("  of CPU per client", cpu / count * 1e6, "µs", "of all threads"),
        Row("  cores at work", cpu / wall, "", "below the threads where others want the cores too"),
        Row("matrix products alone, per client", alone / count * 1e6, "µs", "XᵀX by NumPy, gather included"),
        Row("  of CPU", alone_cpu / count * 1e6, "µs"),
        Row("reconstruction over products, in CPU time", cpu / alone_cpu, "x"),
        Row(
            "largest difference from ridge regression", _off(found, table, clients), "", "in double precision"
        ),
        *inference_command.rows(_clients(count if as_asked else OF_COMMAND, options.items), PENALTY),
        Row("machine load", timing.load(), "", "processes that wanted a core in the last minute"),
    ]


def _clients(count: int, num_items: int) -> Clients:
    random = np.random.default_rng(recipe.SEED)
    columns = {
        "item": random.integers(0, num_items, count * EXAMPLES, dtype=np.int32),
        "rating": random.integers(1, 6, count * EXAMPLES).astype(np.float32),
    }
    offsets = np.arange(count + 1) * EXAMPLES
    return Clients.from_columns(np.arange(count), offsets, columns, {"item": np.arange(num_items)})


def _all(call: Callable[[Any], Any], parts: list[Any], count: int) -> None:
    with ThreadPoolExecutor(count) as pool:
        for _ in pool.map(call, parts):
            pass


def _best(call: Callable[[], None]) -> tuple[float, float]:
    """Wall and CPU seconds of the quickest of a few calls."""
    found = []
    for _ in range(REPEATS):
        cpu, start = time.process_time(), time.perf_counter()
        call()
        found.append((time.perf_counter() - start, time.process_time() - cpu))
    return min(wall for wall, _ in found), min(cpu for _, cpu in found)


def _off(found: np.ndarray, table: np.ndarray, clients: Clients) -> float:
    worst = 0.0
    for i in range(0, len(found), max(1, len(found) // 200)):
        data = clients[i]
        x = table[data["item"]].astype(float)
        wanted = np.linalg.solve(x.T @ x + PENALTY * np.eye(x.shape[1]), x.T @ data["rating"])
        worst = max(worst, float(np.abs(found[i] - wanted).max()))
    return worst
