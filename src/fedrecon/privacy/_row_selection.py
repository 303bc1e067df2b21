"""Rows of large tables that a round leaves alone, since too few clients contribute to them.

With differential privacy the counts by which rows are selected are noised, too. Together with the noised
sum of deltas they are one Gaussian mechanism, whose result is then cut to the selected rows: cutting reads
nothing but what was noised, so that it costs no privacy. Without noise a least number of contributors is no
guarantee: whoever knows all contributors of a row but one learns whether the last one has it.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from fedrecon._kernels.rows import groups
from fedrecon.algorithms._base import Algorithm, Broadcast, ServerState, Update
from fedrecon.core._examples import Examples
from fedrecon.core._mean import Mean
from fedrecon.core._model import Table, leaves_of, path_of
from fedrecon.core._tags import tagged
from fedrecon.core._types import Params
from fedrecon.errors import of_kind, plain, whole_number
from fedrecon.privacy._clipping import Clipping, dense

_CONTRIBUTIONS = Clipping.of(1.0)


@tagged("privacy/row_selection")
@dataclass(frozen=True)
class RowSelection:
    """How the rows are selected that a round of a private algorithm has deltas of.

    A client contributes 1 to every row that its delta changes, over the root of the number of these rows, so
    that its contributions have a norm of at most 1. A row is selected where the noised sum of contributions
    reaches the threshold. Noise on all entries of the sum of deltas would else move also rows that nobody
    touches, in every round. The other rows get a delta of 0: they stay under SGD, and may go on moving under
    a server optimiser with momentum, such as Adam, by the deltas of rounds before.

    Deltas are clipped before the selection is known, in one exchange with the clients; the reference clips
    what is left of a gradient after it.

    Attributes:
        share: The share of the privacy loss that the counts take, above 0 and below 1; 0.1 by default. The
            noise on the deltas grows by the factor 1 / √(1 - share).
        threshold: The least noised sum of contributions of a selected row, in standard deviations of its
            noise; 3.0 by default, which lets one in 740 of the rows pass that nobody touches.

    Raises:
        ValueError: A number is out of its range.

    References:
        Ghazi et al., Sparsity-Preserving Differentially Private Training of Large Embedding Models, NeurIPS
        2023 (DP-AdaFEST).
    """

    share: float = 0.1
    threshold: float = 3.0

    def __post_init__(self) -> None:
        if not 0 < self.share < 1:
            raise ValueError(f"share must be above 0 and below 1, got {plain(self.share)}")
        if not math.isfinite(self.threshold):
            raise ValueError(f"threshold must be a finite number, got {plain(self.threshold)}")

    def count_deviation(self, noise_multiplier: float) -> float:
        """The standard deviation of the noise on a row's sum of contributions.

        Args:
            noise_multiplier: The noise multiplier of the one mechanism that counts and deltas are together.
        """
        return noise_multiplier / math.sqrt(self.share)

    def delta_noise_multiplier(self, noise_multiplier: float) -> float:
        """The standard deviation of the noise on the sum of deltas over their joint bound.

        Args:
            noise_multiplier: The noise multiplier of the one mechanism that counts and deltas are together.
        """
        return noise_multiplier / math.sqrt(1 - self.share)

    def selected(
        self, counts: Mapping[str, Float[Array, "row"]], noise: Mapping[str, Any], noise_multiplier: float
    ) -> dict[str, Bool[Array, "row"]]:
        """Which rows are selected, by the path of a table.

        Args:
            counts: The sums of the clients' contributions, by the path of a table.
            noise: A standard normal number for each.
            noise_multiplier: The noise multiplier of the one mechanism that counts and deltas are together.
        """
        deviation = self.count_deviation(noise_multiplier)
        least = self.threshold * deviation
        # Noise that is no number selects the row, so that a sum of deltas without noise is not taken for 0.
        return {name: ~(sums + deviation * noise[name] < least) for name, sums in counts.items()}


def counted_tables(tables: tuple[Table, ...]) -> tuple[str, ...]:
    """The paths of tables whose rows are counted: the first of each group that shares its rows' numbers."""
    return tuple(group.leaves[0] for group in groups(tables))


