"""Accounting for a run that starts from what a private run released."""

import math
from dataclasses import replace

from fedrecon.privacy._accounting import GAUSSIAN, Accounting
from fedrecon.privacy._gaussian import gaussian_epsilon, gaussian_noise_multiplier
from fedrecon.privacy._ledger import Ledger


def composed(accounting: Accounting, earlier: Ledger) -> Accounting:
    """The accounting of releases that follow those of a ledger, for both together.

    Two Gaussian mechanisms are one whose noise multiplier to the power of -2 is the sum of theirs. Of others
    epsilons and deltas are added (basic composition), so that the new releases get what the ledger leaves of
    delta.

    Args:
        accounting: The accounting of the new releases alone.
        earlier: The ledger of the releases before.

    Raises:
        ValueError: Both do not speak of the same neighbours.
    """
    if accounting.relation != earlier.relation:
        raise ValueError(
            f"sampling must be one whose neighbours are those of the earlier run's ledger, "
            f"{earlier.relation!r}, got {accounting.relation!r}: their epsilons cannot be added"
        )
    alone, as_one = accounting.epsilon, accounting.as_one
    if as_one is not None and earlier.accountant == GAUSSIAN:
        before = gaussian_noise_multiplier(earlier.epsilon, earlier.delta)

        def epsilon(noise_multiplier: float, rounds: int, delta: float) -> float:
            return gaussian_epsilon(1 / math.hypot(1 / before, 1 / as_one(noise_multiplier, rounds)), delta)

        return replace(accounting, epsilon=epsilon, as_one=None)

    def added(noise_multiplier: float, rounds: int, delta: float) -> float:
        left = delta - earlier.delta
        if left <= 0:
            raise ValueError(
                f"delta must be above the {earlier.delta:g} of the earlier run's ledger, got {delta:g}: the "
                f"deltas of both are added"
            )
        return earlier.epsilon + (alone(noise_multiplier, rounds, left) if rounds else 0.0)

    names = f"{accounting.accountant}, added to {earlier.accountant} of the run before"
    return replace(accounting, accountant=names, epsilon=added, as_one=None)
