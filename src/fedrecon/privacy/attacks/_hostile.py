"""Clients that send what they like: the attack that robust aggregation is measured by."""

import math
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp

from fedrecon.algorithms._base import Algorithm, Broadcast, Update
from fedrecon.core._examples import Examples
from fedrecon.errors import of_kind, plain

HOSTILE = "hostile"


def with_hostile_clients(algorithm: Algorithm, factor: float) -> Algorithm:
    """An algorithm some of whose clients send a multiple of their delta.

    A client is hostile whose examples have a field `"hostile"` that is not 0. With `factor` -1 it flips the
    sign of its delta, with -10 it also scales it; to promote an item, its examples praise the item and
    `factor` is 10.

    Args:
        algorithm: The algorithm that the other clients follow, and of which the hostile ones send a multiple.
        factor: The multiple; a finite number.

    Raises:
        ValueError: `factor` is not finite, or the algorithm is private or robust already: hostile clients act
            before the server does.
    """
    of_kind(Algorithm, algorithm=algorithm)
    if not math.isfinite(factor):
        raise ValueError(f"factor must be a finite number, got {plain(factor)}")
    if algorithm.privacy is not None or algorithm.takes_each:
        raise ValueError(f"algorithm must be neither private nor robust before, got {algorithm!r}")

    def client_update(
        broadcast: Broadcast, client_state: Any, examples: Examples, key: Any
    ) -> tuple[Update, Any]:
        hostile = jnp.any((examples.data[HOSTILE] != 0) & examples.mask)
        others = {name: x for name, x in examples.data.items() if name != HOSTILE}
        plainly = replace(examples, data=others)
        update, client_state = algorithm.client_update(broadcast, client_state, plainly, key)
        multiple = jnp.where(hostile, factor, 1.0)
        total = jax.tree.map(lambda x: x * multiple.astype(x.dtype), update.delta.total)
        return update._replace(delta=update.delta._replace(total=total)), client_state

    return replace(
        algorithm,
        client_update=client_update,
        hyperparameters={**algorithm.hyperparameters, "hostile_factor": factor},
    )
