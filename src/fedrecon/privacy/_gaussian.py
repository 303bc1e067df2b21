"""The privacy of the Gaussian mechanism in closed form."""

import math

_FAR = -30.0  # from here on the tail is taken from its asymptotic series
_MOST_EPSILON = 1e8


def gaussian_delta(noise_multiplier: float, epsilon: float) -> float:
    """The smallest delta for which the Gaussian mechanism is (epsilon, delta)-private.

    Args:
        noise_multiplier: The standard deviation of the noise, in units of the sensitivity; above 0.
        epsilon: The epsilon of the guarantee, at least 0.

    References:
        Balle and Wang, Improving the Gaussian Mechanism for Differential Privacy, ICML 2018, theorem 8.
    """
    a, b = 0.5 / noise_multiplier, epsilon * noise_multiplier
    first, second = _log_tail(a - b), epsilon + _log_tail(-a - b)
    # exp(first) - exp(second), which are close to each other where the noise is large.
    return -math.exp(first) * math.expm1(min(second - first, 0.0))


def gaussian_epsilon(noise_multiplier: float, delta: float) -> float:
    """The smallest epsilon for which the Gaussian mechanism is (epsilon, delta)-private.

    Mechanisms that follow each other on the same data, also where each depends on the results before it, are
    as private as one whose `noise_multiplier` to the power of -2 is the sum of theirs.

    Args:
        noise_multiplier: The standard deviation of the noise, in units of the sensitivity; at least 0.
        delta: The delta of the guarantee, between 0 and 1.

    Returns:
        Epsilon, rounded upwards in the ninth digit; infinity where there is no noise.
    """
    if noise_multiplier == 0:
        return math.inf
    if gaussian_delta(noise_multiplier, 0.0) <= delta:
        return 0.0
    low, high = 0.0, 1.0
    while gaussian_delta(noise_multiplier, high) > delta:
        low, high = high, 2 * high
        if high > _MOST_EPSILON:
            return math.inf
    while high - low > 1e-9 * high:
        middle = (low + high) / 2
        if gaussian_delta(noise_multiplier, middle) > delta:
            low = middle
        else:
            high = middle
    return high


def gaussian_noise_multiplier(epsilon: float, delta: float) -> float:
    """The smallest noise multiplier with which the Gaussian mechanism is (epsilon, delta)-private.

    Args:
        epsilon: The epsilon of the guarantee, above 0.
        delta: The delta of the guarantee, between 0 and 1.

    Returns:
        The noise multiplier, rounded upwards in the ninth digit.
    """
    low, high = 0.0, 1.0
    while gaussian_delta(high, epsilon) > delta:
        low, high = high, 2 * high
    while high - low > 1e-9 * high:
        middle = (low + high) / 2
        if gaussian_delta(middle, epsilon) > delta:
            low = middle
        else:
            high = middle
    return high


def _log_tail(x: float) -> float:
    """The logarithm of the standard normal distribution function at `x`."""
    if x > _FAR:
        return math.log(math.erfc(-x / math.sqrt(2)) / 2)
    square, series, term = x * x, 1.0, 1.0
    for k in range(1, 10):
        term *= -(2 * k - 1) / square
        series += term
    return -square / 2 - math.log(-x * math.sqrt(2 * math.pi)) + math.log(series)
