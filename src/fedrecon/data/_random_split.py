"""Random orders and cuts that are fixed by a seed and the clients' ids alone."""

from collections.abc import Mapping

import numpy as np
from jaxtyping import Int, UInt64

from fedrecon.data._hashing import Purpose, keyed
from fedrecon.errors import DataError, plain


def shuffle(
    keys: UInt64[np.ndarray, "client"],
    num_examples: Int[np.ndarray, "client"],
    position: Int[np.ndarray, "example"],
    seed: int,
) -> Int[np.ndarray, "example"]:
    """An order of examples that lie client after client: every client's own are shuffled.

    Args:
        keys: The hashes of the clients' names, `[client]`.
        num_examples: The number of examples of each client, `[client]`.
        position: Each example's index within its client.
        seed: The seed of the orders.
    """
    owner = np.repeat(np.arange(len(keys), dtype=np.uint64), num_examples)
    with np.errstate(over="ignore"):
        own = np.repeat(keys, num_examples) + position.astype(np.uint64)
    # The owner above, 40 random bits below: one sort, which takes half the time of one by two keys.
    draws = (owner << np.uint64(40)) | (keyed(seed, Purpose.EXAMPLE_ORDER, own) >> np.uint64(24))
    return np.argsort(draws, kind="stable")


def cut(
    keys: UInt64[np.ndarray, "client"], fractions: Mapping[str, float | int], seed: int
) -> dict[str, Int[np.ndarray, "part"]]:
    """Cuts clients into disjoint sets.

    Args:
        keys: The hashes of the clients' names, `[client]`.
        fractions: Name of a set to its share of the clients, each in (0, 1], together at most 1.
        seed: The seed of the cut.

    Returns:
        Name of a set to the positions of its clients, ascending.

    Raises:
        DataError: A share is out of its range, or they sum to more than 1.
    """
    for name, share in fractions.items():
        if not 0 < share <= 1:
            raise DataError(f"fraction {name!r} must lie in (0, 1], got {plain(share)}")
    if sum(fractions.values()) > 1 + 1e-9:
        raise DataError(
            f"fractions must sum to at most 1, got {plain(dict(fractions))}, {sum(fractions.values()):g}"
        )
    order = np.argsort(keyed(seed, Purpose.CLIENT_SPLIT, keys), kind="stable")
    ends = np.round(np.cumsum([0.0, *fractions.values()]) * len(keys)).astype(int)
    return {name: np.sort(order[a:b]) for name, a, b in zip(fractions, ends[:-1], ends[1:], strict=True)}
