"""All clients' examples as one data set, for the centralised peer."""

import numpy as np

from fedrecon.core._pooled_view import ROW
from fedrecon.data._clients import Clients
from fedrecon.errors import DataError, whole_number


def numbered(clients: Clients, seen: bool = True, field: str = ROW) -> Clients:
    """The clients with a field that holds each one's position among them, or -1 if they are not `seen`.

    Raises:
        DataError: The clients already have a field of that name.
    """
    if field in clients.fields:
        raise DataError(f"the clients have a field {field!r} already")
    numbers = np.arange(len(clients), dtype=np.int32) if seen else np.full(len(clients), -1, np.int32)
    return clients.with_columns(**{field: np.repeat(numbers, clients.num_examples)})


def in_batches(clients: Clients, batch_size: int, seed: int) -> Clients:
    """The examples of all clients, shuffled once, in mini-batches that take the clients' place.

    Args:
        clients: With the field that `numbered` adds, so that it stays known whose an example is.
        batch_size: Examples in a batch; the last one may have fewer.
        seed: The seed of the order of the examples.

    Raises:
        DataError: `batch_size` or the seed is out of its range.
    """
    batch_size = whole_number("batch_size", batch_size, 1, error=DataError)
    seed = whole_number("seed", seed, 0, error=DataError)
    total = int(clients.num_examples.sum())
    order = np.random.default_rng(seed).permutation(total)
    columns = {name: clients.column(name)[order] for name in clients.fields}
    offsets = np.append(np.arange(0, total, batch_size), total)
    ids = np.arange(len(offsets) - 1)
    return Clients.from_columns(ids, offsets, columns, clients.vocabularies, may_be_nan=clients.fields)


def raw_bytes(clients: Clients, field: str = ROW) -> int:
    """Bytes of all examples as they are held here: what clients give away where their data are pooled.

    Args:
        clients: The clients whose examples are counted.
        field: The field that `numbered` added, which is not counted.
    """
    total = int(clients.num_examples.sum())
    return total * sum(clients.blank(name, 1).nbytes for name in clients.fields if name != field)
