"""The round by how many clients are side by side in a block: what the plan of the blocks is chosen from."""

import numpy as np

from benchmarks import recipe, timing
from benchmarks.library_round import slots
from benchmarks.options import Options, Row
from fedrecon import Simulation

WIDTHS = (4, 8, 16, 32, 64)
ROUNDS = 60
CHUNKS = 10
WARM_UP = 5


def run(options: Options) -> list[Row]:
    clients = recipe.training_clients(options)
    widths = sorted({min(width, options.clients_per_round) for width in WIDTHS})
    simulations = {
        width: recipe.simulation(clients, options.clients_per_round, clients_per_block=width)
        for width in widths
    }
    ways: dict[int, timing.Way] = {width: timing.Rounds(x).time for width, x in simulations.items()}
    for warm_up in ways.values():
        warm_up(WARM_UP)
    found = timing.in_turn(ways, options.rounds or ROUNDS, CHUNKS)
    rows = [
        Row(
            f"at most {width} clients side by side",
            timing.milliseconds(timed),
            "ms",
            f"{timing.work(timed):.2f} ms of CPU; slots {slots(simulations[width])}",
        )
        for width, timed in found.items()
    ]
    price = overhead(list(simulations.values()), [timing.milliseconds(timed) for timed in found.values()])
    return [*rows, Row("price of a place in a block", price, "places of a client", "least squares")]


def overhead(simulations: list[Simulation], milliseconds: list[float]) -> float:
    """What a place for an example costs a block whatever its clients, over what it costs each client.

    Least squares of a round's time as a sum over slots of `length * blocks * (a * clients + b)`: `b / a`.
    What a round costs whatever its blocks is in `a`, since plans differ little in their places: `b / a`
    is rather too small.
    """
    plans = [simulation.plan.slots for simulation in simulations]
    places = [
        [sum(s.length * s.capacity for s in plan), sum(s.length * s.blocks for s in plan)] for plan in plans
    ]
    (each, block), *_ = np.linalg.lstsq(np.array(places, float), np.array(milliseconds), rcond=None)
    return float(block / each)
