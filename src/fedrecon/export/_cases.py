"""Clients' support and query sets as the arguments that an exported file takes."""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from fedrecon.core._splits import Split
from fedrecon.data._clients import Clients
from fedrecon.data._holdout import HELD_OUT
from fedrecon.simulation._batches import examples_of

_EVALUATION = 4  # the number that is folded into the key with which the split draws


class Case(NamedTuple):
    """The support and the query set of one client, without padding.

    Attributes:
        support: The support examples: an array `[example, ...]` for each field.
        query: The query examples: an array `[example, ...]` for each field.
    """

    support: Mapping[str, np.ndarray]
    query: Mapping[str, np.ndarray]


def plain_type(dtype: Any) -> Any:
    """The type in which an exported file takes a field: int32, float32 or bool."""
    kind = np.dtype(dtype).kind
    return np.dtype({"b": bool, "i": np.int32, "u": np.int32}.get(kind, np.float32))


def fields_of(clients: Clients) -> dict[str, Any]:
    """Shape and type of every field of an example, as a file takes it."""
    names = [name for name in clients.fields if name != HELD_OUT]
    blanks = {name: clients.blank(name) for name in names}
    return {name: jax.ShapeDtypeStruct(x.shape, plain_type(x.dtype)) for name, x in blanks.items()}


def ranges_of(clients: Clients) -> dict[str, tuple[float | int, float | int]]:
    """The lowest and the highest number of each field over all clients."""
    ranges: dict[str, tuple[float | int, float | int]] = {}
    for name in fields_of(clients):
        ends = [
            (x.min().item(), x.max().item()) for x in (p.column(name) for p in clients.pieces()) if x.size
        ]
        if ends:
            ranges[name] = min(low for low, _ in ends), max(high for _, high in ends)
    return ranges


def cases(clients: Clients, split: Split, seed: int) -> Iterator[Case]:
    """Yields the support and query set of each client.

    Args:
        clients: The clients to split; their cases come in the same order.
        split: Cuts a client's examples into support and query set.
        seed: Seed of the random key that `split` draws with, one key for all clients.
    """
    longest = int(clients.num_examples.max(initial=1))
    key = jax.random.fold_in(jax.random.key(seed), _EVALUATION)

    @jax.jit
    def cut(data: Any, count: Any) -> Any:
        # `plain_type` made all numbers 32-bit before, so that JAX changes no type here.
        return split(examples_of(data, count, longest), key)

    fields = clients.fields
    for i in range(len(clients)):
        own = clients[clients.ids[i]]
        count = int(clients.num_examples[i])
        data = {}
        for name in fields:
            x = np.asarray(own[name]).astype(plain_type(own[name].dtype))
            data[name] = np.concatenate([x, np.zeros((longest - count, *x.shape[1:]), x.dtype)])
        support, query = cut(data, np.int32(count))
        yield Case(_valid(support), _valid(query))


def _valid(examples: Any) -> dict[str, np.ndarray]:
    mask = np.asarray(examples.mask)
    return {name: np.asarray(x)[mask] for name, x in examples.data.items() if name != HELD_OUT}
