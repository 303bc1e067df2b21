"""Noise that the next rounds take back in part: the matrix mechanism with a banded inverse square root.

What a server trains with are sums over rounds, in which independent noise adds up. The noise of round t here
is z_t + d_1 z_(t-1) + … + d_(b-1) z_(t-b+1), with independent z and negative d: each round takes back some of
the noise before it. That is the matrix mechanism with the noising matrix D, a lower triangular Toeplitz
matrix of b bands, and the strategy matrix C = D^-1: what is released tells no more than C x + z, of which x
is what a client adds to each round. A banded D needs no memory of noise, which would have to be kept secret,
but the keys of the last b rounds.

References:
    Denisov et al., Improved Differential Privacy for SGD via Optimal Private Linear Operators on Adaptive
    Streams, NeurIPS 2022; Kalinin et al., Back to Square Roots, 2025, for the banded inverse square root;
    Choquette-Choo et al., (Amplified) Banded Matrix Factorization, NeurIPS 2023, for clients that come again.
"""

import math

import numpy as np
from jaxtyping import Float

# The numbers of bands that are tried; every one costs a draw of the noise in each round.
_CHOICES = (1, 2, 4, 8, 16)


def noising_coefficients(bands: int) -> Float[np.ndarray, "band"]:
    """The first column of the noising matrix: the first coefficients of the power series of √(1 - x).

    Args:
        bands: The number of bands, at least 1; 1 for independent noise.
    """
    coefficients = np.ones(bands)
    for k in range(1, bands):
        coefficients[k] = coefficients[k - 1] * (k - 1.5) / k
    return coefficients


def strategy_coefficients(bands: int, rounds: int) -> Float[np.ndarray, "round"]:
    """The first column of the strategy matrix, the inverse of the noising matrix: never negative or growing.

    Args:
        bands: The number of bands of the noising matrix.
        rounds: The number of rows of the matrix, one for each round.
    """
    noising = noising_coefficients(bands)
    coefficients = np.zeros(rounds)
    for t in range(rounds):
        before = coefficients[max(0, t - bands + 1) : t][::-1]
        coefficients[t] = float(t == 0) - noising[1 : 1 + len(before)] @ before
    return coefficients


def strategy_of_client(bands: int, rounds: int, separation: int) -> Float[np.ndarray, "round"]:
    """C x of the client that tells most: the one that takes part in the first round and every `separation`.

    No entry of C is negative, and they fall with the distance from the diagonal. Deltas of the largest norm
    that all point the same way are therefore the worst, and a client that comes later has a smaller norm.

    Args:
        bands: The number of bands of the noising matrix.
        rounds: The number of rounds.
        separation: The number of rounds from one participation of a client to its next.
    """
    strategy, total = strategy_coefficients(bands, rounds), np.zeros(rounds)
    for first in range(0, rounds, separation):
        total[first:] += strategy[: rounds - first]
    return total


def sensitivity(bands: int, rounds: int, separation: int) -> float:
    """The most by which one client moves C x, in units of the clipping bound; see `strategy_of_client`."""
    return math.sqrt(float(np.sum(np.square(strategy_of_client(bands, rounds, separation)))))


def prefix_error(bands: int, rounds: int, separation: int) -> float:
    """The root mean squared noise in the sums of rounds so far, at noise multiplier 1 and equal privacy.

    Args:
        bands: The number of bands of the noising matrix.
        rounds: The number of rounds.
        separation: The number of rounds from one participation of a client to its next.
    """
    noising = np.zeros(rounds)
    noising[: min(bands, rounds)] = noising_coefficients(bands)[:rounds]
    variances = np.cumsum(np.square(np.cumsum(noising)))
    return sensitivity(bands, rounds, separation) * math.sqrt(float(np.mean(variances)))


def best_bands(rounds: int, separation: int) -> int:
    """The number of bands, of 1, 2, 4, 8 and 16, with the smallest `prefix_error`."""
    fitting = [bands for bands in _CHOICES if bands <= rounds]
    return min(fitting, key=lambda bands: prefix_error(bands, rounds, separation))
