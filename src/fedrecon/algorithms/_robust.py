"""Robust aggregation: rules that bound what a share of hostile clients does to the parameters.

Each rule reads every client's delta, so that it fits neither secure sums nor user-level differential privacy,
where a server has only the sum.

A client touches few rows of an embedding table. A median over all clients would be 0 in nearly every row, so
that the rules that work entry by entry take a row's clients to be those whose delta changes it, and multiply
the result by the share that these are of the cohort: without hostile clients it stands for the mean over all.
In a row that few clients change, the hostile ones may be most of them: only bounds on the norm help there.
"""

import math
from dataclasses import dataclass, replace
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from fedrecon.algorithms._base import Algorithm, ServerState, Update
from fedrecon.algorithms._building_blocks import uniform
from fedrecon.core._mean import Mean
from fedrecon.core._model import Model, leaves_of, origin_of, path_of
from fedrecon.core._tags import tagged
from fedrecon.core._types import Params
from fedrecon.errors import of_kind, plain, whole_number


@runtime_checkable
class RobustRule(Protocol):
    """Turns the deltas of a cohort into one; hashable, with a `repr` that says how."""

    def __call__(self, deltas: Params, valid: Bool[Array, "client"], tables: frozenset[str]) -> Params:
        """The delta that stands for the mean of the cohort's.

        Args:
            deltas: The clients' deltas, dense, `[client, ...]`; 0 where a client is not valid.
            valid: Whether each is a client's delta, and finite.
            tables: The paths of the embedding tables among the leaves.
        """


_LARGEST_SQUARE = 1e36  # so that a sum of several distances is finite in float32


@tagged("robust/norm_bound")
@dataclass(frozen=True)
class NormBound:
    """The mean of deltas whose Euclidean norm is cut to a bound.

    Attributes:
        bound: The bound; None, the default, for the median of the cohort's norms.

    Raises:
        ValueError: The bound is not a finite number above 0.

    References:
        Sun et al., Can You Really Backdoor Federated Learning?, 2019.
    """

    bound: float | None = None

    def __post_init__(self) -> None:
        if self.bound is not None and not 0 < self.bound < math.inf:
            raise ValueError(f"bound must be a finite number above 0, or None, got {plain(self.bound)}")

    def __call__(self, deltas: Params, valid: Bool[Array, "client"], tables: frozenset[str]) -> Params:
        norms = jnp.sqrt(sum(jnp.sum(jnp.square(_flat(x)), 1) for x in jax.tree.leaves(deltas)))
        bound = jnp.float32(self.bound or 0)
        if self.bound is None:
            bound = jnp.nanmedian(jnp.where(valid, norms, jnp.nan))
        factors = jnp.where(norms > bound, bound / jnp.maximum(norms, 1e-30), 1) * valid
        count = jnp.maximum(jnp.sum(valid), 1)
        return jax.tree.map(lambda x: jnp.tensordot(factors, x, 1, precision="highest") / count, deltas)


@tagged("robust/trimmed_mean")
@dataclass(frozen=True)
class TrimmedMean:
    """In every entry the mean without the largest and the smallest numbers.

    Attributes:
        share: The share of an entry's clients that is left out at either end, at least 0 and at most 0.5;
            0.2 by default. With 0.5 it is the median.

    Raises:
        ValueError: The share is out of its range.

    References:
        Yin et al., Byzantine-Robust Distributed Learning: Towards Optimal Statistical Rates, ICML 2018.
    """

    share: float = 0.2

    def __post_init__(self) -> None:
        if not 0 <= self.share <= 0.5:
            raise ValueError(f"share must be from 0 to 0.5, got {plain(self.share)}")

    def __call__(self, deltas: Params, valid: Bool[Array, "client"], tables: frozenset[str]) -> Params:
        def trimmed(path: Any, x: Array) -> Array:
            return _trimmed(x, valid, path_of(path) in tables, self.share)

        return jax.tree_util.tree_map_with_path(trimmed, deltas)


