"""What a round is made of: its parts compiled alone and timed in turn, on one cohort."""

from functools import partial

from benchmarks import pieces, recipe, timing
from benchmarks.kernel import Kernel
from benchmarks.options import Options, Row

ROUNDS = 100
CHUNKS = 10
WARM_UP = 5


def run(options: Options) -> list[Row]:
    clients = recipe.training_clients(options)
    simulation = recipe.simulation(clients, options.clients_per_round)
    rounds, kernel = timing.Rounds(simulation), Kernel(clients, simulation.sampling)
    ways: dict[str, timing.Way] = {
        "numba kernel": kernel.time,
        "rounds in a row, the host's work overlapped": rounds.time,
        "rounds one by one": lambda count: timing.joined([rounds.time(1) for _ in range(count)]),
    }
    ways |= {name: partial(timing.timed, call) for name, call in pieces.of_round(simulation).items()}
    for warm_up in ways.values():
        warm_up(WARM_UP)
    found = timing.in_turn(ways, options.rounds or ROUNDS, CHUNKS)
    return [
        Row(name, timing.milliseconds(x), "ms", f"{timing.work(x):.2f} ms of CPU")
        for name, x in found.items()
    ]
