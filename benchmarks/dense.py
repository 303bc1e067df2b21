"""The round on whole tables, as the library runs it and as one writes it in JAX at first."""

from benchmarks import dense_by_hand, recipe, timing
from benchmarks.compared import Comparison
from benchmarks.options import Options, Row

ROUNDS = 10
CHUNKS = 5
WARM_UP = 2


def run(options: Options) -> list[Row]:
    clients = recipe.training_clients(options)
    rows, whole = (
        recipe.simulation(clients, options.clients_per_round, tables=tables) for tables in (True, False)
    )
    comparison = Comparison(rows, WARM_UP)
    comparison.add("whole tables", timing.Rounds(whole).time, "the library's")
    by_hand = dense_by_hand.rounds(clients, rows.sampling, recipe.SEED)
    comparison.add("whole tables by hand", by_hand, "written in JAX")
    return comparison.rows(options.rounds or ROUNDS, CHUNKS)
