"""The sum of a round's updates, and the checks that an update must pass to be part of it."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fedrecon.algorithms._base import Update
from fedrecon.core._mean import Mean
from fedrecon.core._model import leaves_of, with_leaves
from fedrecon.core._types import Params
from fedrecon.deployment._refusals import Refusal, RefusedError


class Sums:
    """Adds updates in float64, so that their order of arrival changes at most the last bit in float32.

    Attributes:
        weight: The sum of the weights of all updates so far.
        metrics: The sums of each metric over all updates so far, `[total, weight]`.

    Args:
        shapes: Shapes and types of the global parameters.
        tables: Paths of the leaves that updates may send by rows.
        statistics: Shapes and types of the updates' `statistics`; by default updates have none.
        max_weight: The largest weight of an update; one with a larger weight is refused; no limit by default.
    """

    def __init__(
        self, shapes: Params, tables: frozenset[str], statistics: Any = (), max_weight: float = float("inf")
    ):
        self._shapes, self._tables, self._most = shapes, tables, max_weight
        self._like = leaves_of(shapes)
        self._statistics_like = statistics
        self.clear()

    def clear(self) -> None:
        """Forgets all updates."""
        self.weight, self.metrics = 0.0, dict[str, np.ndarray]()
        self._totals = {name: np.zeros(x.shape) for name, x in self._like.items()}
        self._statistics = jax.tree.map(lambda x: np.zeros(x.shape), self._statistics_like)

    def add(self, update: Update, discount: float = 1.0) -> None:
        """Adds an update as a whole, or raises an error and adds nothing.

        Args:
            update: The update that `Client.update` returned, possibly decoded from a message.
            discount: The factor by which the delta's total and its weight are multiplied; the update's mean
                stays the same and counts for less; 1 by default.

        Raises:
            RefusedError: The update has other leaves, shapes, types, rows or weights than the algorithm's.
        """
        deltas = self._check(update)
        for name, delta in deltas.items():
            rows = update.rows.get(name)
            scaled = np.asarray(delta, np.float64) * discount
            if rows is None:
                self._totals[name] += scaled
            else:
                np.add.at(
                    self._totals[name], rows.reshape(-1), scaled.reshape(-1, *self._like[name].shape[1:])
                )
        self.weight += float(update.delta.weight) * discount
        for name, mean in update.metrics.items():
            pair = np.array([mean.total, mean.weight], np.float64)
            self.metrics[name] = self.metrics.get(name, 0.0) + pair
        self._statistics = jax.tree.map(lambda a, b: a + np.asarray(b), self._statistics, update.statistics)

    def update(self) -> Update:
        """The sum of all updates as a single update, in the form that `server_update` takes."""

        def single(total: Any, like: Any) -> Any:
            return jnp.asarray(total, jnp.promote_types(like.dtype, jnp.float32))

        with np.errstate(over="ignore"):  # the caller checks whether the parameters are finite after the sum
            totals = {name: single(x, self._like[name]) for name, x in self._totals.items()}
        statistics = jax.tree.map(
            lambda x, like: jnp.asarray(x, like.dtype), self._statistics, self._statistics_like
        )
        mean = Mean(with_leaves(self._shapes, totals), jnp.float32(self.weight))
        return Update(mean, {}, {}, statistics)

    def _check(self, update: Update) -> dict[str, Any]:
        """The update's deltas by the leaf's path, after all checks."""
        deltas = leaves_of(update.delta.total)
        if deltas.keys() != self._like.keys():
            raise RefusedError(
                Refusal.WRONG_LEAF,
                f"an update must have the leaves {sorted(self._like)}, got {sorted(deltas)}",
            )
        for name in update.rows:
            if name not in self._tables:
                raise RefusedError(Refusal.WRONG_LEAF, f"rows are sent of tables only, got those of {name!r}")
        for name, delta in deltas.items():
            _check_leaf(name, delta, update.rows.get(name), self._like[name])
        self._check_means(update, deltas)
        self._check_statistics(update.statistics)
        return deltas

    def _check_means(self, update: Update, deltas: Mapping[str, Any]) -> None:
        for name, mean in update.metrics.items():
            if not isinstance(mean, Mean) or np.shape(mean.total) or np.shape(mean.weight):
                raise RefusedError(Refusal.WRONG_SHAPE, f"the metric {name!r} must be a Mean of scalars")
            if not (np.isfinite(mean.total) and np.isfinite(mean.weight)):
                raise RefusedError(Refusal.NOT_FINITE, f"the metric {name!r} must be finite, got {mean}")
        weight = np.asarray(update.delta.weight)
        if weight.shape:
            raise RefusedError(Refusal.WRONG_SHAPE, f"the weight must be a scalar, got {weight.shape}")
        if not np.isfinite(weight):
            raise RefusedError(Refusal.NOT_FINITE, f"the weight must be finite, got {float(weight)}")
        if not 0 <= float(weight) <= self._most:
            raise RefusedError(
                Refusal.WEIGHT, f"the weight must lie from 0 to {self._most:g}, got {float(weight):g}"
            )
        if weight == 0 and any(np.any(np.asarray(x)) for x in deltas.values()):
            raise RefusedError(Refusal.WEIGHT, "an update of weight 0 must have a delta of 0")

    def _check_statistics(self, statistics: Any) -> None:
        given, wanted = leaves_of(statistics), leaves_of(self._statistics_like)
        if given.keys() != wanted.keys():
            raise RefusedError(
                Refusal.WRONG_LEAF, f"statistics must have the leaves {sorted(wanted)}, got {sorted(given)}"
            )
        for name, x in given.items():
            if np.shape(x) != wanted[name].shape:
                raise RefusedError(
                    Refusal.WRONG_SHAPE,
                    f"the statistic {name!r} must be of shape {wanted[name].shape}, got {np.shape(x)}",
                )
            if not np.all(np.isfinite(np.asarray(x, np.float64))):
                raise RefusedError(Refusal.NOT_FINITE, f"the statistic {name!r} must be finite")


def _check_leaf(name: str, delta: Any, rows: Any, like: Any) -> None:
    """Checks a leaf's delta against the parameter: NumPy's addition would silently broadcast or round."""
    wanted, kind = like.shape, np.asarray(delta).dtype
    allowed = (like.dtype, jnp.promote_types(like.dtype, jnp.float32))
    if kind not in allowed:
        raise RefusedError(Refusal.WRONG_DTYPE, f"the delta of {name!r} must be of {like.dtype}, got {kind}")
    if rows is not None:
        rows = np.asarray(rows)
        if rows.dtype.kind not in "iu":
            raise RefusedError(
                Refusal.WRONG_DTYPE, f"the rows of {name!r} must be whole numbers, got {rows.dtype}"
            )
        if rows.size and not 0 <= rows.min() <= rows.max() < wanted[0]:
            raise RefusedError(
                Refusal.ROW_RANGE,
                f"the rows of {name!r} must lie from 0 to {wanted[0] - 1}, got {rows.min()} to {rows.max()}",
            )
        wanted = (*rows.shape, *wanted[1:])
    if np.shape(delta) != wanted:
        raise RefusedError(
            Refusal.WRONG_SHAPE, f"the delta of {name!r} must be of shape {wanted}, got {np.shape(delta)}"
        )
    if not np.isfinite(np.sum(delta, dtype=np.float64)):
        raise RefusedError(Refusal.NOT_FINITE, f"the delta of {name!r} must be finite")
