"""What an observer finds out about clients from their deltas: instruments to test a protection with.

They are written for matrix factorisation with item biases whose update phase is one gradient step, as in
`experiments/movielens-newton.toml`: there, a row of the delta is a residual times the user's vector, and the
bias beside it is the residual.
"""

import math
from collections.abc import Sequence
from statistics import NormalDist
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from fedrecon.privacy._gaussian import gaussian_epsilon

_SCALES = np.geomspace(1.0, 200.0, 4000)  # by how much clipping may have divided a delta
_FINE = np.linspace(0.998, 1.002, 401)
_TINY = 1e-300


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
        ratings: The ratings of these items, in whole stars.
    """

    items: Int[np.ndarray, "rated"]
    vector: Float[np.ndarray, "factor"]
    ratings: Int[np.ndarray, "rated"]


def touched_items(delta: ItemDelta, threshold: float = 0.0) -> Int[np.ndarray, "rated"]:
    """Rows that a delta moves by more than a threshold: the items that its clients rated.

    Args:
        delta: Of one client or of a sum.
        threshold: Euclidean norm of a row with its bias that noise alone hardly exceeds; 0 without noise.
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
    scale: tuple[int, int] = (1, 5),
) -> RecoveredUser:
    """All that one client's delta tells of it.

    A bias moves by `step` times its item's residual, divided by what clipping divided the delta by. Ratings
    are the predictions plus these residuals; they are whole numbers for one user bias and one divisor only,
    which are found by trying.

    Args:
        delta: Of one client whose update phase was one gradient step on the sum of its query errors.
        params: Item factors and biases that the client got.
        step: Change of a bias for a residual of 1: twice the learning rate, for squared errors.
        global_bias: Added to all predictions.
        scale: Lowest and highest rating.
    """
    items, vector = touched_items(delta), user_vector(delta)
    if not len(items):
        return RecoveredUser(items, vector, np.zeros(0, int))
    predicted = params.factors[items] @ vector + params.bias[items] + global_bias
    residual = delta.bias[items].astype(np.float64) / step

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
    low, high = scale
    shifts = [
        s for s in range(low - high, high - low + 1) if low <= stars.min() + s <= stars.max() + s <= high
    ]
    if shifts:  # the smallest user bias that keeps all ratings on the scale
        stars = stars + min(shifts, key=lambda s: abs(s + offset))
    return RecoveredUser(items, vector, stars)


class Findings(NamedTuple):
    """How much an attack found out, against what is true.

    Attributes:
        clients_summed: Clients in each sum that was attacked.
        item_precision: Share of the items found that their client rated, where a sum's items are ascribed to
            each of its clients.
        item_recall: Share of the clients' items that were found.
        pure_items: Share of (client, item) pairs whose row no other client of the sum moved: that row is the
            client's own.
        vector_cosine: Mean cosine of recovered and true user vectors.
        users_ratings_exact: Share of clients of whom all query ratings were found exactly.
    """

    clients_summed: int
    item_precision: float
    item_recall: float
    pure_items: float
    vector_cosine: float
    users_ratings_exact: float


def findings(
    recovered: Sequence[RecoveredUser],
    items: Sequence[Int[np.ndarray, "rated"]],
    ratings: Sequence[Float[np.ndarray, "rated"]],
    vectors: Sequence[Float[np.ndarray, "factor"]],
) -> Findings:
    """Compares what was recovered from single deltas with the truth.

    Args:
        recovered: Of each client.
        items: Rows of each client's query items, none twice.
        ratings: Of these items.
        vectors: The clients' true factors.
    """
    hits = found = wanted = exact = 0
    cosines = []
    for guess, rows, stars, vector in zip(recovered, items, ratings, vectors, strict=True):
        common = np.intersect1d(guess.items, rows)
        hits, found, wanted = hits + len(common), found + len(guess.items), wanted + len(rows)
        truth = dict(zip(rows.tolist(), np.rint(stars).tolist(), strict=True))
        guessed = dict(zip(guess.items.tolist(), guess.ratings.tolist(), strict=True))
        exact += all(guessed.get(row) == value for row, value in truth.items())
        length = np.linalg.norm(guess.vector) * np.linalg.norm(vector)
        cosines.append(float(guess.vector @ vector / length) if length else 0.0)
    precision, recall = hits / max(found, 1), hits / max(wanted, 1)
    return Findings(1, precision, recall, recall, float(np.mean(cosines)), exact / max(len(items), 1))


def pure_share(items: Sequence[Int[np.ndarray, "rated"]], clients_summed: int, seed: int = 0) -> float:
    """The share of (client, item) pairs whose row no other client of the same sum moved.

    Args:
        items: Rows of each client's items.
        clients_summed: Clients in a sum; they are grouped at random, and a rest is left out.
        seed: Of the grouping.
    """
    order = np.random.default_rng(seed).permutation(len(items))
    pure = total = 0
    for start in range(0, len(items) - clients_summed + 1, clients_summed):
        rows = np.concatenate([np.unique(items[i]) for i in order[start : start + clients_summed]])
        counts = np.unique(rows, return_counts=True)[1]
        pure, total = pure + int(np.sum(counts == 1)), total + len(rows)
    return pure / max(total, 1)