def contributions(tables: tuple[Table, ...], delta: Params) -> dict[str, Float[Array, "row"]]:
    """1 for every row that a client's delta changes and 0 for the others, by the path of a table.

    Args:
        tables: The model's tables.
        delta: The client's dense delta.
    """
    leaves, counts = leaves_of(delta), {}
    for group in groups(tables):
        changed = [jnp.any(leaves[name].reshape(leaves[name].shape[0], -1) != 0, 1) for name in group.leaves]
        counts[group.leaves[0]] = jnp.any(jnp.stack(changed), 0).astype(jnp.float32)
    return counts


def bounded_contributions(tables: tuple[Table, ...], delta: Params) -> dict[str, Float[Array, "row"]]:
    """A client's `contributions`, divided by their norm."""
    bounded: dict[str, Float[Array, "row"]] = _CONTRIBUTIONS(contributions(tables, delta))
    return bounded


def cut_to(selected: Mapping[str, Bool[Array, "row"]], tables: tuple[Table, ...], total: Params) -> Params:
    """A sum of deltas that is 0 in all rows that are not selected.

    Args:
        selected: Which rows are selected, by the path of the first table of each group.
        tables: The model's tables.
        total: The sum of deltas.
    """
    masks = {name: selected[group.leaves[0]] for group in groups(tables) for name in group.leaves}

    def cut(path: Any, x: Array) -> Array:
        mask = masks.get(path_of(path))
        return x if mask is None else jnp.where(mask.reshape(-1, *[1] * (x.ndim - 1)), x, 0)

    return jax.tree_util.tree_map_with_path(cut, total)


def with_min_contributors(algorithm: Algorithm, min_contributors: int) -> Algorithm:
    """An algorithm whose server changes only rows of tables that enough clients of a cohort contribute to.

    That is no differential privacy, and in no ledger: `user_level_dp` refuses it, and takes a `RowSelection`
    in its place. The server still sees the sum of all rows; what is kept from others are rows of a few.

    Args:
        algorithm: The algorithm, whose clients send deltas; its model must declare tables.
        min_contributors: The least number of clients of a cohort whose deltas change a row, at least 1.

    Raises:
        ValueError: The number is out of its range, or the algorithm is private, sends no deltas or has no
            tables.
    """
    of_kind(Algorithm, algorithm=algorithm)
    min_contributors = whole_number("min_contributors", min_contributors, 1)
    if algorithm.privacy is not None:
        raise ValueError(
            f"min_contributors must not be given for a private algorithm: a count without noise is no "
            f"guarantee, and not in the ledger; use select_rows of user_level_dp, got {min_contributors}"
        )
    check_tables("min_contributors", algorithm)
    tables = algorithm.model.tables

    def client_update(
        broadcast: Broadcast, client_state: Any, examples: Examples, key: Any
    ) -> tuple[Update, Any]:
        update, client_state = algorithm.client_update(broadcast, client_state, examples, key)
        delta = dense(update.delta.total, update.rows, broadcast.global_params)
        counts = contributions(tables, delta)
        return Update(Mean(delta, update.delta.weight), {}, update.metrics, counts), client_state

    def server_update(state: ServerState, update: Update) -> ServerState:
        enough = {name: count >= min_contributors - 0.5 for name, count in update.statistics.items()}
        delta = cut_to(enough, tables, update.delta.total)
        return algorithm.server_update(
            state, update._replace(delta=update.delta._replace(total=delta), statistics=())
        )

    return replace(
        algorithm,
        client_update=client_update,
        server_update=server_update,
        row_counts=counted_tables(tables),
        hyperparameters={**algorithm.hyperparameters, "min_contributors": min_contributors},
    )


def check_tables(parameter: str, algorithm: Algorithm) -> None:
    """Refuses an algorithm whose rows cannot be selected.

    Raises:
        ValueError: It has no tables, counts rows already or sends no deltas.
    """
    if algorithm.exchanges != "parameters":
        raise ValueError(
            f"{parameter} must be given for an algorithm whose clients send deltas, but {algorithm.name} "
            f"exchanges {algorithm.exchanges}"
        )
    if not algorithm.model.tables:
        raise ValueError(f"{parameter} must be given for a model with tables, but {algorithm.name} has none")
    if algorithm.takes_each:
        raise ValueError(
            f"{parameter} must be given for an algorithm whose server takes sums, got {algorithm!r}"
        )
    if algorithm.row_counts:
        raise ValueError(f"{parameter} must be given once, but the rows of {algorithm.name} are counted")
