"""A MovieLens training round written by hand in numba: what speed is measured against.

It knows one model, one recipe and one thread, and computes exactly that round: Federated Reconstruction of a
matrix factorisation in batches of 5. Even-numbered batches reconstruct the user's vector (SGD 0.1),
odd-numbered ones update the item rows (SGD 0.5), one pass and at most 50 steps each; deltas are weighted by
the query examples processed, and the server adds their mean (SGD 1.0).

Three things make it fast. Only touched rows are read or written. While a client updates items its own vector
u is fixed, so that a row moves along u only: one number per item holds the client's copy of the table. And
the five rows of a batch are multiplied together, so that u is loaded and stored once per batch.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeVar, cast

import numba
import numpy as np

Function = TypeVar("Function", bound=Callable[..., Any])

BATCH = 5
MAX_STEPS = 50
RECONSTRUCT_RATE = 0.1
UPDATE_RATE = 0.5
SERVER_RATE = 1.0


class Scratch(NamedTuple):
    """Memory that rounds reuse; all but `totals` is zero again after a round."""

    moved: np.ndarray  # [item], how far along u the client's copy of the row is
    summed: np.ndarray  # [item, factor], weighted deltas of the cohort
    is_touched: np.ndarray  # [item]
    touched: np.ndarray  # [item], the touched ones come first
    totals: np.ndarray  # squared error, hits and number of the query examples, each before its step


def scratch(num_items: int, num_factors: int) -> Scratch:
    """Zeroed memory for rounds over a table of this size."""
    return Scratch(
        moved=np.zeros(num_items, np.float32),
        summed=np.zeros((num_items, num_factors), np.float32),
        is_touched=np.zeros(num_items, np.bool_),
        touched=np.zeros(num_items, np.uint32),
        totals=np.zeros(3, np.float64),
    )


def flatten(
    clients: Sequence[tuple[np.ndarray, np.ndarray]],
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Offsets, items and ratings of a cohort given as (items, ratings) of each client."""
    offsets = np.cumsum([0, *(len(items) for items, _ in clients)], dtype=np.int64)
    items = np.concatenate([items for items, _ in clients]).astype(np.uint32)
    ratings = np.concatenate([ratings for _, ratings in clients]).astype(np.float32)
    return offsets, items, ratings


def metrics(totals: np.ndarray) -> dict[str, float]:
    """What `Scratch.totals` says of the last round: means over its query examples, and their number."""
    squared_error, hits, count = (float(total) for total in totals)
    mse = squared_error / max(count, 1)
    return {"mse": mse, "rmse": mse**0.5, "accuracy": hits / max(count, 1), "examples": count}


def _compiled(function: Function) -> Function:
    return cast("Function", numba.njit(fastmath=True, error_model="numpy")(function))


def _inlined(function: Function) -> Function:
    return cast("Function", numba.njit(fastmath=True, error_model="numpy", inline="always")(function))


@_compiled
def round_kernel(
    item_factors: np.ndarray,
    offsets: np.ndarray,
    items: np.ndarray,
    ratings: np.ndarray,
    initial_local: np.ndarray,
    work: Scratch,
) -> None:
    """One round over a cohort; `item_factors` and `work` are changed in place.

    A non-finite delta is not looked for. A round without query examples changes nothing.

    Args:
        item_factors: `[item, factor]`, float32.
        offsets: `[client + 1]`; client c owns examples offsets[c] to offsets[c + 1], in the order used.
        items: `[example]`, uint32; an item may come more than once.
        ratings: `[example]`, float32.
        initial_local: `[factor]`, float32: where each client's vector starts.
        work: From `scratch`.
    """
    user = np.empty(len(initial_local), np.float32)
    errors = np.empty(BATCH, np.float32)
    for k in range(len(work.totals)):
        work.totals[k] = 0
    num_touched = 0
    for client in range(len(offsets) - 1):
        start, stop = offsets[client], offsets[client + 1]
        for k in range(len(user)):
            user[k] = initial_local[k]
        _reconstruct(item_factors, items, ratings, start, stop, user, errors)
        num_touched = _update(item_factors, items, ratings, start, stop, user, errors, work, num_touched)
    _step_server(item_factors, work, num_touched)


