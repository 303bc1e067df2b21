"""What an exported next-word run weighs, how far it is from JAX, and what it takes beside JAX on one thread.

    python benchmarks/on_device_words.py --run RUN

The run is one of `experiments/next_word.toml`. The sentences are those of its test clients, one after the
other. Both run on one core, to which the process is bound, in turn after a warm-up.
"""

import argparse
import os
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from fedrecon.experiment.cli.runs import saved_config
from fedrecon.experiment.serving.export import subject_of
from fedrecon.experiment.training.build import spec_of, task_of
from fedrecon.export import Session, export
from fedrecon.export._cases import cases
from fedrecon.export._check import pad_inputs
from fedrecon.export._functions import Exported, personal

SENTENCES, CHUNKS, WARM_UP = 32, 21, 2  # the last in seconds
LENGTHS = (0, 1, 17, SENTENCES)

Given = Mapping[str, np.ndarray]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", required=True, help="a next-word run")
    run = Path(parser.parse_args().run)
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})  # before JAX starts its threads
    config = saved_config(str(run))
    subject = subject_of(run, config)
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "export"
        begun = time.perf_counter()
        export(subject, out, support_max=SENTENCES)
        print(f"load {os.getloadavg()[0]:.1f}; export without clients {time.perf_counter() - begun:.1f} s")
        session = Session(out)
        written = (out / "model.onnx").stat().st_size
    weights = sum(x.nbytes for x in jax.tree.leaves(jax.device_get(subject.state.global_params)))
    print(f"model.onnx {written / 1e3:,.1f} kB: weights {weights / 1e3:,.1f} kB and ", end="")
    print(f"{(written - weights) / 1e3:,.1f} kB")
    exported = personal(subject.algorithm, subject.state, subject.fields, SENTENCES, None, 0)
    in_jax = function_of(exported)
    every = sentences(config)
    for count in LENGTHS:
        given = arguments(exported, {name: x[:count] for name, x in every.items()}, every)
        found, wanted = native(session, given)(), in_jax(given)()
        apart = {name: float(np.max(np.abs(found[name] - x), initial=0)) for name, x in wanted.items()}
        print(f"{count} sentences: " + ", ".join(f"{name} within {x:.1e}" for name, x in apart.items()))
    pairs = np.array(in_turn(native(session, given), in_jax(given))).T
    (a, b), least = np.median(pairs, axis=1), pairs.min(axis=1)
    print(f"ONNX Runtime {a:.1f} ms, JAX {b:.1f} ms: {np.median(pairs[0] / pairs[1]):.2f} times; ", end="")
    print(f"at least {least[0]:.1f} and {least[1]:.1f} ms: {least[0] / least[1]:.2f} times")


def sentences(config: Any) -> dict[str, np.ndarray]:
    """The first sentences of the test clients' support sets, one more than the longest history."""
    spec = spec_of(config, task_of(config))
    assert spec.test is not None
    supports = [case.support for case in cases(spec.test, spec.split, 0)]
    return {name: np.concatenate([x[name] for x in supports])[: SENTENCES + 1] for name in supports[0]}


def arguments(exported: Exported, support: Given, every: Given) -> Given:
    """The file's arguments for a history, and for a query of the sentence after the longest one."""
    given: dict[str, np.ndarray] = {}
    for one in exported.inputs:
        if one.name == "mask":
            given[one.name] = np.ones(len(next(iter(support.values()))), bool)
        elif one.name.startswith("query_"):
            given[one.name] = every[one.name.removeprefix("query_")][SENTENCES:].astype(one.dtype)
        else:
            given[one.name] = support[one.name].astype(one.dtype)
    return given


def native(session: Session, given: Given) -> Callable[[], dict[str, np.ndarray]]:
    names = [output.name for output in session.runtime.get_outputs()]
    return lambda: dict(zip(names, session.runtime.run(names, given), strict=True))


def function_of(exported: Exported) -> Callable[[Given], Callable[[], dict[str, np.ndarray]]]:
    """The same in JAX, compiled once for all lengths of the history."""
    fn = jax.jit(exported.fn)
    weights = [jax.numpy.asarray(x) for x in exported.weights]
    names = [output.name for output in exported.outputs]

    def of(given: Given) -> Callable[[], dict[str, np.ndarray]]:
        arrays = pad_inputs(given, exported.inputs)
        return lambda: dict(zip(names, map(np.asarray, fn(*weights, *arrays)), strict=True))

    return of


def in_turn(one: Callable[[], Any], other: Callable[[], Any]) -> list[tuple[float, float]]:
    """Milliseconds of calls of each in turn."""

    def milliseconds(run: Callable[[], Any]) -> float:
        begun = time.perf_counter()
        run()
        return (time.perf_counter() - begun) * 1000

    for run in (one, other):
        begun = time.perf_counter()
        while time.perf_counter() - begun < WARM_UP:
            run()
    return [(milliseconds(one), milliseconds(other)) for _ in range(CHUNKS)]


if __name__ == "__main__":
    main()
