"""The best of many scores."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

# Scores that are looked at together on a CPU, where there are so many times more of them than are wanted.
_GROUP, _MANY = 16, 250


def best(scores: Float[Array, "item"], count: int) -> tuple[Float[Array, "rank"], Int[Array, "rank"]]:
    """The highest scores and their places, best first; of equal ones the first place first.

    XLA's own search goes from one score to the next on a CPU. There, and where the scores are very many, only
    those groups are searched whose maxima are the highest: what is in none of these comes after the maxima of
    all of them.

    Args:
        scores: The scores, without NaN.
        count: At most so many as there are scores.
    """

    def whole(x: Float[Array, "item"]) -> tuple[Any, Any]:
        values, places = jax.lax.top_k(x, count)
        return values, places

    if scores.size < _MANY * count:
        return whole(scores)
    top: tuple[Any, Any] = jax.lax.platform_dependent(
        scores, cpu=lambda x: _by_groups(x, count), default=whole
    )
    return top


def _by_groups(scores: Float[Array, "item"], count: int) -> tuple[Any, Any]:
    free = -scores.size % _GROUP
    groups = jnp.pad(scores, (0, free), constant_values=-jnp.inf).reshape(-1, _GROUP)
    chosen = jnp.sort(jax.lax.top_k(jnp.max(groups, 1), count)[1])  # so that places stay in order
    values, at = jax.lax.top_k(groups[chosen].reshape(-1), count)
    return values, chosen[at // _GROUP] * _GROUP + at % _GROUP
