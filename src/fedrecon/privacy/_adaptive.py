"""A clipping bound that follows a quantile of the clients' norms, by counts that are noised, too.

Every client tells whether its delta was within the bound, as +1/2 or -1/2. The noised sum of these moves the
bound of the next round towards the norm that a share `quantile` of the clients does not exceed. Deltas and
counts together are one Gaussian mechanism: deltas get a little more noise, so that epsilon stays as it was.

References:
    Andrew, Thakkar, McMahan and Ramaswamy, Differentially Private Learning with Adaptive Clipping, NeurIPS
    2021.
"""

import math
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from fedrecon.core._tags import tagged
from fedrecon.core._types import Params
from fedrecon.privacy._accounting import Accounting
from fedrecon.privacy._clipping import Clipping

_RATE = 0.2  # of the bound's logarithm, as in the reference
_SHARE_OF_COHORT = 20  # the count's deviation is the expected cohort over this, as in the reference


@tagged("privacy/adaptive_clipping")
@dataclass(frozen=True)
class AdaptiveClipping:
    """How the clipping bound of each round follows from noised counts of the rounds before it.

    Attributes:
        quantile: The share of clients whose delta is to be within the bound, between 0 and 1.
        count_deviation: The standard deviation of the noise on the count of a round.
        delta_noise_multiplier: The standard deviation of the noise on the sum of deltas, over the present
            joint bound.
    """

    quantile: float
    count_deviation: float
    delta_noise_multiplier: float

    @staticmethod
    def of(quantile: float, noise_multiplier: float, accounting: Accounting) -> "AdaptiveClipping":
        """The noise of deltas and counts that together are as private as deltas under `noise_multiplier`.

        Args:
            quantile: The share of clients whose delta is to be within the bound, between 0 and 1.
            noise_multiplier: The standard deviation of the noise over the joint bound without counts.
            accounting: The accounting of the releases.

        Raises:
            ValueError: The quantile is not between 0 and 1.
        """
        if not 0 < quantile < 1:
            raise ValueError(f"clip_quantile must be above 0 and below 1, got {quantile!r}")
        # A client that sends nothing counts as one within the bound: from without to there is a whole step.
        step = 1.0 if accounting.relation == "zero_out" else 0.5
        count = max(accounting.divisor / _SHARE_OF_COHORT, 2 * step * noise_multiplier)
        return AdaptiveClipping(quantile, count, 1 / math.sqrt(noise_multiplier**-2 - (step / count) ** 2))

    def clip(
        self, clipping: Clipping, delta: Params, factor: Float[Array, ""]
    ) -> tuple[Params, Float[Array, ""]]:
        """A client's delta within the present bounds, and what the client adds to the count.

        Args:
            clipping: The bounds before the first round.
            delta: The client's dense delta.
            factor: The present round's bounds, in units of those before the first round.
        """
        scaled = jax.tree.map(lambda x: x / factor.astype(x.dtype), delta)
        clipped = clipping(scaled)
        alike = [jnp.all(a == b) for a, b in zip(*map(jax.tree.leaves, (clipped, scaled)), strict=True)]
        within = jnp.where(jnp.all(jnp.stack(alike)), 0.5, -0.5)
        return jax.tree.map(lambda x: x * factor.astype(x.dtype), clipped), within

    def next_factor(
        self, factor: Float[Array, ""], count: Float[Array, ""], noise: Float[Array, ""], divisor: float
    ) -> Any:
        """The next round's bounds over those before the first round.

        Args:
            factor: The present round's bounds, in units of those before the first round.
            count: The sum of what clients added to the count.
            noise: A standard normal number for the noise on the count.
            divisor: The public number by which sums are divided.
        """
        share = (count + self.count_deviation * noise) / divisor + 0.5
        return factor * jnp.exp(-_RATE * (jnp.clip(share, 0, 1) - self.quantile))
