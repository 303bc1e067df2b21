"""Matrix factorisation in plain NumPy: predictions, gradients by hand, exact reconstruction.

All parameters live in one flat dict; which of them are local is told by their names:

| key            | shape              | whose  |
|----------------|--------------------|--------|
| `item_factors` | `[item, factor]`   | global |
| `item_bias`    | `[item]`, optional | global |
| `global_bias`  | `[]`, optional     | global |
| `user_factors` | `[factor]`         | local  |
| `user_bias`    | `[]`, optional     | local  |

A leaf that is absent counts as 0 and is never trained.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import numpy as np
from tests.oracle.optimizers import Params

LOCAL = ("user_factors", "user_bias")
Reduction = Literal["mean", "sum"]


class Ratings(NamedTuple):
    """Examples of one client, in the order in which they are used; an item may come more than once."""

    items: np.ndarray  # [example], integers
    ratings: np.ndarray  # [example]

    def take(self, which: slice | np.ndarray) -> Ratings:
        """Some of the examples."""
        return Ratings(self.items[which], self.ratings[which])


class Penalty(NamedTuple):
    """p(local) = factors * |user_factors|² + bias * user_bias²."""

    factors: float = 0.0
    bias: float = 0.0


def predict(params: Params, items: np.ndarray, offset: float = 0.0) -> np.ndarray:
    """Predicted ratings `[example]`; `offset` is a constant known to all."""
    scores = params["item_factors"][items] @ params["user_factors"] + offset
    if "item_bias" in params:
        scores = scores + params["item_bias"][items]
    return scores + params.get("user_bias", 0) + params.get("global_bias", 0)


def gradients(
    params: Params,
    batch: Ratings,
    stage_size: int,
    reduction: Reduction,
    penalty: Penalty,
    offset: float = 0.0,
) -> Params:
    """Gradients, by every leaf, of one batch's objective.

    The sum S of squared errors over the batch carries its share of the penalty, S + p * n / N, where n is the
    batch's and N the stage's number of examples: over an epoch the penalty is counted once. "mean" then
    divides by n.
    """
    n = len(batch.items)
    slopes = 2 * (predict(params, batch.items, offset) - batch.ratings)
    result = {name: np.zeros_like(leaf) for name, leaf in params.items()}
    np.add.at(result["item_factors"], batch.items, slopes[:, None] * params["user_factors"])
    share = n / stage_size
    result["user_factors"] = (
        slopes @ params["item_factors"][batch.items] + 2 * penalty.factors * share * params["user_factors"]
    )
    if "item_bias" in params:
        np.add.at(result["item_bias"], batch.items, slopes)
    if "user_bias" in params:
        result["user_bias"] = slopes.sum() + 2 * penalty.bias * share * params["user_bias"]
    if "global_bias" in params:
        result["global_bias"] = slopes.sum()
    return {name: leaf / n for name, leaf in result.items()} if reduction == "mean" else result


def ridge(params: Params, support: Ratings, penalty: Penalty, offset: float = 0.0) -> Params:
    """The local leaves that minimise the sum of squared errors + penalty, wherever `params` has them.

    Normal equations: (XᵀX + P) local = Xᵀy, X the items' factors (and ones, for a user bias), y what the
    global parameters leave unexplained. Without a penalty the support set must determine the solution.
    """
    local = {name: np.zeros_like(params[name]) for name in LOCAL if name in params}
    explained = predict({**params, **local}, support.items, offset)
    X = params["item_factors"][support.items]
    weights = np.full(X.shape[1], penalty.factors, X.dtype)
    if "user_bias" in local:
        X = np.column_stack([X, np.ones(len(X), X.dtype)])
        weights = np.append(weights, X.dtype.type(penalty.bias))
    solution = np.linalg.solve(X.T @ X + np.diag(weights), X.T @ (support.ratings - explained))
    local["user_factors"] = solution[: len(local["user_factors"])]
    if "user_bias" in local:
        local["user_bias"] = solution[-1]
    return local
