"""Random numbers for each client, the same in every call, so that a device keeps its hours and its speed."""

import numpy as np
from jaxtyping import Float, Int, UInt64

# What a client's numbers are used for. Those for hours and speed are the same in all rounds.
HOURS, SPEED, LOSS, JITTER = range(4)


def bits_of(
    clients: Int[np.ndarray, "row"], seed: int, purpose: int, round: int = 0
) -> UInt64[np.ndarray, "row"]:
    """64 random bits for each client, the same in every call (the finaliser of SplitMix64)."""
    (start,) = np.random.SeedSequence([seed % 2**63, purpose, round]).generate_state(1, np.uint64)
    x = (clients.astype(np.uint64) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15) + start
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.asarray(x ^ (x >> np.uint64(31)))


def uniform_of(
    clients: Int[np.ndarray, "row"], seed: int, purpose: int, round: int = 0
) -> Float[np.ndarray, "row"]:
    """A number from 0 to below 1 for each client."""
    return (bits_of(clients, seed, purpose, round) >> np.uint64(11)) * 2.0**-53


def normal_of(
    clients: Int[np.ndarray, "row"], seed: int, purpose: int, round: int = 0
) -> Float[np.ndarray, "row"]:
    """A standard normal number for each client, by the transform of Box and Muller."""
    bits = bits_of(clients, seed, purpose, round)
    # The upper half of the bits gives the radius, where 0 must not occur, and the lower half the angle.
    radius = np.sqrt(-2 * np.log(((bits >> np.uint64(32)) + 0.5) * 2.0**-32))
    return np.asarray(radius * np.cos(2 * np.pi * 2.0**-32 * (bits & np.uint64(0xFFFFFFFF))))
