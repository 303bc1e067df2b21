"""What a round needs of memory: deltas are summed as they come, never held for the whole cohort."""

from typing import Any

import numpy as np
import pytest
from tests.small import sgd, solver

from fedrecon import AlternateBatches, Clients, Simulation, Uniform, fedrecon
from fedrecon.federation.blocks import Plan, Slot
from fedrecon.model import without_tables
from fedrecon.tasks.movielens.model import matrix_factorization

ITEMS, FACTORS, LENGTH, SIDE_BY_SIDE = 500, 8, 12, 5
ROW = 4 * FACTORS  # bytes, of the table


def temporary(tables: bool, cohort: int) -> int:
    """Bytes that the compiled program of a round takes beside its arguments and results."""
    model = matrix_factorization(ITEMS, FACTORS)
    rng = np.random.default_rng(0)
    columns = {
        "item": rng.integers(0, ITEMS, LENGTH * cohort).astype(np.int32),
        "rating": np.ones(LENGTH * cohort, np.float32),
    }
    clients = Clients.from_columns(np.arange(cohort), np.arange(cohort + 1) * LENGTH, columns)
    algorithm = fedrecon(
        model if tables else without_tables(model), solver(), solver(), sgd(), AlternateBatches(2)
    )
    plan = Plan((Slot(cohort // SIDE_BY_SIDE, SIDE_BY_SIDE, LENGTH),))
    simulation: Any = Simulation(algorithm, clients, Uniform(cohort), plan=plan)
    found = []

    def analysed(*arguments: Any) -> Any:
        found.append(program.lower(*arguments).compile().memory_analysis())
        return program(*arguments)

    program, simulation._cohort = simulation._cohort, analysed
    next(simulation.rounds(simulation.init(), 1))
    return int(found[0].temp_size_in_bytes)


@pytest.mark.parametrize("tables", [True, False])
def test_ten_times_the_clients_take_no_more(tables):
    small, large = temporary(tables, 10), temporary(tables, 100)
    assert small > 0
    # What grows is what a client has beside its delta: its key, its number of examples, a few metrics.
    assert large - small < 90 * 64
    assert large < 100 * ROW * (LENGTH if tables else ITEMS)  # all deltas
