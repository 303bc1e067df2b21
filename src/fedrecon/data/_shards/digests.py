"""Digests of each client's examples, which make the digest of any set of clients without a look at them."""

import hashlib
import math

import numpy as np
from jaxtyping import Int64, UInt64

from fedrecon.data._clients import Clients
from fedrecon.data._hashing import mix
from fedrecon.data._shards.rows import IndexedColumn

PREFIX = "by-client:"  # of the digest of a set


def digest_of_set(clients: Clients) -> str:
    """A digest of clients' keys and examples: `"by-client:"` and 16 hexadecimal digits.

    Where the clients' examples are those of a folder, its index has their digests, and no example is read.
    """
    state = hashlib.blake2b(digest_size=8)
    state.update(np.ascontiguousarray(clients.keys).data)
    state.update(np.asarray(clients.num_examples, np.int64).data)
    for name in sorted(clients.fields):
        like = clients.blank(name, 0)
        state.update(f"{name} {_seen_by_programs(like.dtype)} {like.shape[1:]}".encode())
        state.update(digests_of_clients(clients, name).data)
    return PREFIX + state.hexdigest()


def has_digests(clients: Clients) -> bool:
    """Whether the digests of the clients' examples stand in an index."""
    return isinstance(clients._starts, IndexedColumn)


def digests_of_clients(clients: Clients, field: str) -> UInt64[np.ndarray, " client"]:
    """A digest of each client's examples of a field; read where its index does not know it."""
    starts = clients._starts
    if not isinstance(starts, IndexedColumn):
        return np.concatenate([np.zeros(0, np.uint64), *(_computed(x, field) for x in clients.pieces())])
    index, rows = starts.index, slice(None) if starts.rows is None else starts.rows
    digests = index.digests(field)[rows]
    # Of a client with fewer examples than were written, the first ones are left.
    changed = np.flatnonzero(index.column("count")[rows] != clients.num_examples)
    if changed.size:
        digests = digests.copy()
        parts = clients.take(changed).pieces()
        digests[changed] = np.concatenate([_computed(x, field) for x in parts])
    return np.ascontiguousarray(digests)


def digests_of(
    column: np.ndarray, offsets: Int64[np.ndarray, " client_and_one"]
) -> UInt64[np.ndarray, " client"]:
    """A digest of each client's part of a column.

    It tells data apart, and is no defence against somebody who looks for two with the same digest.

    Args:
        column: The field of all examples, `[example, ...]`.
        offsets: Where each client's examples begin, and at last how many there are.
    """
    numbers = np.ascontiguousarray(column, _seen_by_programs(column.dtype))
    flat = numbers.reshape(len(numbers), math.prod(numbers.shape[1:]))
    digests = np.zeros(len(flat), np.uint64)
    position = np.arange(len(flat)) - np.repeat(offsets[:-1], np.diff(offsets))
    with np.errstate(over="ignore"):
        for place in range(flat.shape[1]):  # one after the other: most fields have one number an example
            bits = flat[:, place].view(f"u{flat.itemsize}").astype(np.uint64)
            digests = mix(digests ^ bits)
        digests = mix(digests ^ mix(position))
        sums = np.zeros(len(flat) + 1, np.uint64)
        np.cumsum(digests, out=sums[1:])  # modulo 2⁶⁴, in which differences are exact
        return np.asarray(sums[offsets[1:]] - sums[offsets[:-1]])


def _computed(clients: Clients, field: str) -> UInt64[np.ndarray, " client"]:
    return digests_of(clients.column(field), clients.offsets)


def _seen_by_programs(dtype: np.dtype) -> np.dtype:
    """Programs get doubles as 32-bit floats; their further digits decide the order, and are seen in it."""
    return np.dtype(np.float32) if dtype == np.float64 else dtype
