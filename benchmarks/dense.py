"""The round on whole tables, as the library runs it and as one writes it in JAX at first."""

from benchmarks import dense_by_hand, recipe, timing
from benchmarks.options import Options, Row

ROWS = "the library, rows"
ROUNDS = 10
CHUNKS = 5
WARM_UP = 2


def run(options: Options) -> list[Row]:
    clients = recipe.training_clients(options)
    rows, whole = (
        timing.Rounds(recipe.simulation(clients, options.clients_per_round, tables=tables))
        for tables in (True, False)
    )
    by_hand = dense_by_hand.rounds(clients, rows.simulation.sampling, recipe.SEED)
    ways: dict[str, timing.Way] = {
        ROWS: rows.time,
        "the library, whole tables": whole.time,
        "whole tables, written by hand in JAX": by_hand,
    }
    for warm_up in ways.values():
        warm_up(WARM_UP)
    found = timing.in_turn(ways, options.rounds or ROUNDS, CHUNKS)
    shortest = timing.milliseconds(found[ROWS])
    lines = []
    for name, timed in found.items():
        median = timing.milliseconds(timed)
        lines.append(Row(name, median, "ms", f"{timing.work(timed):.1f} ms of CPU"))
        if name != ROWS:
            lines.append(Row("  over the library with rows", median / shortest, "x"))
    return lines
