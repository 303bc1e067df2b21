"""Clients of a block one after the other where JAX would compute them side by side."""

from collections.abc import Callable
from typing import Any

import jax


def sequentially(fn: Callable[..., Any]) -> Callable[..., Any]:
    """`fn`, which a `vmap` calls in a loop, once for each entry of the mapped axis.

    JAX's `sequential_vmap` leaves itself in the loop's body, for a second `vmap`. JAX's caches hold loops'
    bodies until many others have come, and with them all that `fn` closes over; this one leaves nothing.

    Args:
        fn: The function to call in a loop; its arguments and results are pytrees of arrays.
    """
    looped: Any = jax.custom_batching.custom_vmap(fn)

    def rule(axis_size: int, in_batched: list[Any], *args: Any) -> tuple[Any, Any]:
        leaves, structure = jax.tree.flatten(args)
        batched = jax.tree.leaves(in_batched)

        def one(mapped: list[Any]) -> Any:
            rest = iter(mapped)
            merged = [next(rest) if b else x for x, b in zip(leaves, batched, strict=True)]
            return fn(*jax.tree.unflatten(structure, merged))

        out = jax.lax.map(one, [x for x, b in zip(leaves, batched, strict=True) if b])
        return out, jax.tree.map(lambda _: True, out)

    looped.def_vmap(rule)
    sequential: Callable[..., Any] = looped
    return sequential
