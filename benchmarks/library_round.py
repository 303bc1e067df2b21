"""The MovieLens round of the library beside the hand-written kernel, on the same cohorts."""

import numpy as np

from benchmarks import recipe, timing
from benchmarks.kernel import Kernel
from benchmarks.options import Options, Row
from fedrecon import Simulation
from fedrecon.experiment.storage.resource_usage import peak_memory

ROUNDS = 400
CHUNKS = 10
WARM_UP = 20
TFF = "8 to 10 s for this round (100 clients, batches of 5, 50 factors) on two cores; not run here"


def run(options: Options) -> list[Row]:
    clients = recipe.training_clients(options)
    simulation = recipe.simulation(clients, options.clients_per_round)
    rounds = timing.Rounds(simulation)
    kernel = Kernel(clients, simulation.sampling)
    for warm_up in (rounds.time, kernel.time):
        warm_up(WARM_UP)
    count = options.rounds or ROUNDS
    prepared = kernel.prepared
    found = timing.in_turn({"library": rounds.time, "kernel": kernel.time}, count, CHUNKS)
    library, alone = found["library"], found["kernel"]
    gathering = (kernel.prepared - prepared) / count * 1e3
    ours, theirs = timing.milliseconds(library), timing.milliseconds(alone)
    return [
        Row("round of the library, median", ours, "ms", "host work included, the next cohort's overlapped"),
        Row("  mean: wall time of a chunk over its rounds", library.wall / count * 1e3, "ms"),
        Row("  work of all threads per round", timing.work(library), "ms of CPU"),
        Row("round of the numba kernel, median", theirs, "ms", "one thread; its cohort is gathered before"),
        Row("  its work per round", timing.work(alone), "ms of CPU"),
        Row("  drawing and gathering its cohort", gathering, "ms", "mean; not counted in the ratio"),
        Row("library over kernel", ours / theirs, "x", "medians of wall time"),
        Row("  in CPU time", library.cpu / alone.cpu, "x"),
        Row("compilations", simulation.compilations, "", f"of the rounds; slots {slots(simulation)}"),
        Row("padding", 100 * padding(simulation, rounds.done), "%", "of the examples laid out in blocks"),
        Row(
            "peak memory", (peak_memory() or 0) / 1e6, "MB", "of this process, the kernel's compiler included"
        ),
        Row("TensorFlow Federated", None, "s", TFF),
        Row("machine load", timing.load(), "", "processes that wanted a core in the last minute"),
    ]


def padding(simulation: Simulation, rounds: int) -> float:
    """The share of the places for examples in the blocks that are left free, over so many rounds."""
    real = places = 0
    lengths = simulation.clients.num_examples
    capacity = sum(slot.capacity * slot.length for slot in simulation.plan.slots)
    for number in range(rounds):
        cohort = lengths[simulation.sampling.indices(number, lengths, simulation.seed)]
        real += int(np.sum(cohort))
        places += capacity * len(simulation.plan.passes(cohort))
    return 1 - real / places


def slots(simulation: Simulation) -> str:
    """The plan in short: blocks x clients x examples of every slot."""
    return " ".join("x".join(map(str, slot)) for slot in simulation.plan.slots)
