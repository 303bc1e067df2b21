"""Lower bounds of epsilon from the scores of releases with and without a client."""

from statistics import NormalDist

import numpy as np
from jaxtyping import Float

from fedrecon.privacy._gaussian import gaussian_epsilon


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
        with_canary: The scores of releases that a chosen client took part in, such as the release along the
            client's delta, `[trial]`.
        without: The scores of releases without that client, `[trial]`.
        delta: The delta of the guarantee.
        confidence: The probability with which epsilon is not below the result; 0.95 by default.

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
        with_canary: The scores of releases that a chosen client took part in, such as the release along the
            client's delta, `[trial]`.
        without: The scores of releases without that client, `[trial]`.
        delta: The delta of the guarantee.
        confidence: The probability with which epsilon is not below the result; 0.95 by default.

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
    from scipy.special import betaincinv  # of a package that takes long to import, in a module that all load

    return float(betaincinv(successes, trials - successes + 1, error)) if successes else 0.0
