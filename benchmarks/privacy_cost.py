"""What user-level differential privacy adds to a round: three rounds with it and without, side by side."""

import multiprocessing
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from typing import NamedTuple

import jax

from benchmarks import numba_round, recipe, timing
from benchmarks.options import Options, Row
from fedrecon import (
    Algorithm,
    AlternateBatches,
    Clients,
    Newton,
    Passes,
    RandomFraction,
    Simulation,
    Solver,
    algorithms,
    fedrecon,
    optimizer,
    privacy,
)
from fedrecon.datasets.ratings import arrange, synthetic
from fedrecon.experiment.storage.resource_usage import peak_memory
from fedrecon.models import matrix_factorization

ROUNDS = 60
CHUNKS = 10
WARM_UP = 3
# The large table: items, generated clients, and clients in a round.
ITEMS, CLIENTS, COHORT = 100_000, 8_000, 1_000
PLANNED = 10**6  # rounds that are accounted for, more than are ever run here
MEMORY_BOUND = 1.3
_NAMES = ("newton", "movielens", "large table")


class Case(NamedTuple):
    """A round that is timed.

    Attributes:
        title: What it is, for the table.
        algorithm: Without privacy; its clients weigh the same.
        clients: That are trained on.
        cohort: Clients in a round.
    """

    title: str
    algorithm: Algorithm
    clients: Clients
    cohort: int

    def simulation(self, private: bool) -> Simulation:
        """The rounds, with a ledger or without one."""
        sampling, algorithm = Passes(self.cohort), self.algorithm
        if private:
            algorithm = privacy.user_level_dp(
                algorithm,
                clip=1.0,
                noise_multiplier=1.0,
                rounds=PLANNED,
                sampling=sampling,
                num_clients=len(self.clients),
                delta=1e-9,
            )
        return Simulation(algorithm, self.clients, sampling, seed=recipe.SEED)


def run(options: Options) -> list[Row]:
    return [row for name in _NAMES for row in _rows(name, options)]


def case(name: str, options: Options) -> Case:
    """A round by its name; sizes that the options give hold for all."""
    as_asked = options.clients_per_round != Options.clients_per_round
    if name == "large table":
        small = options.clients != Options.clients
        size = (options.clients, options.items) if small else (CLIENTS, ITEMS)
        clients = arrange(
            synthetic(*size, seed=recipe.SEED)[0], seed=recipe.SEED, cap=recipe.CAP, fractions={"train": 1.0}
        )["train"].select("item", "rating")
        cohort, algorithm = COHORT, _authors(clients, epochs=1)
    else:
        clients = recipe.training_clients(options)
        newton = name == "newton"
        cohort = 200 if newton else 100
        algorithm = _newton(clients) if newton else _authors(clients, epochs=5)
    cohort = min(options.clients_per_round if as_asked else cohort, len(clients))
    titles = {
        "newton": f"movielens-newton, {cohort} clients",
        "movielens": f"movielens, {cohort} clients",
        "large table": f"{cohort:,} clients on {recipe.num_items(clients):,} items",
    }
    return Case(titles[name], algorithm, clients, cohort)


def _newton(clients: Clients) -> Algorithm:
    """The recipe of `experiments/movielens-newton.toml`."""
    model = matrix_factorization(
        recipe.num_items(clients),
        recipe.FACTORS,
        item_bias=True,
        user_bias=True,
        global_bias=3.0,
        init="normal",
        init_scale=0.1,
        user_penalty=20.0,
        user_bias_penalty=5.0,
    )
    update = Solver(optimizer("sgd", learning_rate=1.0), None, reduction="sum")
    adam, split = optimizer("adam", learning_rate=0.003), RandomFraction(0.5)
    return fedrecon(model, Newton(), update, adam, split, client_weight=algorithms.uniform)


def _authors(clients: Clients, epochs: int) -> Algorithm:
    """The recipe of `experiments/movielens.toml`, but for weights that are alike."""
    reconstruct = Solver(
        optimizer("sgd", learning_rate=numba_round.RECONSTRUCT_RATE),
        numba_round.BATCH,
        epochs=epochs,
        max_steps=numba_round.MAX_STEPS,
    )
    update = Solver(
        optimizer("sgd", learning_rate=numba_round.UPDATE_RATE),
        numba_round.BATCH,
        max_steps=numba_round.MAX_STEPS,
    )
    server, split = (
        optimizer("sgd", learning_rate=numba_round.SERVER_RATE),
        AlternateBatches(numba_round.BATCH),
    )
    model = recipe.model(clients)
    return fedrecon(model, reconstruct, update, server, split, client_weight=algorithms.uniform)


def _rows(name: str, options: Options) -> Iterator[Row]:
    timed_case = case(name, options)
    ways: dict[str, timing.Way] = {
        "plain": timing.Rounds(timed_case.simulation(False)).time,
        "private": timing.Rounds(timed_case.simulation(True)).time,
        "normal": _normal(timed_case.algorithm),
    }
    for warm_up in ways.values():
        warm_up(WARM_UP)
    found = timing.in_turn(ways, options.rounds or ROUNDS, CHUNKS)
    plain, private, normal = (timing.milliseconds(found[way]) for way in ("plain", "private", "normal"))
    cpu = {way: timing.work(x) for way, x in found.items()}
    bounds = {"newton": "bound 1.5x", "large table": "bound 2x"}
    yield Row(f"{timed_case.title}: without privacy", plain, "ms", f"{cpu['plain']:.1f} ms of CPU")
    yield Row("  with", private, "ms", f"{cpu['private']:.1f} ms of CPU")
    yield Row("  one jax.random.normal of the model's size", normal, "ms", f"{cpu['normal']:.1f} ms of CPU")
    yield Row("  with over without", private / plain, "x", bounds.get(name, ""))
    yield Row("  in CPU time", cpu["private"] / cpu["plain"], "x")
    bound = "bound 2" if name == "movielens" else ""
    yield Row("  what privacy adds, over that normal", (private - plain) / normal, "normals", bound)
    memory = {way: _apart(name, options, way) / 1e6 for way in (False, True)}
    yield Row("  peak memory without", memory[False], "MB", "a process of its own")
    yield Row("  peak memory with", memory[True], "MB", "likewise")
    yield Row("  with over without", memory[True] / memory[False], "x", f"bound {MEMORY_BOUND}x")


def _normal(algorithm: Algorithm) -> timing.Way:
    """Draws as many normal numbers as the model has parameters, time after time."""
    shapes = jax.eval_shape(algorithm.model.init_global, jax.random.key(0))

    @jax.jit
    def draw(key: jax.Array) -> list[jax.Array]:
        leaves = jax.tree.leaves(shapes)
        keys = jax.random.split(key, len(leaves))
        return [jax.random.normal(k, x.shape, x.dtype) for k, x in zip(keys, leaves, strict=True)]

    key = jax.random.key(recipe.SEED)
    return lambda count: timing.timed(lambda: draw(key), count)


def _apart(name: str, options: Options, private: bool) -> int:
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(_peak, name, options, private).result()


def _peak(name: str, options: Options, private: bool) -> int:
    """The peak memory in bytes of a process that runs some rounds."""
    timing.Rounds(case(name, options).simulation(private)).time(WARM_UP)
    return peak_memory() or 0
