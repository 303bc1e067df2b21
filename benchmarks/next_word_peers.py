"""The next-word round of the library beside other ways to run it."""

import functools
from importlib import import_module
from importlib.metadata import version
from importlib.util import find_spec

import jax

from benchmarks import next_word_fedjax, next_word_recipe, next_word_torch, timing
from benchmarks.compared import Comparison
from benchmarks.next_word_recipe import PAPER, Size
from benchmarks.options import Options, Row
from fedrecon import Simulation

ROUNDS = CHUNKS = 3


def run(options: Options, size: Size = PAPER) -> list[Row]:
    clients = next_word_recipe.clients(size)

    def simulation(tables: bool) -> Simulation:
        # The mean of the deltas is added, here and in the other ways: Yogi is no part of what is compared.
        model = next_word_recipe.model(size, tables)
        algorithm = next_word_recipe.algorithm(size, model, server="sgd", rate=1.0)
        return next_word_recipe.simulation(size, algorithm, clients)

    rows = simulation(tables=True)
    comparison = Comparison(rows)
    comparison.add("whole tables", timing.Rounds(simulation(tables=False)).time, "the library's")
    missing = []
    model = rows.algorithm.model
    start = jax.jit(model.init_global)(jax.random.key(0))
    draw = next_word_recipe.starts(size)
    if find_spec("fedjax") is not None:
        on_fedjax = next_word_fedjax.TrainingLoop(import_module("fedjax"), size, model, clients, start, draw)
        note = f"client by client; fedjax {version('fedjax')}, its jit backend, the library's model"
        comparison.add("FedJAX", functools.partial(timing.timed, on_fedjax.round), note)
    else:
        missing.append(Row("FedJAX", None, "ms", "fedjax is not installed"))
    if find_spec("torch") is not None:
        torch = next_word_torch.pytorch()
        in_torch = next_word_torch.TrainingLoop(torch, size, clients, start, draw)
        note = f"a loop over clients; torch {torch.__version__}, {torch.get_num_threads()} threads"
        comparison.add("PyTorch", functools.partial(timing.timed, in_torch.round), note)
    else:
        missing.append(Row("PyTorch", None, "ms", "torch is not installed"))
    return comparison.rows(options.rounds or ROUNDS, CHUNKS) + missing
