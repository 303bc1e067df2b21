"""Item biases from noised sums: nothing but what was released, and public knowledge, goes in."""

import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Float, Float32

from fedrecon.algorithms._base import Algorithm
from fedrecon.data._sampling import Everyone
from fedrecon.privacy._item_sums import item_sums
from fedrecon.privacy._user_level import user_level_dp

_ITERATIONS = 20
_RIDGE = 3.0  # ratings' worth of evidence against every coefficient


class ItemBiases(NamedTuple):
    """What is known of the items.

    Attributes:
        bias: The amount by which raters rate each item above their own mean, `[item]`, in units of ratings;
            for an item that nobody rated, what its features let expect.
        counts: The estimated number of each item's ratings, `[item]`, in units of a client whose delta is not
            clipped.
    """

    bias: Float32[np.ndarray, "item"]
    counts: Float32[np.ndarray, "item"]


def private_item_sums(
    num_items: int,
    num_clients: int,
    *,
    epsilon: float,
    delta: float,
    scale: tuple[float, float],
    public_inputs: Mapping[str, str] = MappingProxyType({}),
) -> Algorithm:
    """`item_sums` over all clients in one release, with a clipping bound that follows from epsilon.

    The bound is 4 √epsilon, at most 12, on a scale of five points, and in proportion to the scale's width on
    others: with little noise more of a client's ratings fit under it. It was chosen on one split of MovieLens
    1M, whose users it may be too well suited to; it is no number of the data at hand.

    Args:
        num_items: The number of rows of the item tables, that of a public list of items.
        num_clients: The number of clients of the population, a public number.
        epsilon: The epsilon of the release.
        delta: The delta of the release, below 1 / `num_clients`.
        scale: The lowest and the highest rating, public numbers.
        public_inputs: The public sources of the items, of their features and of the scale, by the name of
            each input; by default none.
    """
    low, high = scale
    unit = (high - low) / 4
    base = item_sums(num_items, middle=(low + high) / 2, indicator=0.8 * unit)
    bound = unit * min(4 * math.sqrt(epsilon), 12.0)
    return user_level_dp(
        base,
        clip=bound,
        epsilon=epsilon,
        delta=delta,
        rounds=1,
        sampling=Everyone(),
        num_clients=num_clients,
        public_inputs=public_inputs,
    )


def item_biases(
    algorithm: Algorithm,
    params: Any,
    features: Float[np.ndarray, "item feature"] | None = None,
    num_clients: int | None = None,
) -> ItemBiases:
    """Estimates item biases from the released parameters of `item_sums`.

    Item i's sum is taken for normal around n_i b_i, with the variance of n_i ratings and that of the noise,
    which is known. Its count n_i is shrunk towards the mean count, by how far the counts' variance exceeds
    that of their noise. The bias b_i is normal around a linear function of the item's features and of the
    logarithm of n_i, whose coefficients and variance are fitted by expectation maximisation. No part of it
    reads an example, so that none of it costs privacy.

    Args:
        algorithm: An algorithm made by `item_sums`, or by `user_level_dp` from one.
        params: The global parameters of `algorithm` after its round.
        features: Public features of each item, `[item, feature]`; None, the default, for no features.
        num_clients: The number of clients with an example, needed where the algorithm is not private; a
            private one divided by a number that it knows. None by default.

    Returns:
        The biases, in units of ratings.

    Raises:
        ValueError: The algorithm is no `item_sums` or selects rows, or it has no noise and no `num_clients`.
    """
    if algorithm.name != "item_sums":
        raise ValueError(f"algorithm must be one of item_sums, got {algorithm!r}")
    indicator, privacy = algorithm.hyperparameters["indicator"], algorithm.privacy
    if privacy is None and num_clients is None:
        raise ValueError("num_clients must be given for an algorithm that is not private, got None")
    if privacy is not None and privacy.selection is not None:
        raise ValueError(
            f"algorithm must not select rows, whose sums of 0 would be taken for noised ones, got "
            f"{privacy.selection!r}"
        )
    clients = float(num_clients or 0) if privacy is None else privacy.accounting.divisor
    noise = 0.0 if privacy is None else privacy.noise_deviation(0)
    sums, counts = (
        np.asarray(jax.device_get(params["item"][name]), np.float64) * clients for name in ("sum", "count")
    )
    counts = _shrunk(counts / indicator, (noise / indicator) ** 2)
    popularity = np.log1p(counts)
    columns = [np.ones_like(popularity), popularity, popularity**2]
    known = np.stack(columns, 1) if features is None else np.concatenate([np.stack(columns, 1), features], 1)
    rating_variance = (indicator / 0.8) ** 2  # of a scale of five points 1: a public guess
    own = counts * rating_variance + max(noise**2, 1e-12)
    spread = rating_variance / 4
    for _ in range(_ITERATIONS):
        weight = 1 / (own + counts**2 * spread)
        matrix = (known * (counts**2 * weight)[:, None]).T @ known + _RIDGE * np.eye(known.shape[1])
        expected = known @ np.linalg.solve(matrix, known.T @ (counts * weight * sums))
        gain = counts * spread * weight
        bias = expected + gain * (sums - counts * expected)
        often = counts > np.quantile(counts, 0.3)  # the others tell nothing of the spread
        spread = float(np.mean(np.square(bias - expected)[often] + (spread * (1 - gain * counts))[often]))
    return ItemBiases(bias.astype(np.float32), counts.astype(np.float32))


def item_parameters(biases: ItemBiases, features: Float[np.ndarray, "item feature"]) -> dict[str, Any]:
    """Global parameters of `matrix_factorization` with an item bias, whose factors are public features.

    A user's factors are then how much this user likes what the features describe, fitted on the device.
    """
    return {"item": {"bias": biases.bias, "factors": np.asarray(features, np.float32)}}


def _shrunk(counts: np.ndarray, noise_variance: float) -> np.ndarray:
    """Noisy counts moved to their mean by as much as their variance is that of the noise; not below 0."""
    mean, variance = counts.mean(), counts.var()
    share = max(variance - noise_variance, 0) / max(variance, 1e-12)
    return np.maximum(mean + share * (counts - mean), 0)
