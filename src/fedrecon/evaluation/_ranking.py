"""Ranking metrics: the ranks of held-out items among all items that a client has not seen."""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from fedrecon.core._examples import Examples
from fedrecon.core._mean import Mean
from fedrecon.core._model import Model
from fedrecon.core._random import fold_in, uniform
from fedrecon.core._tags import tagged
from fedrecon.core._types import Params, PRNGKey
from fedrecon.errors import store_whole_numbers, whole_number

KINDS = ("hr", "ndcg", "recall", "recall_min")
_NEGATIVES = 11  # the number that is folded into a client's key for its drawn items


@tagged("scoring/ranking")
@dataclass(frozen=True)
class Ranking:
    """Scores all items for a client and ranks those of its query set; a scoring for `evaluate`.

    The candidates are all items but those of the support set (an item of both counts as held out). A
    held-out item's rank r, from 0, is the number of candidates with a higher score. With H the held-out
    items and D(r) = 1 / log2(r + 2):

    - `hr@K`: 1 if r < K for any of H, else 0: over clients, the share of clients with a hit;
    - `recall@K`: the number of H with r < K, divided by |H|;
    - `recall_min@K`: the same, divided by min(K, |H|) (Liang et al., 2018);
    - `ndcg@K`: the sum of D(r) over H with r < K, divided by the sum of D over the ranks 0 … min(K, |H|) - 1.

    Where candidates have the same score, a metric is its expectation over their random order, so that a
    constant score gets the metrics of chance. A score of NaN comes last.

    With `negatives`, the metrics `sampled_…` are those of shorter lists, each of one held-out item and
    `negatives` items that the client has neither in its support nor in its query set. These are drawn
    uniformly without replacement, by the evaluation's seed and the client's name, so that they are the same
    for every algorithm. For a client with several held-out items the metrics are the mean over its lists. A
    client counts once in all means.

    Attributes:
        num_items: The number of items in the catalogue.
        metrics: The metrics, each as a kind, `"hr"`, `"ndcg"`, `"recall"` or `"recall_min"`, and its K; by
            default `hr@10` and `ndcg@10`.
        negatives: The number of items that are drawn for a list of `sampled_…` metrics; 0, the default, for
            no such metrics.
        item: The field of the examples that holds the item; `"item"` by default.

    Raises:
        ValueError: A kind is unknown, or a number out of its range.

    References:
        He et al., Neural Collaborative Filtering, WWW 2017 (one held-out item, 99 drawn ones). Krichene and
        Rendle, On Sampled Metrics for Item Recommendation, KDD 2020, on why to look at the others as well.
        Liang et al., Variational Autoencoders for Collaborative Filtering, WWW 2018.
    """

    num_items: int
    metrics: tuple[tuple[str, int], ...] = (("hr", 10), ("ndcg", 10))
    negatives: int = 0
    item: str = "item"

    def __post_init__(self) -> None:
        store_whole_numbers(self, 1, "num_items")
        store_whole_numbers(self, 0, "negatives")
        metrics = []
        for kind, k in self.metrics:
            if kind not in KINDS:
                raise ValueError(f"metrics must be of the kinds {', '.join(KINDS)}, got {kind!r}")
            metrics.append((kind, whole_number(f"the K of {kind}@K", k, 1)))
        object.__setattr__(self, "metrics", tuple(metrics))
        if not self.negatives < self.num_items:
            raise ValueError(
                f"negatives must be from 0 to {self.num_items - 1}, all items but one, got {self.negatives}"
            )

    def __call__(
        self,
        model: Model,
        global_params: Params,
        local_params: Params,
        support: Examples,
        query: Examples,
        key: PRNGKey,
    ) -> dict[str, Mean]:
        """One client's metrics, of weight 1, or of weight 0 if its query set is empty.

        Args:
            model: The view of the model whose local parameters were fitted; it must have `predict`.
            global_params: The global parameters of the server.
            local_params: The client's local parameters.
            support: The examples whose items are no candidates.
            query: The examples whose items are held out.
            key: The client's random key, for the drawn items.
        """
        if model.predict is None:
            raise ValueError("a model that is asked to rank must have predict, this has none")
        everything = {self.item: jnp.arange(self.num_items)}
        return self.of_scores(model.predict(global_params, local_params, everything), support, query, key)

    def of_scores(
        self, scores: Float[Any, "item"], support: Examples, query: Examples, key: PRNGKey
    ) -> dict[str, Mean]:
        """One client's metrics by given scores of all items.

        Args:
            scores: The score of each item, `[item]`.
            support: The examples whose items are no candidates.
            query: The examples whose items are held out.
            key: The client's random key, for the drawn items.
        """
        held = query.data[self.item]
        place = jnp.arange(held.size)
        first = jnp.full(self.num_items, held.size).at[held].min(jnp.where(query.mask, place, held.size))
        valid = query.mask & (first[held] == place)  # an item that is held out twice counts once
        seen, wanted = self._mask_items(support), self._mask_items(query)
        # Scores are made finite, so that no candidate ties with the items that are left out, at minus
        # infinity.
        low = jnp.finfo(scores.dtype).min
        scores = jnp.nan_to_num(scores, nan=low, posinf=-low, neginf=low)
        ranked = jnp.sort(jnp.where(seen & ~wanted, -jnp.inf, scores))
        own = scores[held]
        not_above = jnp.searchsorted(ranked, own, side="right")
        whole = _Places(self.num_items - not_above, not_above - jnp.searchsorted(ranked, own), valid)
        metrics = {f"{kind}@{k}": self._mean(whole, kind, k, together=True) for kind, k in self.metrics}
        if self.negatives:
            drawn, usable = self.drawn(seen | wanted, key)
            others = jnp.where(usable, scores[drawn], -jnp.inf)
            above = jnp.sum(others > own[:, None], 1)
            sampled = _Places(above, 1 + jnp.sum(others == own[:, None], 1), valid)
            for kind, k in self.metrics:
                metrics[f"sampled_{kind}@{k}"] = self._mean(sampled, kind, k, together=False)
        return metrics

    def drawn(
        self, known: Bool[Any, "item"], key: PRNGKey
    ) -> tuple[Int[Array, "negative"], Bool[Array, "negative"]]:
        """Draws items for lists of `sampled_…` metrics.

        Args:
            known: Whether the client has each item, `[item]`; such items are not drawn.
            key: The client's random key.

        Returns:
            The items, and whether each of them may be used: False where too few items are not known.
        """
        draws = uniform(fold_in(key, _NEGATIVES), known.shape)
        best, items = jax.lax.top_k(jnp.where(known, -1.0, draws), self.negatives)
        return items, best >= 0

    def _mask_items(self, examples: Examples) -> Bool[Array, "item"]:
        none = jnp.zeros(self.num_items, bool)
        return none.at[examples.data[self.item]].max(examples.mask)

    def _mean(self, places: "_Places", kind: str, k: int, together: bool) -> Mean:
        count = jnp.sum(places.valid)
        if together and kind == "hr":
            return Mean.of(places.any_within(k), (count > 0).astype(jnp.float32))
        gains = 1 / np.log2(np.arange(k) + 2) if kind == "ndcg" else np.ones(k)
        sums = jnp.asarray(np.concatenate([[0], np.cumsum(gains)]), jnp.float32)
        gained = jnp.sum(jnp.where(places.valid, places.expected(sums), 0))
        best: Any = jnp.maximum(count, 1)
        if together and kind in ("ndcg", "recall_min"):  # in a list of its own, an item is at best the first
            best = sums[jnp.minimum(best, k)]
        return Mean.of(gained / best, (count > 0).astype(jnp.float32))


