"""What one client's delta, or a sum of deltas, gives away: items, vectors and ratings.

The attacks are written for matrix factorisation with item biases whose update phase is one gradient step, as
in `experiments/movielens-newton.toml`: there, a row of the delta is a residual times the user's vector, and
the bias beside it is the residual.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

_SCALES = np.geomspace(1.0, 200.0, 4000)  # by how much clipping may have divided a delta
_FINE = np.linspace(0.998, 1.002, 401)
_LEAST_ROWS = 3  # of a direction, below which it may be shared by chance
_PARALLEL = 1e-8  # of 1 minus the cosine, far above rounding and far below what chance brings


class ItemDelta(NamedTuple):
    """A delta of the item tables, of one client or of a sum.

    Attributes:
        factors: New minus old item factors.
        bias: New minus old item biases.
    """

    factors: Float[np.ndarray, "item factor"]
    bias: Float[np.ndarray, "item"]


class RecoveredUser(NamedTuple):
    """What one client's delta gives away.

    Attributes:
        items: Rows of the items in its query set.
        vector: The user's factors.
        ratings: The ratings of these items, multiples of the scale's unit.
    """

    items: Int[np.ndarray, "rated"]
    vector: Float[np.ndarray, "factor"]
    ratings: Float[np.ndarray, "rated"]


def touched_items(delta: ItemDelta, threshold: float = 0.0) -> Int[np.ndarray, "rated"]:
    """Rows that a delta moves by more than a threshold: the items that its clients rated.

    Args:
        delta: The delta of the item tables, of one client or of a sum.
        threshold: The Euclidean norm of a row with its bias that noise alone hardly exceeds; 0.0, the
            default, without noise.
    """
    norms = np.sqrt(np.sum(np.square(delta.factors), 1) + np.square(delta.bias))
    return np.flatnonzero(norms > threshold)


def user_vector(delta: ItemDelta) -> Float[np.ndarray, "factor"]:
    """The user's factors from one client's delta: factors' delta over biases' delta, weighted by the latter.

    Clipping scales both alike and changes nothing; a delta without biases gives zeros.
    """
    weight = np.sum(np.square(delta.bias, dtype=np.float64))
    if not weight:
        return np.zeros(delta.factors.shape[1])
    return delta.bias.astype(np.float64) @ delta.factors.astype(np.float64) / weight


def recover_user(
    delta: ItemDelta,
    params: ItemDelta,
    *,
    step: float,
    global_bias: float = 0.0,
    scale: tuple[float, float] = (1, 5),
    unit: float = 1.0,
) -> RecoveredUser:
    """All that one client's delta tells of it.

    A bias moves by `step` times its item's residual, divided by what clipping divided the delta by. Ratings
    are the predictions plus these residuals; they are multiples of `unit` for one user bias and one divisor
    only, which are found by trying.

    Args:
        delta: The delta of one client whose update phase was one gradient step on the sum of its query
            errors.
        params: Item factors and biases that the client got.
        step: The change of a bias for a residual of 1: twice the learning rate, for squared errors.
        global_bias: A number that is added to all predictions, in units of ratings; 0.0 by default.
        scale: The lowest and the highest rating; (1, 5) by default.
        unit: The distance between neighbouring ratings, such as 0.5 for half stars; `scale` holds multiples
            of it. 1.0 by default.
    """
    items, vector = touched_items(delta), user_vector(delta)
    if not len(items):
        return RecoveredUser(items, vector, np.zeros(0))
    predicted = (params.factors[items] @ vector + params.bias[items] + global_bias) / unit
    residual = delta.bias[items].astype(np.float64) / (step * unit)

    def misfit(divisors: Float[np.ndarray, "divisor"]) -> Float[np.ndarray, "divisor"]:
        phases = np.exp(2j * np.pi * (predicted + divisors[:, None] * residual))
        return 1 - np.abs(phases.mean(1))

    # Where the delta was not clipped, which is likelier than any one divisor, whole numbers fit at once.
    divisor = 1.0
    if misfit(np.ones(1))[0] > 1e-3:
        divisor = float(_SCALES[np.argmin(misfit(_SCALES))])
        near = divisor * _FINE
        divisor = float(near[np.argmin(misfit(near))])
    ratings = predicted + divisor * residual
    offset = -np.angle(np.exp(2j * np.pi * ratings).mean()) / (2 * np.pi)
    stars = np.rint(ratings + offset).astype(int)
    low, high = round(scale[0] / unit), round(scale[1] / unit)
    shifts = [
        s for s in range(low - high, high - low + 1) if low <= stars.min() + s <= stars.max() + s <= high
    ]
    if shifts:  # the smallest user bias that keeps all ratings on the scale
        stars = stars + min(shifts, key=lambda s: abs(s + offset))
    return RecoveredUser(items, vector, stars * unit)


def separable_users(total: ItemDelta) -> list[ItemDelta]:
    """The parts of a sum of deltas that lie apart from each other, each of them one client's.

    A row that one client alone moved is, with its bias, a multiple of this client's vector with a 1 behind
    it. Rows that point in the same direction therefore belong to one client; rows that several clients moved
    point anywhere, and are left out, as are directions that fewer than three rows share.

    Args:
        total: The sum of the deltas of several clients, without noise: with it, no two rows are parallel.
    """
    rows = touched_items(total)
    directions = np.column_stack([total.factors[rows], total.bias[rows]]).astype(np.float64)
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    parts, left = [], np.arange(len(rows))
    while len(left) >= _LEAST_ROWS:
        parallel = np.abs(directions[left] @ directions[left[0]]) > 1 - _PARALLEL
        if np.count_nonzero(parallel) >= _LEAST_ROWS:
            alone = np.zeros(len(total.bias), bool)
            alone[rows[left[parallel]]] = True
            parts.append(
                ItemDelta(np.where(alone[:, None], total.factors, 0), np.where(alone, total.bias, 0))
            )
        parallel[0] = True  # of a row that rounding keeps from being parallel to itself
        left = left[~parallel]
    return parts
