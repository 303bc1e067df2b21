"""Next-word training at the paper's size, over its own matrix products alone."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import next_word_products, timing
from benchmarks.options import Options, Row
from fedrecon import Clients, Simulation, Solver, Uniform, fedrecon, optimizer
from fedrecon.compilation import engine_options
from fedrecon.data import Examples, HalfBatches
from fedrecon.experiment.measure import peak_memory
from fedrecon.model import Model, on_global, on_local
from fedrecon.tasks.next_word.model import next_word_lstm

WORDS, BUCKETS, EMBEDDING, HIDDEN = 10_000, 500, 96, 670
BATCH, LENGTH, EPOCHS, STEPS = 16, 20, 5, 2
SIDE_BY_SIDE, BLOCKS, BATCHES = 4, 2, 4  # of a round's clients; half of the batches are support
CLASSES, TOKENS, COHORT = WORDS + 3 + BUCKETS, BATCH * LENGTH, SIDE_BY_SIDE * BLOCKS
PEAK = 2048  # rows and columns of the product that stands for the machine's peak
ROUNDS, CHUNKS = 4, 2
ALONE = ", its products alone"


def run(options: Options) -> list[Row]:
    """Times rounds, steps of each phase, and beside each its own products."""
    model = next_word_lstm(WORDS, BUCKETS, embedding=EMBEDDING, hidden=HIDDEN)
    rounded = next_word_lstm(WORDS, BUCKETS, embedding=EMBEDDING, hidden=HIDDEN, precision="bfloat16")
    clients = _clients()
    g = jax.jit(model.init_global)(jax.random.key(0))
    one = 2 * TOKENS * next_word_products.multiplications(g)  # operations of a step's forward pass
    reconstruct, update = EPOCHS * BATCHES // 2, BATCHES // 2
    work = {
        "round": COHORT * one * (2 * reconstruct + 3 * update),
        "update": STEPS * 3 * one,
        "reconstruction": STEPS * SIDE_BY_SIDE * 2 * one,
    }
    work |= {f"{name}{ALONE}": operations for name, operations in work.items()}
    work |= {"update, bfloat16": work["update"], "peak": 2 * PEAK**3}
    calls = _calls(model, rounded, clients, g)
    simulation = _simulation(model, clients)
    ways: dict[str, timing.Way] = {"round": timing.Rounds(simulation).time}
    ways |= {name: functools.partial(timing.timed, call) for name, call in calls.items()}
    for warm_up in ways.values():
        warm_up(1)
    found = timing.in_turn(ways, options.rounds or ROUNDS, CHUNKS)
    # The least of each: what else the machine does can only add to it.
    best = {name: min(t.seconds) for name, t in found.items()}
    rate = {name: work[name] / best[name] / 1e9 for name in work}
    load = f"load {timing.load():.1f}"
    rows = [
        Row(
            name,
            rate[name],
            "GFLOP/s",
            f"{1e3 * best[name]:,.0f} ms, {work[name] / 1e9:,.1f} GFLOP; {load}",
        )
        for name in work
    ]
    for name in ("round", "update", "reconstruction"):
        alone = f"{name}{ALONE}"
        by_work = f"{timing.work(found[alone]) / timing.work(found[name]):.3g}x in CPU time"
        rows.append(Row(f"{name} over its products", rate[name] / rate[alone], "x", by_work))
        rows.append(Row(f"{name} over the peak", rate[name] / rate["peak"], "x"))
    rows.append(Row("compilations", simulation.compilations, "", "of the rounds"))
    rows.append(Row("peak memory", (peak_memory() or 0) / 1e6, "MB", "of this process"))
    return rows


def _clients() -> Clients:
    """Of equal length: padding is measured elsewhere."""
    rng = np.random.default_rng(0)
    shape = (COHORT, BATCHES * BATCH, LENGTH)
    bucket = np.where(rng.random(shape) < 0.05, rng.integers(BUCKETS, size=shape), -1)
    word = np.where(bucket < 0, rng.integers(1, WORDS, shape), 0)
    fields = {"word": word, "bucket": bucket, "target": rng.integers(2, CLASSES, shape)}
    return Clients.from_arrays(
        {i: {k: x[i].astype(np.int32) for k, x in fields.items()} for i in range(COHORT)}
    )


def _stage(epochs: int = 1, one_by_one: bool = False) -> Solver:
    return Solver(optimizer("sgd", learning_rate=0.1), BATCH, epochs, one_by_one=one_by_one)


def _simulation(model: Model, clients: Clients) -> Simulation:
    """The paper's recipe on a smaller cohort."""
    server = optimizer("yogi_zero", learning_rate=0.1)
    algorithm = fedrecon(model, _stage(EPOCHS), _stage(one_by_one=True), server, split=HalfBatches(BATCH))
    return Simulation(algorithm, clients, Uniform(COHORT), clients_per_block=SIDE_BY_SIDE)


def _calls(model: Model, rounded: Model, clients: Clients, g: Any) -> dict[str, Callable[[], Any]]:
    """Compiled calls: steps of each phase, products, and the product that stands for the peak."""
    key, rng = jax.random.key(0), np.random.default_rng(1)
    x = jax.jit(model.init_local)(g, key)
    size = STEPS * BATCH
    first = [{name: v[:size] for name, v in clients[i].items()} for i in range(SIDE_BY_SIDE)]
    side_by_side = jax.tree.map(lambda *x: jnp.stack(x), *first)
    mask = jnp.ones(size, bool)

    def update(model: Model, g: Any, data: Any) -> Any:
        return _stage().displacement(on_global(model, x), g, Examples(data, mask), key)[0]

    def reconstruct(g: Any, data: Any) -> Any:
        return jax.vmap(lambda d: _stage()(on_local(model, g), x, Examples(d, mask), key)[0])(data)

    one, many = (
        jnp.asarray(rng.normal(size=(n * TOKENS, EMBEDDING)), jnp.float32) for n in (1, SIDE_BY_SIDE)
    )

    def round_products(g: Any) -> Any:
        def block(total: Any, _: Any) -> Any:
            fit = next_word_products.steps(g, many + total, LENGTH, False, EPOCHS * BATCHES // 2)
            change = next_word_products.steps(g, one + fit, LENGTH, True, SIDE_BY_SIDE * BATCHES // 2)
            return total + change, None

        return jax.lax.scan(block, jnp.float32(0), None, length=BLOCKS)[0]

    square = jnp.asarray(rng.normal(size=(PEAK, PEAK)), jnp.float32)
    programs: dict[str, tuple[Any, ...]] = {
        "update": (functools.partial(update, model), g, first[0]),
        "reconstruction": (reconstruct, g, side_by_side),
        f"round{ALONE}": (round_products, g),
        f"update{ALONE}": (lambda g: next_word_products.steps(g, one, LENGTH, True, STEPS), g),
        f"reconstruction{ALONE}": (lambda g: next_word_products.steps(g, many, LENGTH, False, STEPS), g),
        "update, bfloat16": (functools.partial(update, rounded), g, first[0]),
        "peak": (lambda a: a @ a, square),
    }
    return {
        name: functools.partial(jax.jit(fn, compiler_options=engine_options(heavy=True)), *args)
        for name, (fn, *args) in programs.items()
    }
