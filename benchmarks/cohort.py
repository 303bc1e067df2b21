"""Time per client as the cohort grows."""

from benchmarks import recipe, timing
from benchmarks.library_round import slots
from benchmarks.options import Options, Row
from fedrecon.experiment.storage.resource_usage import peak_memory

SIZES = (100, 1_000, 5_000)  # the last is cut to the clients there are
ROUNDS = 20
CHUNKS = 5
WARM_UP = 2


def run(options: Options) -> list[Row]:
    clients = recipe.training_clients(options)
    ways: dict[int, timing.Way] = {}
    notes: dict[int, str] = {}
    for size in sorted({min(size, len(clients)) for size in SIZES}):
        simulation = recipe.simulation(clients, size)
        ways[size] = timing.Rounds(simulation).time
        ways[size](WARM_UP)
        peak = (peak_memory() or 0) / 1e6
        notes[size] = f"peak memory up to this size {peak:.0f} MB; slots {slots(simulation)}"
    found = timing.in_turn(ways, options.rounds or ROUNDS, CHUNKS)
    each = {size: timing.milliseconds(timed) * 1e3 / size for size, timed in found.items()}
    least = min(found)
    rows = []
    for size, timed in found.items():
        rows += [
            Row(f"{size:,} clients per round", timing.milliseconds(timed), "ms", notes[size]),
            Row("  per client", each[size], "µs"),
            Row("  of CPU per client", timing.work(timed) * 1e3 / size, "µs"),
        ]
        if size > least:
            rows.append(Row(f"  per client, over {least:,}", each[size] / each[least], "x"))
    return rows
