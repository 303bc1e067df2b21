"""Weighted means as a monoid: losses, metrics and client deltas share one type."""

from collections.abc import Sequence
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, PyTree, Shaped

Weight: TypeAlias = int | float | Sequence[int | float] | Shaped[Any, "..."]

_LONG = 2**14  # for fewer entries the product takes longer to compile than it saves


class Mean(NamedTuple):
    """A weighted mean kept as its two sums, so that means of parts merge exactly.

    `Mean(total, weight)` stands for `total / weight`. It is a monoid: `merge` adds both sums, and a total of
    0 with a weight of 0 is the identity. A batch of means has leading axes in both fields.

    Attributes:
        total: The weighted sum, `sum_i w_i x_i`, a pytree.
        weight: The sum of the weights, `sum_i w_i`.

    Example:
        >>> import jax.numpy as jnp
        >>> two = Mean.of(jnp.array([1.0, 4.0]), jnp.array([2.0, 1.0]))
        >>> float(two.sum().value())
        2.0
    """

    total: PyTree[Any]
    weight: Float[Array, "*batch"]

    @staticmethod
    def of(value: PyTree[Any], weight: Weight | None = None) -> "Mean":
        """Means of `value`, one for each entry of `weight`.

        Args:
            value: A pytree whose leaves' leading axes are those of `weight`.
            weight: The weights, `[*batch]`, at least 0. None, the default, makes each entry of `value`, which
                must be one array, an observation of weight 1.

        Returns:
            `Mean(value * weight, weight)`.
        """
        weight = jnp.ones(jnp.shape(value)) if weight is None else jnp.asarray(weight)
        weight = weight.astype(jnp.promote_types(weight.dtype, jnp.float32))

        def weigh(x: Any) -> Array:
            # At least float32: sums of bfloat16 or float16 would round small addends away. And no wider than
            # `x`: where JAX computes in 64 bits, a weight must not turn a float32 loss into float64.
            return x * _expand(weight, x).astype(jnp.promote_types(jnp.result_type(x), jnp.float32))

        return Mean(jax.tree.map(weigh, value), weight)

    def sum(self, axis: int | tuple[int, ...] = 0) -> "Mean":
        """Merges the means stacked along `axis`."""
        return Mean(*jax.tree.map(lambda x: jnp.sum(x, axis), tuple(self)))

    def merge(self, other: "Mean") -> "Mean":
        """The mean over both sets of observations."""
        return Mean(*jax.tree.map(jnp.add, tuple(self), tuple(other)))

    def where(self, keep: Bool[Any, "..."]) -> "Mean":
        """The entries where `keep` is true, and the identity elsewhere, even in place of NaN."""
        # `jnp.where` and not a product with 0: NaN times 0 is NaN.
        return Mean(*jax.tree.map(lambda x: jnp.where(_expand(keep, x), x, 0), tuple(self)))

    def value(self) -> PyTree[Any]:
        """The mean itself; 0 where the weight is 0."""
        weight = jnp.where(self.weight == 0, 1, self.weight)
        return jax.tree.map(lambda x: x / _expand(weight, x), self.total)


def _expand(small: float | Shaped[Any, "..."], like: float | Shaped[Any, "..."]) -> Array:
    """`small` with trailing axes of size 1, to broadcast against `like`."""
    small = jnp.asarray(small)
    return small.reshape(small.shape + (1,) * (jnp.ndim(like) - small.ndim))


def summed(x: Float[Array, "part *shape"]) -> Float[Array, "*shape"]:
    """The sum over the leading axis; for long arrays a product with ones, in float32 at least.

    On a CPU XLA takes 6 to 30 times as long to sum long arrays as to multiply them by ones.
    """
    if x.size // max(len(x), 1) < _LONG:
        return jnp.sum(x, 0)
    wide = jnp.promote_types(x.dtype, jnp.float32)
    ones = jnp.ones(len(x), x.dtype)
    return jnp.tensordot(ones, x, 1, precision=jax.lax.Precision.HIGHEST, preferred_element_type=wide)
