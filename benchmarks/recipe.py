"""The MovieLens round that is timed: its data, and the authors' recipe at one reconstruction epoch."""

from benchmarks import numba_round
from benchmarks.options import Options
from fedrecon import (
    Algorithm,
    AlternateBatches,
    Clients,
    Model,
    Simulation,
    Solver,
    Uniform,
    fedrecon,
    optimizer,
)
from fedrecon.core import without_tables
from fedrecon.datasets.ratings import arrange, load, synthetic
from fedrecon.models import matrix_factorization

FACTORS = 50
CAP = 300
INIT_SCALE = 0.05
SEED = 0


def training_clients(options: Options) -> Clients:
    """The four fifths of the users that are trained on, their ratings shuffled once and capped at 300."""
    share = {"train": 0.8}
    if options.data is not None:
        clients = load(options.data, seed=SEED, cap=CAP, fractions=share)["train"]
    else:
        everybody, _ = synthetic(options.clients, options.items, seed=SEED)
        clients = arrange(everybody, seed=SEED, cap=CAP, fractions=share)["train"]
    return clients.select("item", "rating")


def num_items(clients: Clients) -> int:
    """Rows of the item table."""
    return len(clients.vocabularies["item"])


def model(clients: Clients, tables: bool = True) -> Model:
    """Matrix factorisation with the paper's start.

    Args:
        clients: Whose items they are.
        tables: Whether the item table is declared as one, so that clients work on rows.
    """
    found = matrix_factorization(num_items(clients), FACTORS, init="uniform", init_scale=INIT_SCALE)
    return found if tables else without_tables(found)


def algorithm(model: Model) -> Algorithm:
    """Federated Reconstruction with the authors' hyperparameters but for one reconstruction epoch."""
    reconstruct, update = (
        Solver(optimizer("sgd", learning_rate=rate), numba_round.BATCH, max_steps=numba_round.MAX_STEPS)
        for rate in (numba_round.RECONSTRUCT_RATE, numba_round.UPDATE_RATE)
    )
    server_optimizer = optimizer("sgd", learning_rate=numba_round.SERVER_RATE)
    return fedrecon(model, reconstruct, update, server_optimizer, AlternateBatches(numba_round.BATCH))


def simulation(
    clients: Clients, clients_per_round: int, *, tables: bool = True, clients_per_block: int | None = None
) -> Simulation:
    """The library's rounds."""
    trained, sampling = algorithm(model(clients, tables)), Uniform(clients_per_round)
    return Simulation(trained, clients, sampling, seed=SEED, clients_per_block=clients_per_block)
