"""Next-word training at the paper's size, over its own matrix products alone."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import timing
from benchmarks.options import Options, Row
from fedrecon import Solver, optimizer
from fedrecon.compilation import engine_options
from fedrecon.data import Examples
from fedrecon.model import on_global, on_local
from fedrecon.tasks.next_word.model import next_word_lstm

WORDS, BUCKETS, EMBEDDING, HIDDEN = 10_000, 500, 96, 670
BATCH, LENGTH, STEPS, SIDE_BY_SIDE = 16, 20, 2, 4
TOKENS, CLASSES = BATCH * LENGTH, WORDS + 3 + BUCKETS
PEAK = 2048  # rows and columns of the product that stands for the machine's peak
ROUNDS, CHUNKS = 8, 4


def run(options: Options) -> list[Row]:
    """Times a client's update and its reconstruction, each beside its own products."""
    forward = TOKENS * (
        EMBEDDING * 4 * HIDDEN + HIDDEN * 4 * HIDDEN + HIDDEN * EMBEDDING + EMBEDDING * CLASSES
    )
    work = {
        "update": STEPS * 2 * 3 * forward,
        "update, its products alone": STEPS * 2 * 3 * forward,
        "update, bfloat16": STEPS * 2 * 3 * forward,
        "reconstruction": STEPS * 2 * 2 * forward,  # nothing for the global parameters
        f"reconstruction, {SIDE_BY_SIDE} clients side by side": SIDE_BY_SIDE * STEPS * 2 * 2 * forward,
        "reconstruction, its products alone": STEPS * 2 * 2 * forward,
        "peak": 2 * PEAK**3,
    }
    calls = dict(zip(work, _calls(), strict=True))
    for call in calls.values():
        jax.block_until_ready(call())

    def way(call: Callable[[], Any]) -> timing.Way:
        return lambda count: timing.timed(call, count)

    found = timing.in_turn(
        {name: way(call) for name, call in calls.items()}, options.rounds or ROUNDS, CHUNKS
    )
    # The least of each: what else the machine does can only add to it.
    best = {name: min(t.seconds) for name, t in found.items()}
    rate = {name: work[name] / best[name] / 1e9 for name in work}
    rows = [
        Row(name, rate[name], "GFLOP/s", f"{1e3 * best[name]:.0f} ms, {work[name] / 1e9:.1f} GFLOP")
        for name in work
    ]
    for name in ("update", "reconstruction"):
        rows.append(Row(f"{name} over its products", rate[name] / rate[f"{name}, its products alone"], "x"))
        rows.append(Row(f"{name} over the peak", rate[name] / rate["peak"], "x"))
    load = f"load {timing.load():.1f}"
    return [row._replace(note=f"{row.note}; {load}" if row.note else load) for row in rows]


def _calls() -> list[Callable[[], Any]]:
    rng = np.random.default_rng(0)
    key = jax.random.key(0)
    model = next_word_lstm(WORDS, BUCKETS, embedding=EMBEDDING, hidden=HIDDEN)
    rounded = next_word_lstm(WORDS, BUCKETS, embedding=EMBEDDING, hidden=HIDDEN, precision="bfloat16")
    g = jax.jit(model.init_global)(key)
    x = jax.jit(model.init_local)(g, key)
    shape = (SIDE_BY_SIDE, STEPS * BATCH, LENGTH)
    bucket = np.where(rng.random(shape) < 0.05, rng.integers(BUCKETS, size=shape), -1)
    word = np.where(bucket < 0, rng.integers(1, WORDS, shape), 0)
    data = {"word": word, "bucket": bucket, "target": rng.integers(2, CLASSES, shape)}
    many = {name: jnp.asarray(value, jnp.int32) for name, value in data.items()}
    one = {name: value[0] for name, value in many.items()}
    mask = jnp.ones(STEPS * BATCH, bool)
    stage = Solver(optimizer("sgd", learning_rate=0.1), BATCH)

    def update(model: Any) -> Any:
        return lambda g, x, data: stage.displacement(on_global(model, x), g, Examples(data, mask), key)[0]

    def reconstruct(g: Any, x: Any, data: Any) -> Any:
        return stage(on_local(model, g), x, Examples(data, mask), key)[0]

    programs: list[tuple[Any, ...]] = [
        (update(model), g, x, one),
        (_products(gradients=True), g),
        (update(rounded), g, x, one),
        (reconstruct, g, x, one),
        (lambda g, x, many: jax.vmap(lambda data: reconstruct(g, x, data))(many), g, x, many),
        (_products(gradients=False), g),
        (lambda a: a @ a, jnp.asarray(rng.normal(size=(PEAK, PEAK)), jnp.float32)),
    ]
    compiled = [(jax.jit(fn, compiler_options=engine_options()), args) for fn, *args in programs]
    return [functools.partial(fn, *args) for fn, args in compiled]


def _products(gradients: bool) -> Callable[[Any], Any]:
    """The matrix products of steps alone: of each forward, back, and by the weights if `gradients`."""

    def recur(h: Any, matrix: Any) -> Any:
        """Products one after the other, as the states of a sentence are."""
        width = matrix.shape[0]

        def step(h: Any, _: Any) -> Any:
            z = h @ matrix
            return jnp.resize(z, (BATCH, width)) if z.shape[1] < width else z[:, :width], z

        return jax.lax.scan(step, h, None, length=LENGTH)[1].reshape(TOKENS, -1)

    def step(carry: Any, _: Any) -> Any:
        g, small = carry
        kernel, recurrent = g["lstm"]["kernel"], g["lstm"]["recurrent"]
        x = jnp.full((TOKENS, EMBEDDING), small)
        z, s = x @ kernel, recur(jnp.full((BATCH, HIDDEN), small), recurrent)
        h = s[:, :HIDDEN]
        d = h @ g["dense"]["kernel"]
        scores = d @ g["output"]["kernel"]
        by_d = scores @ g["output"]["kernel"].T
        by_h = by_d @ g["dense"]["kernel"].T
        by_s = recur(jnp.full((BATCH, 4 * HIDDEN), small), recurrent.T)
        out = [z, by_h, by_s, s @ kernel.T]
        if gradients:
            out += [x.T @ s, h.T @ s, h.T @ by_d, d.T @ scores]
        # One number of each, made of nothing less than all of it, so that none is left out.
        out = jax.lax.optimization_barrier(out)
        return (g, small + 1e-20 * sum(o[0, 0] for o in out)), None

    def run(g: Any) -> Any:
        return jax.lax.scan(step, (g, jnp.float32(1e-3)), None, length=STEPS)[0][1]

    return run
