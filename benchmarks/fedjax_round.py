"""The round on FedJAX's engine: a function per step, and a table of its own for every client."""

import functools
from importlib import import_module
from importlib.metadata import version
from importlib.util import find_spec
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import dense_by_hand, numba_round, recipe, timing
from benchmarks.compared import Comparison
from benchmarks.options import Options, Row
from fedrecon import Clients, Uniform

ROUNDS = CHUNKS = 3
AT_A_TIME = 20
BATCH = numba_round.BATCH


def run(options: Options) -> list[Row]:
    if find_spec("fedjax") is None:
        return [Row("FedJAX", None, "ms", "fedjax is not installed")]
    clients = recipe.training_clients(options)
    simulation = recipe.simulation(clients, options.clients_per_round)
    comparison = Comparison(simulation, at_a_time=AT_A_TIME)
    loop = TrainingLoop(import_module("fedjax"), clients, Uniform(options.clients_per_round))
    note = f"client by client; fedjax {version('fedjax')}, its jit backend"
    comparison.add("FedJAX", functools.partial(timing.timed, loop.round), note)
    return comparison.rows(options.rounds or ROUNDS, CHUNKS)


class TrainingLoop:
    """Runs rounds on and on.

    Attributes:
        table: The global parameters, `[item, factor]`.
    """

    def __init__(self, fedjax: Any, clients: Clients, sampling: Uniform):
        self.clients, self.sampling = clients, sampling
        self._random, shape = np.random.default_rng(recipe.SEED), (recipe.num_items(clients), recipe.FACTORS)
        self.table = jnp.asarray(self._uniform(*shape))
        self._each = fedjax.for_each_client(_start, _step, _end)
        self._done = 0

    def round(self) -> Any:
        """One round; the table after it."""
        cohort = self.sampling.indices(self._done, self.clients.num_examples, recipe.SEED)
        parts = [self._client(name) for name in self.clients.ids[cohort].tolist()]
        total, weights = jnp.zeros_like(self.table), 0.0
        for _, (delta, weight) in self._each(self.table, parts):
            total, weights = total + weight * delta, weights + weight
        self.table = self.table + numba_round.SERVER_RATE * total / jnp.maximum(weights, 1)
        self._done += 1
        return self.table

    def _client(self, name: Any) -> tuple[Any, list[dict[str, Any]], np.ndarray]:
        """A client as FedJAX takes it: its name, its support batches before its query batches, its vector."""
        fields = self.clients[name]
        count = len(fields["item"])
        starts = range(0, count, BATCH)
        batches = []
        for query in (False, True):
            for start in list(starts)[query::2][: numba_round.MAX_STEPS]:
                real = min(BATCH, count - start)
                items, ratings = np.zeros(BATCH, np.int32), np.zeros(BATCH, np.float32)
                items[:real] = fields["item"][start : start + real]
                ratings[:real] = fields["rating"][start : start + real]
                mask = np.arange(BATCH) < real
                batches.append({"item": items, "rating": ratings, "mask": mask, "query": np.bool_(query)})
        return name, batches, self._uniform(recipe.FACTORS)

    def _uniform(self, *shape: int) -> np.ndarray:
        return self._random.uniform(-recipe.INIT_SCALE, recipe.INIT_SCALE, shape).astype(np.float32)


def _start(table: Any, user: Any) -> dict[str, Any]:
    return {"table": table, "user": user, "weight": jnp.zeros(())}


def _step(state: dict[str, Any], batch: dict[str, Any]) -> dict[str, Any]:
    """A step of either phase."""
    examples = batch["item"], batch["rating"], batch["mask"]

    def reconstruct(state: Any) -> Any:
        slope = jax.grad(dense_by_hand.squared_error, 1)(state["table"], state["user"], *examples)
        return {**state, "user": state["user"] - numba_round.RECONSTRUCT_RATE * slope}

    def update(state: Any) -> Any:
        slope = jax.grad(dense_by_hand.squared_error)(state["table"], state["user"], *examples)
        table = state["table"] - numba_round.UPDATE_RATE * slope
        return {**state, "table": table, "weight": state["weight"] + jnp.sum(batch["mask"])}

    found: dict[str, Any] = jax.lax.cond(batch["query"], update, reconstruct, state)
    return found


def _end(table: Any, state: dict[str, Any]) -> tuple[Any, Any]:
    return state["table"] - table, state["weight"]
