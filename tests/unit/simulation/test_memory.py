"""What a round needs of memory: deltas are summed as they come, never held for the whole cohort."""

import os
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from tests.small import sgd, solver

from fedrecon import AlternateBatches, Clients, Simulation, Uniform, fedrecon
from fedrecon.core._model import without_tables
from fedrecon.models._matrix_factorization import matrix_factorization
from fedrecon.simulation._block_plan import Plan, Slot

ITEMS, FACTORS, LENGTH, SIDE_BY_SIDE = 500, 8, 12, 5
ROW = 4 * FACTORS  # bytes, of the table

SIDE = 640
DELTA = 4 * SIDE**2  # bytes, of the dense layer below

# A process whose clients each change a dense layer, and have a number of their own. It prints the most memory
# that it had held by the end of each simulation: peaks never fall, so what takes more comes later.
PROCESS = """
import sys
import jax.numpy as jnp
import numpy as np
from tests.small import sgd, solver
from fedrecon import AlternateBatches, Clients, Mean, Model, Simulation, Uniform, fedrecon
from fedrecon.experiment.storage.resource_usage import peak_memory

side, cohort, *widths = map(int, sys.argv[1:])

def loss(g, x, batch, key):
    inputs = jnp.cos(batch["place"][:, None] * jnp.arange(side))
    return Mean.of(jnp.square(jnp.mean(jnp.tanh(inputs @ g["layer"]), 1) + x["bias"] - 1.0))

model = Model(
    init_global=lambda key: {"layer": jnp.full((side, side), 0.01)},
    init_local=lambda g, key: {"bias": jnp.zeros(())},
    loss=loss,
    metrics=lambda g, x, batch: {"mse": loss(g, x, batch, None)},
)
places = {"place": np.linspace(0, 1, 4 * cohort, dtype=np.float32)}
clients = Clients.from_columns(np.arange(cohort), np.arange(cohort + 1) * 4, places)
# Two epochs: changes by a single step would be summed without any of them in memory.
algorithm = fedrecon(model, solver(), solver(epochs=2), sgd(), AlternateBatches(2))
for width in widths:
    simulation = Simulation(algorithm, clients, Uniform(cohort), clients_per_block=width or None)
    *_, last = simulation.rounds(simulation.init(), 2)
    assert np.ptp(last.state.global_params["layer"]) > 0
    print(peak_memory())
"""


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
    return int(compiled(simulation).memory_analysis().temp_size_in_bytes)


def compiled(simulation: Any) -> Any:
    """The program of a round, as it is called."""
    found = []

    def seen(*arguments: Any) -> Any:
        found.append(program.lower(*arguments).compile())
        return program(*arguments)

    program, simulation._pass = simulation._pass, seen
    next(simulation.rounds(simulation.init(), 1))
    return found[0]


@pytest.mark.parametrize("tables", [True, False])
def test_ten_times_the_clients_take_no_more(tables):
    small, large = temporary(tables, 10), temporary(tables, 100)
    assert small > 0
    # What grows is what a client has beside its delta: its key, its number of examples, a few metrics.
    assert large - small < 90 * 64
    assert large < 100 * ROW * (LENGTH if tables else ITEMS)  # all deltas


def test_a_process_takes_no_more_for_ten_times_the_clients(repository):
    """As the system counts it: with blocks as the library lays them out, and then with all clients in one."""

    def peaks(cohort: int, *side_by_side: int) -> list[int]:
        command = [sys.executable, "-c", PROCESS, *map(str, (SIDE, cohort, *side_by_side))]
        path = os.pathsep.join([str(repository / "src"), str(repository)])
        done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": path})
        assert done.returncode == 0, done.stderr
        return [int(line) for line in done.stdout.split()]

    (small,), (large, all_at_once) = peaks(10, 0), peaks(100, 0, 100)
    assert large - small < 20 * DELTA  # of 90 that they would be more
    assert all_at_once - small > 90 * DELTA  # which would be seen


@pytest.mark.parametrize("distinct", [True, False])
def test_rows_that_are_read_step_by_step_are_never_written_down(distinct):
    """Where every step reads its own slice of a client's rows, it gathers that from the table itself."""
    clients_per_block, length = 7, 20
    rng = np.random.default_rng(0)
    owned = [rng.permutation(ITEMS)[:length] for _ in range(clients_per_block)]
    if not distinct:
        owned[0][1] = owned[0][0]  # a row that comes twice is updated in one place: the rows are needed
    columns = {
        "item": np.concatenate(owned).astype(np.int32),
        "rating": np.ones(length * clients_per_block, np.float32),
    }
    offsets = np.arange(clients_per_block + 1) * length
    clients = Clients.from_columns(np.arange(clients_per_block), offsets, columns)
    model = matrix_factorization(ITEMS, FACTORS)
    algorithm = fedrecon(model, solver(), solver(), sgd(), AlternateBatches(2))
    plan = Plan((Slot(1, clients_per_block, length),))
    simulation: Any = Simulation(algorithm, clients, Uniform(clients_per_block), plan=plan)
    written = f"f32[{clients_per_block},{length},{FACTORS}]"
    assert (written in compiled(simulation).as_text()) != distinct
