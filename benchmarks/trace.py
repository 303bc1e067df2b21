"""What the compiled programs of a round spend their time on, by JAX's profiler."""

import tempfile
from collections import defaultdict
from pathlib import Path

import jax

from benchmarks import recipe, timing
from benchmarks.options import Options, Row

ROUNDS = 100
WARM_UP = 20
MOST = 30  # lines


def run(options: Options) -> list[Row]:
    clients = recipe.training_clients(options)
    simulation = recipe.simulation(clients, options.clients_per_round)
    rounds, count = timing.Rounds(simulation), options.rounds or ROUNDS
    rounds.time(WARM_UP)
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            timed = rounds.time(count)
        found = operations(Path(folder))
    note = f"with the profiler; {timing.work(timed):.2f} ms of CPU"
    rows = [Row("round, median", timing.milliseconds(timed), "ms", note)]
    longest = sorted(found.items(), key=lambda item: -sum(item[1]))
    return rows + [
        Row(name, sum(times) / count * 1e3, "ms", f"{len(times) / count:g} times a round")
        for name, times in longest[:MOST]
    ]


def operations(folder: Path) -> dict[str, list[float]]:
    """Seconds that each of XLA's operations took every time, by program and name.

    A loop's include those of what is in it. Several threads work at once: the sum may exceed the time of all.

    Args:
        folder: That a trace was written to.
    """
    found: dict[str, list[float]] = defaultdict(list)
    for path in sorted(folder.rglob("*.xplane.pb")):
        for plane in jax.profiler.ProfileData.from_file(str(path)).planes:
            for line in plane.lines:
                for event in line.events:
                    about = dict(event.stats)
                    if "hlo_op" in about:
                        found[f"{about['hlo_module']} {about['hlo_op']}"].append(event.duration_ns * 1e-9)
    return found
