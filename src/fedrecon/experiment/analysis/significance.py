"""Whether a paired difference is more than chance: Student's t."""

import math
from collections.abc import Sequence
from typing import NamedTuple

CONFIDENCE = 0.95


class Paired(NamedTuple):
    """The mean of paired differences.

    Attributes:
        mean: Second minus first.
        error: Its standard error; NaN for a single pair, as all below.
        low: Lower end of its interval of 95 % confidence.
        high: Upper end.
        p: Of the two-sided paired t-test that the mean is 0.
        pairs: How many.
    """

    mean: float
    error: float
    low: float
    high: float
    p: float
    pairs: int


def paired(differences: Sequence[float]) -> Paired:
    """The paired t-test of at least one difference."""
    count = len(differences)
    mean = math.fsum(differences) / count
    if count < 2:
        return Paired(mean, math.nan, math.nan, math.nan, math.nan, count)
    squares = math.fsum((d - mean) ** 2 for d in differences)
    error = math.sqrt(squares / (count - 1) / count)
    if error == 0:
        return Paired(mean, 0.0, mean, mean, 1.0 if mean == 0 else 0.0, count)
    reach = quantile(CONFIDENCE, count - 1) * error
    p = max(0.0, 1 - within(abs(mean) / error, count - 1))
    return Paired(mean, error, mean - reach, mean + reach, p, count)


def within(t: float, freedom: int) -> float:
    """The probability that Student's t is between -t and t.

    The finite sums of Abramowitz and Stegun, Handbook of Mathematical Functions, 26.7.3 and 26.7.4.

    Args:
        t: At least 0.
        freedom: Degrees of freedom, at least 1.
    """
    angle = math.atan2(t, math.sqrt(freedom))
    sine, square = math.sin(angle), math.cos(angle) ** 2
    odd = freedom % 2
    term = total = 0.0 if freedom == 1 else (math.cos(angle) if odd else 1.0)
    for k in range(2 + odd, freedom - 1, 2):
        term *= square * (k - 1) / k
        total += term
    return 2 / math.pi * (angle + sine * total) if odd else sine * total


def quantile(probability: float, freedom: int) -> float:
    """The t for which `within` gives a probability."""
    low, high = 0.0, 1.0
    while within(high, freedom) < probability:
        high *= 2
    for _ in range(100):
        middle = (low + high) / 2
        if within(middle, freedom) < probability:
            low = middle
        else:
            high = middle
    return high
