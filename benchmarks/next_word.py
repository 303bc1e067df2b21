"""Next-word training at the paper's size, over its own matrix products alone."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import next_word_products, next_word_recipe, timing
from benchmarks.next_word_recipe import PAPER, Size
from benchmarks.options import Options, Row
from fedrecon import Clients
from fedrecon.core import Examples, Model, on_global, on_local
from fedrecon.experiment.storage.resource_usage import peak_memory
from fedrecon.simulation._compilation import engine_options

STEPS = 2
PEAK = 2048  # rows and columns of the product that stands for the machine's peak
ROUNDS = 4
ALONE = ", its products alone"


def run(options: Options, size: Size = PAPER) -> list[Row]:
    """Times rounds, steps of each phase, and beside each its own products."""
    model = next_word_recipe.model(size)
    rounded = next_word_recipe.model(size, precision="bfloat16")
    clients = next_word_recipe.clients(size)
    g = jax.jit(model.init_global)(jax.random.key(0))
    one = 2 * size.tokens * next_word_products.multiplications(g)  # operations of a step's forward pass
    reconstruct, update = size.epochs * size.batches // 2, size.batches // 2
    work = {
        "round": size.cohort * one * (2 * reconstruct + 3 * update),
        "update": STEPS * 3 * one,
        "reconstruction": STEPS * size.side_by_side * 2 * one,
    }
    work = {f"{name}{rest}": operations for name, operations in work.items() for rest in ("", ALONE)}
    work |= {"update, bfloat16": work["update"], "peak": 2 * PEAK**3}
    calls = _calls(size, model, rounded, clients, g)
    algorithm = next_word_recipe.algorithm(size, model)
    simulation = next_word_recipe.simulation(size, algorithm, clients)
    ways: dict[str, timing.Way] = {
        name: functools.partial(timing.timed, call) for name, call in calls.items()
    }
    ways = {"round": timing.Rounds(simulation).time} | ways
    ways = {name: ways[name] for name in work}  # each, then its products
    for warm_up in ways.values():
        warm_up(1)
    rounds = options.rounds or ROUNDS
    found = timing.in_turn(ways, rounds, rounds)
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
        alone = found[f"{name}{ALONE}"]
        # Each beside the products that ran right after it: what else the machine does comes and goes.
        ratios = np.divide(alone.seconds, found[name].seconds)
        by_work = timing.work(alone) / timing.work(found[name])
        note = f"median of {min(ratios):.3g}x to {max(ratios):.3g}x; {by_work:.3g}x in CPU time"
        rows.append(Row(f"{name} over its products", float(np.median(ratios)), "x", note))
        rows.append(Row(f"{name} over the peak", rate[name] / rate["peak"], "x"))
    rows.append(Row("compilations", simulation.compilations, "", "of the rounds"))
    rows.append(Row("peak memory", (peak_memory() or 0) / 1e6, "MB", "of this process"))
    return rows


def _calls(
    size: Size, model: Model, rounded: Model, clients: Clients, g: Any
) -> dict[str, Callable[[], Any]]:
    """Compiled calls: steps of each phase, products, and the product that stands for the peak."""
    key, rng = jax.random.key(0), np.random.default_rng(1)
    x = jax.jit(model.init_local)(g, key)
    taken = STEPS * size.batch
    first = [{name: v[:taken] for name, v in clients[i].items()} for i in range(size.side_by_side)]
    side_by_side = jax.tree.map(lambda *x: jnp.stack(x), *first)
    mask, stage = jnp.ones(taken, bool), next_word_recipe.stage(size)

    def update(model: Model, g: Any, data: Any) -> Any:
        return stage.solve_delta(on_global(model, x), g, Examples(data, mask), key)[0]

    def reconstruct(g: Any, data: Any) -> Any:
        return jax.vmap(lambda d: stage(on_local(model, g), x, Examples(d, mask), key)[0])(data)

    one, many = (
        jnp.asarray(rng.normal(size=(n * size.tokens, size.embedding)), jnp.float32)
        for n in (1, size.side_by_side)
    )

    length, support = size.length, size.batches // 2

    def round_products(g: Any) -> Any:
        def block(total: Any, _: Any) -> Any:
            fit = next_word_products.steps(g, many + total, length, False, size.epochs * support)
            query = size.side_by_side * (size.batches - support)
            change = next_word_products.steps(g, one + fit, length, True, query)
            return total + change, None

        return jax.lax.scan(block, jnp.float32(0), None, length=size.blocks)[0]

    square = jnp.asarray(rng.normal(size=(PEAK, PEAK)), jnp.float32)
    programs: dict[str, tuple[Any, ...]] = {
        "update": (functools.partial(update, model), g, first[0]),
        "reconstruction": (reconstruct, g, side_by_side),
        f"round{ALONE}": (round_products, g),
        f"update{ALONE}": (lambda g: next_word_products.steps(g, one, length, True, STEPS), g),
        f"reconstruction{ALONE}": (lambda g: next_word_products.steps(g, many, length, False, STEPS), g),
        "update, bfloat16": (functools.partial(update, rounded), g, first[0]),
        "peak": (lambda a: a @ a, square),
    }
    return {
        name: functools.partial(jax.jit(fn, compiler_options=engine_options(heavy=True)), *args)
        for name, (fn, *args) in programs.items()
    }