@tagged("robust/median")
@dataclass(frozen=True)
class Median:
    """In every entry the median of the clients' numbers.

    References:
        Yin et al., Byzantine-Robust Distributed Learning: Towards Optimal Statistical Rates, ICML 2018.
    """

    def __call__(self, deltas: Params, valid: Bool[Array, "client"], tables: frozenset[str]) -> Params:
        return TrimmedMean(0.5)(deltas, valid, tables)


@tagged("robust/krum")
@dataclass(frozen=True)
class Krum:
    """The mean of the deltas that lie nearest to the others.

    A client's score is the sum of its squared distances to the n - f - 2 nearest of the other clients, for n
    clients of which f are taken to be hostile.

    Attributes:
        hostile: The share of the cohort that is taken to be hostile, at least 0 and below 0.5; 0.2 by
            default.
        selected: The number of clients with the lowest scores whose deltas are averaged; 1 for Krum. None,
            the default, for all but the hostile ones, as in multi-Krum.

    Raises:
        ValueError: A number is out of its range.

    References:
        Blanchard et al., Machine Learning with Adversaries: Byzantine Tolerant Gradient Descent, NeurIPS
        2017.
    """

    hostile: float = 0.2
    selected: int | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.hostile < 0.5:
            raise ValueError(f"hostile must be at least 0 and below 0.5, got {plain(self.hostile)}")
        if self.selected is not None:
            object.__setattr__(self, "selected", whole_number("selected", self.selected, 1))

    def __call__(self, deltas: Params, valid: Bool[Array, "client"], tables: frozenset[str]) -> Params:
        flat = [_flat(x) for x in jax.tree.leaves(deltas)]
        products = sum(jnp.matmul(x, x.T, precision="highest") for x in flat)
        squares = jnp.diagonal(products)
        # Where numbers are too large to be squared in float32, distances are not finite and tell nothing.
        valid = valid & (squares < _LARGEST_SQUARE)
        distances = jnp.maximum(squares[:, None] + squares[None, :] - 2 * products, 0)
        clients = len(valid)
        usable = valid[:, None] & valid[None, :] & ~jnp.eye(clients, dtype=bool)
        ordered = jnp.sort(jnp.where(usable, distances, jnp.inf), axis=1)
        count = jnp.sum(valid)
        hostile = jnp.floor(self.hostile * count).astype(jnp.int32)
        nearest = jnp.maximum(count - hostile - 2, 1)
        near = (jnp.arange(clients) < nearest) & jnp.isfinite(ordered)
        scores = jnp.where(valid, jnp.sum(jnp.where(near, ordered, 0), 1), jnp.inf)
        most = jnp.maximum(count - hostile, 1) if self.selected is None else jnp.minimum(self.selected, count)
        rank = jnp.zeros(clients, jnp.int32).at[jnp.argsort(scores)].set(jnp.arange(clients))
        weights = (valid & (rank < most)) / jnp.maximum(most, 1)
        return jax.tree.map(lambda x: jnp.tensordot(weights, x, 1, precision="highest"), deltas)


