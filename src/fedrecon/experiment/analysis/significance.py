"""The significance test of paired differences: Student's t-test."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

CONFIDENCE = 0.95


class PairedTest(NamedTuple):
    """The result of a paired t-test.

    Attributes:
        mean: The mean of the differences, second minus first.
        error: The standard error of the mean; NaN for a single pair, as are `low`, `high` and `p`.
        low: The lower end of the interval of 95 % confidence.
        high: The upper end of that interval.
        p: The p-value of the two-sided paired t-test that the mean is 0.
        pairs: The number of pairs.
    """

    mean: float
    error: float
    low: float
    high: float
    p: float
    pairs: int


def paired_t_test(differences: Sequence[float]) -> PairedTest:
    """The paired t-test of at least one difference.

    Args:
        differences: The difference of each pair, second minus first, all finite.
    """
    # From `scipy.special`, since importing `scipy.stats` takes a second.
    from scipy.special import stdtr, stdtrit

    values = np.asarray(differences, np.float64)
    count = len(values)
    mean = math.fsum(values) / count
    if count < 2:
        return PairedTest(mean, math.nan, math.nan, math.nan, math.nan, count)
    error = math.sqrt(math.fsum((values - mean) ** 2) / (count - 1) / count)
    if error == 0:
        return PairedTest(mean, 0.0, mean, mean, 1.0 if mean == 0 else 0.0, count)
    reach = float(stdtrit(count - 1, (1 + CONFIDENCE) / 2)) * error
    p = 2 * float(stdtr(count - 1, -abs(mean) / error))
    return PairedTest(mean, error, mean - reach, mean + reach, p, count)