def membership_auc(scores: Float[np.ndarray, "pair"], member: Bool[np.ndarray, "pair"]) -> float:
    """Area under the ROC curve of scores that should be higher for members; ties count as half.

    Args:
        scores: Of each pair of a client and an item, say.
        member: Whether the pair is true.

    Raises:
        ValueError: All pairs are members, or none is.
    """
    if member.all() or not member.any():
        raise ValueError(f"member must hold both kinds, got {int(member.sum())} of {len(member)}")
    _, inverse, counts = np.unique(scores, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    ranks = (ends - (counts - 1) / 2)[inverse]
    members = int(member.sum())
    above = ranks[member].sum() - members * (members + 1) / 2
    return float(above / (members * (len(member) - members)))


def epsilon_lower_bound(
    with_canary: Float[np.ndarray, "trial"],
    without: Float[np.ndarray, "trial"],
    delta: float,
    confidence: float = 0.95,
) -> float:
    """A number that epsilon exceeds with some confidence, from scores with and without a client.

    Private releases let a test tell the two apart only so well: its rate of true positives is at most
    exp(epsilon) times that of false positives plus delta. The threshold is chosen on the first half of the
    scores, and the rates are bounded on the second half by Clopper and Pearson's intervals.

    Args:
        with_canary: A score of releases that a chosen client took part in, such as the release along the
            client's delta.
        without: Scores of releases without that client.
        delta: Of the guarantee.
        confidence: That epsilon is not below the result.

    References:
        Jagielski, Ullman and Oprea, Auditing Differentially Private Machine Learning, NeurIPS 2020.
    """
    half = [len(x) // 2 for x in (with_canary, without)]
    first = (with_canary[: half[0]], without[: half[1]])
    second = (with_canary[half[0] :], without[half[1] :])
    error = (1 - confidence) / 2
    best, threshold = -np.inf, 0.0
    for candidate in np.quantile(np.concatenate(first), np.linspace(0.05, 0.95, 19)):
        value = _bound(first, candidate, delta, error)
        if value > best:
            best, threshold = value, float(candidate)
    return max(0.0, _bound(second, threshold, delta, error))


def gaussian_epsilon_lower_bound(
    with_canary: Float[np.ndarray, "trial"],
    without: Float[np.ndarray, "trial"],
    delta: float,
    confidence: float = 0.95,
) -> float:
    """As `epsilon_lower_bound`, for a mechanism that adds Gaussian noise, of which it says far more.

    Two rates determine how far apart two normal distributions of the same variance lie, and thereby epsilon
    at any delta, also one that no number of trials could show. A fifth of the scores choose the threshold.

    Args:
        with_canary: See `epsilon_lower_bound`.
        without: See `epsilon_lower_bound`.
        delta: Of the guarantee.
        confidence: That epsilon is not below the result.

    References:
        Nasr et al., Tight Auditing of Differentially Private Machine Learning, USENIX Security 2023.
    """
    pilot = [len(x) // 5 for x in (with_canary, without)]
    threshold = (np.median(with_canary[: pilot[0]]) + np.median(without[: pilot[1]])) / 2
    error = (1 - confidence) / 2
    hits = int(np.sum(with_canary[pilot[0] :] >= threshold))
    misses = int(np.sum(without[pilot[1] :] < threshold))
    true_positives = _clopper_pearson(hits, len(with_canary) - pilot[0], error)
    true_negatives = _clopper_pearson(misses, len(without) - pilot[1], error)
    if not 0 < true_positives < 1 or not 0 < true_negatives < 1:
        return 0.0
    normal = NormalDist()
    distance = normal.inv_cdf(true_positives) + normal.inv_cdf(true_negatives)
    return gaussian_epsilon(1 / distance, delta) if distance > 0 else 0.0


def _bound(
    scores: tuple[Float[np.ndarray, "a"], Float[np.ndarray, "b"]],
    threshold: float,
    delta: float,
    error: float,
) -> float:
    hits, alarms = (int(np.sum(x >= threshold)) for x in scores)
    true_positives = _clopper_pearson(hits, len(scores[0]), error)
    false_positives = 1 - _clopper_pearson(len(scores[1]) - alarms, len(scores[1]), error)
    ratio = (true_positives - delta) / max(false_positives, 1e-300)
    return float(np.log(ratio)) if ratio > 0 else -np.inf


def _clopper_pearson(successes: int, trials: int, error: float) -> float:
    """The lower limit of a proportion, which is below it except with a probability of `error`."""
    if not successes:
        return 0.0
    low, high = 0.0, successes / trials
    for _ in range(40):
        middle = (low + high) / 2
        # The probability of as many successes or more, which grows with the proportion.
        if _incomplete_beta(float(successes), float(trials - successes + 1), middle) > error:
            high = middle
        else:
            low = middle
    return low


def _incomplete_beta(a: float, b: float, x: float) -> float:
    """The regularised incomplete beta function, by Lentz's continued fraction."""
    if not 0 < x < 1:
        return float(x >= 1)
    if x > (a + 1) / (a + b + 2):  # beyond, the fraction of the other tail converges faster
        return 1 - _incomplete_beta(b, a, 1 - x)
    front = math.exp(
        math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x)
    )
    c, d = 1.0, 1 - (a + b) * x / (a + 1)
    d = 1 / (d or _TINY)
    fraction = d
    for m in range(1, 500):
        even = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        odd = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        for term in (even, odd):
            d = 1 / ((1 + term * d) or _TINY)
            c = (1 + term / c) or _TINY
            fraction *= c * d
        if abs(c * d - 1) < 1e-12:
            break
    return front * fraction / a