@dataclass(frozen=True, eq=False)
class _Places:
    """The ranks of held-out items.

    Attributes:
        above: The number of candidates with a higher score, for each held-out item.
        tied: The number of candidates with the same score, the item itself included.
        valid: Whether each is a held-out item, and neither padding nor a repetition.
    """

    above: Int[Any, "held_out"]
    tied: Int[Any, "held_out"]
    valid: Bool[Any, "held_out"]

    def expected(self, sums: Float[Array, "rank"]) -> Float[Array, "held_out"]:
        """The expected gain of each item over a random order of ties.

        Args:
            sums: The sums of the gains of the first 0, 1, 2, … ranks.
        """
        most = sums.size - 1
        first, end = jnp.minimum(self.above, most), jnp.minimum(self.above + self.tied, most)
        return (sums[end] - sums[first]) / jnp.maximum(self.tied, 1)

    def any_within(self, k: int) -> Float[Array, ""]:
        """The probability that any held-out item is among the first k."""
        surely = jnp.any(self.valid & (self.above + self.tied <= k))
        # Rank k cuts at most one group of ties. Some of the group's candidates are held out, and a random
        # choice of the group is among the first k.
        cut = self.valid & (self.above < k) & (k < self.above + self.tied)
        held, tied = jnp.sum(cut), jnp.max(jnp.where(cut, self.tied, 1))
        within = k - jnp.max(jnp.where(cut, self.above, 0))
        drawn = jnp.arange(self.valid.size)
        # The probability that none of the held-out ones is chosen: the places of these are drawn one after
        # the other, each among the places that are left.
        missed = jnp.maximum(tied - within - drawn, 0) / jnp.maximum(tied - drawn, 1)
        missed_all = jnp.prod(jnp.where(drawn < held, missed, 1.0))
        return jnp.where(surely, 1.0, 1.0 - missed_all)
