"""The round as one writes it in JAX at first: every client side by side, each with a table of its own."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import numba_round, recipe
from benchmarks.timing import Way, timed
from fedrecon import Clients
from fedrecon.data import Sampling

BATCH, MAX_STEPS = numba_round.BATCH, numba_round.MAX_STEPS


def squared_error(table: Any, user: Any, items: Any, ratings: Any, mask: Any) -> Any:
    """Mean squared error of a batch over its valid examples."""
    error = jnp.square(table[items] @ user - ratings)
    return jnp.sum(jnp.where(mask, error, 0)) / jnp.maximum(jnp.sum(mask), 1)


def client(table: Any, user: Any, batches: tuple[Any, Any, Any]) -> tuple[Any, Any]:
    """One client's weighted delta and its weight; batches are items, ratings and mask, `[batch, example]`."""

    def reconstruct(user: Any, batch: Any) -> tuple[Any, None]:
        return user - numba_round.RECONSTRUCT_RATE * jax.grad(squared_error, 1)(table, user, *batch), None

    def update(own: Any, batch: Any) -> tuple[Any, None]:
        return own - numba_round.UPDATE_RATE * jax.grad(squared_error)(own, user, *batch), None

    support, query = (tuple(x[k::2][:MAX_STEPS] for x in batches) for k in (0, 1))
    user, _ = jax.lax.scan(reconstruct, user, support)
    own, _ = jax.lax.scan(update, table, query)
    weight = jnp.sum(query[2])
    return weight * (own - table), weight


@jax.jit
def round_by_hand(table: Any, users: Any, items: Any, ratings: Any, counts: Any) -> Any:
    """The table after a round.

    Args:
        table: `[item, factor]`.
        users: Where each client's vector starts, `[client, factor]`.
        items: `[client, example]`, padded to the longest client and to whole batches.
        ratings: Likewise.
        counts: Valid examples of each client.
    """
    mask = jnp.arange(items.shape[1]) < counts[:, None]
    batches = tuple(x.reshape(len(users), -1, BATCH) for x in (items, ratings, mask))
    deltas, weights = jax.vmap(client, (None, 0, 0))(table, users, batches)
    mean = jnp.sum(deltas, 0) / jnp.maximum(jnp.sum(weights), 1)
    return table + numba_round.SERVER_RATE * mean


def rounds(clients: Clients, sampling: Sampling, seed: int) -> Way:
    """Runs and times so many rounds, on and on, host work included; each is waited for."""
    lengths = clients.num_examples
    longest = -(-int(lengths.max()) // (2 * BATCH)) * 2 * BATCH
    random, scale = np.random.default_rng(seed), recipe.INIT_SCALE
    table = random.uniform(-scale, scale, (recipe.num_items(clients), recipe.FACTORS)).astype(np.float32)
    done = 0

    def step() -> Any:
        nonlocal table, done
        cohort = sampling.indices(done, lengths, seed)
        users = random.uniform(-scale, scale, (len(cohort), recipe.FACTORS)).astype(np.float32)
        items, ratings = (clients.padded(field, cohort, longest) for field in ("item", "rating"))
        table, done = round_by_hand(table, users, items, ratings, lengths[cohort]), done + 1
        return table

    return partial(timed, step)