def robust(algorithm: Algorithm, rule: RobustRule) -> Algorithm:
    """An algorithm whose server aggregates the clients' deltas by a rule that hostile clients sway less.

    Simulations then hold the dense deltas of a whole cohort at once, on one device.

    Args:
        algorithm: The algorithm, whose clients send deltas and weigh the same.
        rule: The rule: `NormBound`, `Median`, `TrimmedMean`, `Krum`, or one of your own.

    Raises:
        TypeError: `rule` is no rule.
        ValueError: The algorithm is private, its server sees only sums, its clients send no deltas, or their
            weights differ, so that a hostile client could choose its own.
    """
    of_kind(Algorithm, algorithm=algorithm)
    if not callable(rule) or isinstance(rule, type):
        raise TypeError(f"rule must be a rule such as Median(), got {rule!r}")
    if algorithm.privacy is not None:
        raise ValueError(
            f"rule must not be given for a private algorithm: its noise is calibrated for a sum, and the "
            f"server is to see no single delta, got {rule!r}"
        )
    if algorithm.exchanges != "parameters":
        raise ValueError(
            f"algorithm must be one whose clients send deltas, but {algorithm.name} exchanges "
            f"{algorithm.exchanges}"
        )
    if algorithm.takes_each or algorithm.row_counts:
        raise ValueError(f"algorithm must be one whose server takes the sum of deltas, got {algorithm!r}")
    weight = algorithm.hyperparameters.get("client_weight", uniform)
    if weight is not uniform:
        raise ValueError(
            f"client_weight must be uniform under robust aggregation, got "
            f"{getattr(weight, '__name__', weight)!r}: a hostile client would choose its own weight"
        )
    tables = _tables_of(algorithm.model)

    def server_update(state: ServerState, update: Update) -> ServerState:
        weights = update.delta.weight
        deltas = jax.tree.map(lambda x: x / jnp.maximum(_beside(weights, x), 1e-30), update.delta.total)
        finite = [jnp.all(jnp.isfinite(_flat(x)), 1) for x in jax.tree.leaves(deltas)]
        valid = (weights > 0) & jnp.all(jnp.stack(finite), 0)
        deltas = jax.tree.map(lambda x: jnp.where(_beside(valid, x), x, 0), deltas)
        mean = Mean.of(rule(deltas, valid, tables), jnp.sum(valid).astype(jnp.float32))
        return algorithm.server_update(state, Update(mean, {}, {}))

    return replace(
        algorithm,
        server_update=server_update,
        takes_each=True,
        hyperparameters={**algorithm.hyperparameters, "robust": rule},
    )


def _tables_of(model: Model) -> frozenset[str]:
    """The paths of the tables among the global parameters, also of those that a view no longer declares.

    Error feedback and some optimisers work on whole tables; a row's clients are few all the same.
    """
    names = leaves_of(jax.eval_shape(model.init_global, jax.random.key(0)))
    paths = [table.leaf for view in (model, origin_of(model)) for table in view.tables]
    return frozenset(path for leaf in paths for path in (leaf, f"0/{leaf}") if path in names)


def _flat(x: Float[Array, "client *rest"]) -> Float[Array, "client entry"]:
    return x.reshape(x.shape[0], -1)


def _beside(values: Array, x: Array) -> Array:
    """Values of clients in the shape in which they meet a leaf `[client, ...]`."""
    return values.reshape(-1, *[1] * (x.ndim - 1))


def _trimmed(
    x: Float[Array, "client *rest"], valid: Bool[Array, "client"], table: bool, share: float
) -> Float[Array, "*rest"]:
    """The trimmed mean of each entry, times the share of its clients where the leaf is a table."""
    if not x.size:
        return x.sum(0)
    taking = _beside(valid, x)
    if table:  # a row's clients are those whose delta changes any of its entries
        rows = x.reshape(*x.shape[:2], -1)
        taking = taking & jnp.any(rows != 0, 2).reshape(*x.shape[:2], *[1] * (x.ndim - 2))
    count = jnp.sum(taking, 0)
    ordered = jnp.sort(jnp.where(taking, x, jnp.inf), axis=0)
    # At least one number stays, or of an even number the two in the middle.
    cut = jnp.minimum(jnp.floor(share * count), jnp.maximum(count - 1, 0) // 2).astype(jnp.int32)
    places = _beside(jnp.arange(x.shape[0]), x)
    kept = (places >= cut) & (places < count - cut)
    mean = jnp.sum(jnp.where(kept, ordered, 0), 0) / jnp.maximum(count - 2 * cut, 1)
    return mean * count / jnp.maximum(jnp.sum(valid), 1)
