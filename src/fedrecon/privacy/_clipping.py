"""Clipping of what a client adds to the sum, so that no client changes it by more than a bound."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from fedrecon._kernels.rows import add
from fedrecon.core._model import leaves_of, path_of
from fedrecon.core._tags import tagged
from fedrecon.core._types import Params
from fedrecon.errors import plain

_AT_ONCE = 32  # numbers that are summed in one go
_HUGE = 2.0**64


@tagged("privacy/clipping")
@dataclass(frozen=True)
class Clipping:
    """Bounds on the Euclidean norms of groups of leaves.

    Attributes:
        bounds: Pairs of a path and a bound. The path is that of a leaf or of what leaves lie below, `""` for
            all leaves. Every leaf belongs to exactly one group.
    """

    bounds: tuple[tuple[str, float], ...]

    @staticmethod
    def of(clip: "float | Mapping[str, float] | Clipping") -> "Clipping":
        """The bounds that a user gave: one number for the norm of all leaves, or one for each group.

        Raises:
            ValueError: A bound is not a finite number above 0, or there is none.
        """
        if isinstance(clip, Clipping):
            return clip
        given = clip if isinstance(clip, Mapping) else {"": clip}
        if not given:
            raise ValueError("clip must name at least one group of leaves, got none")
        for path, bound in given.items():
            if isinstance(bound, bool) or not isinstance(bound, int | float) or not 0 < bound < math.inf:
                name = f"clip[{path!r}]" if isinstance(clip, Mapping) else "clip"
                raise ValueError(f"{name} must be a finite number above 0, got {plain(bound)}")
        return Clipping(tuple(sorted((path, float(bound)) for path, bound in given.items())))

    @property
    def bound(self) -> float:
        """The joint bound: no clipped delta has a larger norm over all its leaves."""
        return math.sqrt(sum(bound**2 for _, bound in self.bounds))

    def check(self, params: Params) -> None:
        """Refuses parameters that the groups do not fit.

        Args:
            params: The global parameters, or their shapes.

        Raises:
            TypeError: A leaf does not hold floating-point numbers; numbers of rows would be clipped away.
            ValueError: A leaf is in no group or in several, or a group has no leaf.
        """
        names = leaves_of(params)
        for name, leaf in names.items():
            if not jnp.issubdtype(leaf.dtype, jnp.floating):
                raise TypeError(
                    f"the global parameter {name!r} must hold floating-point numbers to be clipped, got "
                    f"{leaf.dtype}; make it part of the model's functions"
                )
            groups = [path for path, _ in self.bounds if _below(name, path)]
            if len(groups) != 1:
                within = f"in {groups}" if groups else "in none"
                raise ValueError(
                    f"clip must put every global parameter in one group, but {name!r} is {within}; the "
                    f"global parameters are {sorted(names)}"
                )
        for path, _ in self.bounds:
            if not any(_below(name, path) for name in names):
                raise ValueError(f"clip names {path!r}, but the global parameters have only {sorted(names)}")

    def __call__(self, delta: Params) -> Params:
        """A client's delta with no group's norm above its bound, in at least single precision.

        A delta with a number that is not finite becomes 0 as a whole. One whose norms are within the bounds
        is returned as it is. The others are divided by slightly more than their norm: by as much as rounding
        could have made the computed norm too small, so that the bounds hold for the numbers as they are.

        Args:
            delta: The delta of one client in which no row of a table comes twice: `dense`, or only rows of
                different numbers.
        """

        # Deltas that need care, since squares of their numbers overflow, are all but never met. Side by side
        # a choice between two ways would compute both for every client: so it is made once for all of them.
        @jax.custom_batching.custom_vmap
        def clipped(wide: Params) -> Params:
            return jax.tree.map(lambda x: x[0], side_by_side(jax.tree.map(lambda x: x[None], wide)))

        def side_by_side(wide: Params) -> Params:
            norms = jax.vmap(self._norms)(wide)
            simple = jnp.all(jnp.isfinite(jnp.stack(jax.tree.leaves(norms))))
            return jax.lax.cond(simple, jax.vmap(self._scaled), jax.vmap(self._with_care), wide, norms)

        @clipped.def_vmap
        def _(size: int, batched: list[Any], wide: Params) -> tuple[Params, Params]:
            def each(x: Array, is_batched: bool) -> Array:
                return x if is_batched else jnp.broadcast_to(x, (size, *x.shape))

            return side_by_side(jax.tree.map(each, wide, batched[0])), jax.tree.map(lambda _: True, wide)

        return clipped(jax.tree.map(lambda x: x.astype(jnp.promote_types(x.dtype, jnp.float32)), delta))

    def _norms(self, delta: Params) -> dict[str, Any]:
        """The norm of every group over its bound; not finite where a square overflows, or a number is not.

        Squares that vanish are those of numbers that are negligible beside the bound.
        """
        leaves, norms = leaves_of(delta), {}
        for path, bound in self.bounds:
            group = [x * (1 / bound) for name, x in leaves.items() if _below(name, path)]
            usual = 1 / _HUGE < bound < _HUGE  # else a product may vanish that is not negligible
            norms[path] = jnp.sqrt(sum_of_squares(group)) if usual else jnp.float32(jnp.nan)
        return norms

    def _scaled(self, delta: Params, norms: dict[str, Any]) -> Params:
        """A delta of finite numbers, clipped: `norms` are over the bounds."""
        leaves = leaves_of(delta)
        factors: dict[str, Any] = {}
        for path, _ in self.bounds:
            group = {name: x for name, x in leaves.items() if _below(name, path)}
            allowed = 1 - _rounding(sum(x.size for x in group.values()), len(group))
            beyond = norms[path] > allowed
            factors |= dict.fromkeys(group, (beyond, allowed / jnp.maximum(norms[path], allowed)))

        def scaled(path: Any, x: Array) -> Array:
            beyond, factor = factors[path_of(path)]
            return jnp.where(beyond, x * factor.astype(x.dtype), x)  # times 1 would flush the smallest to 0

        return jax.tree_util.tree_map_with_path(scaled, delta)

    def _with_care(self, wide: Params, norms: dict[str, Any]) -> Params:
        """A delta, whatever its numbers are, clipped: to the bit as by `_scaled` where the norms are finite.

        So a client's delta is the same whether one that needs care is beside it or not.
        """
        leaves, finite = leaves_of(wide), jnp.bool_(True)
        factors: dict[str, Any] = {}
        for path, bound in self.bounds:
            group = {name: x for name, x in leaves.items() if _below(name, path)}
            largest = jnp.stack([jnp.max(jnp.abs(x), initial=0) for x in group.values()]).max()
            finite &= jnp.isfinite(largest)
            # With the largest number as the unit, no square overflows, and what vanishes is negligible.
            # A power of two comes first: compilers multiply by the reciprocal, which of a huge unit is 0.
            power = jnp.where(largest > _HUGE, 1 / _HUGE, jnp.where(largest < 1 / _HUGE, _HUGE, 1))
            power = power.astype(largest.dtype)
            unit = jnp.where((largest > 0) & finite, largest * power, 1)
            norm = jnp.sqrt(sum_of_squares([x * power / unit for x in group.values()]))
            allowed = bound * (1 - _rounding(sum(x.size for x in group.values()), len(group)))
            beyond = norm * unit > allowed * power
            factors |= dict.fromkeys(group, (power, unit, beyond, allowed / jnp.maximum(norm, 1)))

        def clipped(path: Any, x: Array) -> Array:
            power, unit, beyond, factor = factors[path_of(path)]
            scaled = x * power.astype(x.dtype) / unit.astype(x.dtype) * factor.astype(x.dtype)
            return jnp.where(finite, jnp.where(beyond, scaled, x), 0)

        careful = jax.tree_util.tree_map_with_path(clipped, wide)
        simple = jnp.all(jnp.isfinite(jnp.stack(jax.tree.leaves(norms))))
        return jax.tree.map(lambda a, b: jnp.where(simple, a, b), self._scaled(wide, norms), careful)


def dense(delta: Params, rows: Mapping[str, Any], like: Params) -> Params:
    """A client's delta with whole tables, in which rows of the same number are summed.

    Args:
        delta: The delta of every leaf; for a table that `rows` names, the delta of these rows.
        rows: The numbers of the rows of each table; numbers past the table's end are padding.
        like: The global parameters.
    """
    if not rows:
        return delta
    shapes = leaves_of(like)

    def whole(path: Any, x: Array) -> Array:
        name = path_of(path)
        if name not in rows:
            return x
        zeros = jnp.zeros(shapes[name].shape, jnp.promote_types(x.dtype, jnp.float32))
        return add(zeros, rows[name], x.astype(zeros.dtype))

    return jax.tree_util.tree_map_with_path(whole, delta)


def without_padding(delta: Params, rows: Mapping[str, Any], like: Params) -> Params:
    """A client's delta of rows, in which those of padding are 0.

    Args:
        delta: The delta of every leaf; for a table that `rows` names, the delta of these rows.
        rows: The numbers of the rows of each table; numbers past the table's end are padding.
        like: The global parameters.
    """
    shapes = leaves_of(like)

    def real(path: Any, x: Array) -> Array:
        ids = rows.get(path_of(path))
        if ids is None:
            return x
        is_real = ids < shapes[path_of(path)].shape[0]
        return jnp.where(is_real.reshape(*ids.shape, *[1] * (x.ndim - ids.ndim)), x, 0)

    return jax.tree_util.tree_map_with_path(real, delta)


def sum_of_squares(leaves: list[Any]) -> Float[Array, ""]:
    """The sum over all leaves, a few numbers at a time.

    A running sum in single precision loses terms that are too small beside it, however many they are. This
    one's relative error is at most what `_rounding` says.
    """
    sums = []
    for x in leaves:
        flat = jnp.square(x).reshape(-1)
        while flat.size > _AT_ONCE:
            short = -flat.size % _AT_ONCE
            flat = (jnp.pad(flat, (0, short)) if short else flat).reshape(-1, _AT_ONCE).sum(1)
        sums.append(flat.sum())
    return jnp.stack(sums).sum()


def _rounding(size: int, leaves: int) -> float:
    """A bound on the relative rounding errors of a norm over so many numbers, and of a division by it."""
    levels = math.ceil(math.log(max(size, _AT_ONCE), _AT_ONCE))
    return (levels * _AT_ONCE + leaves + 8) * float(jnp.finfo(jnp.float32).eps)


def _below(name: str, path: str) -> bool:
    return path in ("", name) or name.startswith(path + "/")