@_compiled
def _reconstruct(
    item_factors: np.ndarray,
    items: np.ndarray,
    ratings: np.ndarray,
    start: int,
    stop: int,
    user: np.ndarray,
    errors: np.ndarray,
) -> None:
    last = min(stop, start + 2 * BATCH * MAX_STEPS)
    for first in range(start, last, 2 * BATCH):
        size = min(BATCH, stop - first)
        scale = np.float32(2 * RECONSTRUCT_RATE) / np.float32(size)
        if size == BATCH:
            a, b, c, d, e = _batch(items, first)
            step_a, step_b, step_c, step_d, step_e = _scores(item_factors, user, a, b, c, d, e)
            step_a = scale * (step_a - ratings[first])
            step_b = scale * (step_b - ratings[first + 1])
            step_c = scale * (step_c - ratings[first + 2])
            step_d = scale * (step_d - ratings[first + 3])
            step_e = scale * (step_e - ratings[first + 4])
            for k in range(len(user)):
                user[k] -= (
                    step_a * item_factors[a, k]
                    + step_b * item_factors[b, k]
                    + step_c * item_factors[c, k]
                    + step_d * item_factors[d, k]
                    + step_e * item_factors[e, k]
                )
        else:
            for j in range(size):
                errors[j] = _score(item_factors, user, items[first + j]) - ratings[first + j]
            for j in range(size):
                item, step = items[first + j], scale * errors[j]
                for k in range(len(user)):
                    user[k] -= step * item_factors[item, k]


@_compiled
def _update(
    item_factors: np.ndarray,
    items: np.ndarray,
    ratings: np.ndarray,
    start: int,
    stop: int,
    user: np.ndarray,
    errors: np.ndarray,
    work: Scratch,
    num_touched: int,
) -> int:
    moved, summed, is_touched, touched = work.moved, work.summed, work.is_touched, work.touched
    start += BATCH
    last = min(stop, start + 2 * BATCH * MAX_STEPS)
    weight = 0
    for first in range(start, last, 2 * BATCH):
        weight += min(BATCH, stop - first)
    squared_norm = np.float32(0)
    for k in range(len(user)):
        squared_norm += user[k] * user[k]
    squares, hits = np.float32(0), 0
    for first in range(start, last, 2 * BATCH):
        size = min(BATCH, stop - first)
        # An item that comes twice in a batch has one gradient: all errors come before any step.
        if size == BATCH:
            a, b, c, d, e = _batch(items, first)
            score_a, score_b, score_c, score_d, score_e = _scores(item_factors, user, a, b, c, d, e)
            errors[0] = score_a + moved[a] * squared_norm
            errors[1] = score_b + moved[b] * squared_norm
            errors[2] = score_c + moved[c] * squared_norm
            errors[3] = score_d + moved[d] * squared_norm
            errors[4] = score_e + moved[e] * squared_norm
        else:
            for j in range(size):
                item = items[first + j]
                errors[j] = _score(item_factors, user, item) + moved[item] * squared_norm
        scale = np.float32(-2 * UPDATE_RATE) / np.float32(size)
        for j in range(size):
            item = items[first + j]
            error = errors[j] - ratings[first + j]
            squares += error * error
            hits += abs(error) <= np.float32(0.5)
            step = scale * error
            moved[item] += step
            if not is_touched[item]:
                is_touched[item] = True
                touched[num_touched] = item
                num_touched += 1
            step *= np.float32(weight)
            for k in range(len(user)):
                summed[item, k] += step * user[k]
    for first in range(start, last, 2 * BATCH):
        for j in range(first, min(first + BATCH, stop)):
            moved[items[j]] = 0
    work.totals[0] += squares
    work.totals[1] += hits
    work.totals[2] += weight
    return num_touched


@_compiled
def _step_server(item_factors: np.ndarray, work: Scratch, num_touched: int) -> None:
    scale = np.float32(SERVER_RATE / max(work.totals[2], 1.0))
    for index in range(num_touched):
        item = work.touched[index]
        work.is_touched[item] = False
        for k in range(item_factors.shape[1]):
            item_factors[item, k] += scale * work.summed[item, k]
            work.summed[item, k] = 0


@_inlined
def _batch(items: np.ndarray, first: int) -> tuple[int, int, int, int, int]:
    return items[first], items[first + 1], items[first + 2], items[first + 3], items[first + 4]


@_inlined
def _scores(
    item_factors: np.ndarray, user: np.ndarray, a: int, b: int, c: int, d: int, e: int
) -> tuple[np.float32, np.float32, np.float32, np.float32, np.float32]:
    score_a = score_b = score_c = score_d = score_e = np.float32(0)
    for k in range(len(user)):
        score_a += item_factors[a, k] * user[k]
        score_b += item_factors[b, k] * user[k]
        score_c += item_factors[c, k] * user[k]
        score_d += item_factors[d, k] * user[k]
        score_e += item_factors[e, k] * user[k]
    return score_a, score_b, score_c, score_d, score_e


@_inlined
def _score(item_factors: np.ndarray, user: np.ndarray, item: int) -> np.float32:
    score = np.float32(0)
    for k in range(len(user)):
        score += item_factors[item, k] * user[k]
    return score
