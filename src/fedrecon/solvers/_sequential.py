"""Computes the clients of a block one after the other where JAX would vectorise over them."""

from collections.abc import Callable
from typing import Any

import jax


def sequentially(fn: Callable[..., Any]) -> Callable[..., Any]:
    """Makes `vmap` call a function in a loop, once for each entry of the mapped axis.

    Args:
        fn: The function to call in a loop; its arguments and results are pytrees of arrays.
    """
    # Not JAX's `sequential_vmap`: that puts itself into the body of the loop, for a second `vmap`. JAX's
    # caches keep such bodies, and with them all arrays that `fn` closes over, long after the call; this rule
    # puts nothing but `fn` there.
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
