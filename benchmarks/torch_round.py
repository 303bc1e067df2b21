"""The round as most people write it: PyTorch, a loop over clients, a copy of the model for each."""

import copy
import functools
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import numpy as np

from benchmarks import numba_round, recipe, timing
from benchmarks.compared import Comparison
from benchmarks.options import Options, Row
from fedrecon import Clients, Uniform

ROUNDS = CHUNKS = 3
AT_A_TIME = 20


def run(options: Options) -> list[Row]:
    if find_spec("torch") is None:
        return [Row("PyTorch", None, "ms", "torch is not installed")]
    clients = recipe.training_clients(options)
    simulation = recipe.simulation(clients, options.clients_per_round)
    comparison = Comparison(simulation, at_a_time=AT_A_TIME)
    torch = import_module("torch")
    torch.set_num_threads(1)  # a step works on five rows: more threads cost more than they bring
    loop = TrainingLoop(torch, clients, Uniform(options.clients_per_round))
    note = f"a loop over clients; torch {torch.__version__}, one thread"
    comparison.add("PyTorch", functools.partial(timing.timed, loop.round), note)
    return comparison.rows(options.rounds or ROUNDS, CHUNKS)


class TrainingLoop:
    """Runs rounds on and on.

    Attributes:
        table: The global parameters, a module.
    """

    def __init__(self, torch: Any, clients: Clients, sampling: Uniform):
        self.torch, self.clients, self.sampling = torch, clients, sampling
        self.table = torch.nn.Embedding(recipe.num_items(clients), recipe.FACTORS)
        torch.nn.init.uniform_(self.table.weight, -recipe.INIT_SCALE, recipe.INIT_SCALE)
        self._done = 0

    def round(self) -> None:
        """One round; `table` is changed in place."""
        torch = self.torch
        cohort = self.sampling.indices(self._done, self.clients.num_examples, recipe.SEED)
        total, weights = torch.zeros_like(self.table.weight), 0
        for name in self.clients.ids[cohort].tolist():
            fields = self.clients[name]
            user = torch.empty(recipe.FACTORS).uniform_(-recipe.INIT_SCALE, recipe.INIT_SCALE)
            delta, weight = self.client(user, fields["item"], fields["rating"])
            total += weight * delta
            weights += weight
        with torch.no_grad():
            self.table.weight += numba_round.SERVER_RATE * total / max(weights, 1)
        self._done += 1

    def client(self, user: Any, items: np.ndarray, ratings: np.ndarray) -> tuple[Any, int]:
        """One client's delta and its weight, the number of query examples."""
        torch, mse = self.torch, self.torch.nn.functional.mse_loss
        batches = list(
            zip(
                torch.from_numpy(items.astype(np.int64)).split(numba_round.BATCH),
                torch.from_numpy(ratings).split(numba_round.BATCH),
                strict=True,
            )
        )
        support, query = (batches[start::2][: numba_round.MAX_STEPS] for start in (0, 1))
        user = user.requires_grad_()
        optimizer = torch.optim.SGD([user], lr=numba_round.RECONSTRUCT_RATE)
        for item, rating in support:
            optimizer.zero_grad()
            mse(self.table(item).detach() @ user, rating).backward()
            optimizer.step()
        user = user.detach()
        own = copy.deepcopy(self.table)
        optimizer = torch.optim.SGD(own.parameters(), lr=numba_round.UPDATE_RATE)
        for item, rating in query:
            optimizer.zero_grad()
            mse(own(item) @ user, rating).backward()
            optimizer.step()
        delta = own.weight.detach() - self.table.weight.detach()
        return delta, sum(len(item) for item, _ in query)
