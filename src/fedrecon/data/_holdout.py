"""Examples held out of clients that are trained on: the data of StandardEval."""

from collections.abc import Mapping

import numpy as np

from fedrecon.data._clients import Clients
from fedrecon.errors import DataError

HELD_OUT = "held_out"


def hold_out(clients: Clients, shares: Mapping[str, float]) -> dict[str, Clients]:
    """Cuts every client's examples, in their own order, into those to train on and sets held out.

    Args:
        clients: Their examples sorted by time for a split by time, shuffled for one at random.
        shares: Name of a held-out set to its share of each client's examples, in (0, 1), together less
            than 1. The first set lies right after the examples to train on, the last one at the end.

    Returns:
        `"train"`: the clients with what is left to train on, the first examples. For every name of `shares`:
        the same clients in the same order, with the examples to train on and those of the set, and a field
        `"held_out"` that marks the latter, as the split `HeldOut` wants it. Numbers of examples are rounded;
        a client may have none in a set.

    Raises:
        DataError: A share is out of its range, or the clients have a field of that name.
    """
    for name, share in shares.items():
        if not 0 < share < 1:
            raise DataError(f"share {name!r} of the held-out examples must lie in (0, 1), got {share!r}")
    if sum(shares.values()) >= 1:
        raise DataError(f"held-out shares must sum to less than 1, got {sum(shares.values()):g}")
    if not shares:
        return {"train": clients}
    if HELD_OUT in clients.fields:
        raise DataError(f"the clients have a field {HELD_OUT!r} already")
    left = 1 - sum(shares.values())
    ends = np.round(np.cumsum([left, *shares.values()])[:, None] * clients.num_examples).astype(np.int64)
    owner, position = clients.owners(), clients.positions()
    train = position < ends[0][owner]
    sets = {"train": clients.filter_examples(train)}
    for name, start, stop in zip(shares, ends[:-1], ends[1:], strict=True):
        within = (position >= start[owner]) & (position < stop[owner])
        chosen = train | within
        marks = (~train[chosen]).astype(np.int8)
        sets[name] = clients.filter_examples(chosen).with_columns(**{HELD_OUT: marks})
    return sets
