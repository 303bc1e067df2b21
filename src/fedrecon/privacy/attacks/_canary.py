"""Scores of a canary: of releases that a client with the largest allowed delta took part in, or did not."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, UInt32

from fedrecon.core._model import leaves_of
from fedrecon.core._types import Params
from fedrecon.data._sampling import Everyone, Passes, Uniform
from fedrecon.privacy._correlated import strategy_coefficients, strategy_of_client
from fedrecon.privacy._guarantee import UserLevelDP

_LARGE = 1e6  # entries of the canary's delta before it is clipped, in units of the joint bound
_KEY_WORDS = 8
_AT_ONCE = 2**20  # normal numbers that are drawn side by side


def canary_scores(
    privacy: UserLevelDP, params: Params, releases: int, trials: int, seed: int = 0
) -> tuple[Float[np.ndarray, "trial"], Float[np.ndarray, "trial"]]:
    """Scores of runs with and without a canary, whose deltas have the largest norm that clipping lets pass.

    The canary sends the same delta whenever it takes part, and a score is the sum over all releases of the
    noised sum along that delta, in units of its squared norm. The deltas of all others are taken for known
    and subtracted, as the guarantee has to hold against somebody who knows them. Clipping and noise are
    those of the algorithm itself, with keys that are not secret. Only those releases are scored in which the
    canary may have taken part. Under sampling whose cohorts are secret, it takes part at random; under
    `Uniform`, where a neighbour is another client in its place, that client sends the opposite.

    Args:
        privacy: The guarantee that is tested.
        params: The global parameters, or arrays of their shapes and types.
        releases: The number of noised sums in a run, at least 1.
        trials: The number of scores of either kind.
        seed: The seed of the canary, of its participation and of the noise; 0 by default.

    Returns:
        The scores with and those without the canary.
    """
    rng = np.random.default_rng(seed)
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, jnp.promote_types(x.dtype, jnp.float32)), params)
    raw = jax.tree.map(lambda x: _LARGE * privacy.clipping.bound * rng.standard_normal(x.shape), zeros)
    canary = privacy.clipping(jax.tree.map(lambda x, like: jnp.asarray(x, like.dtype), raw, zeros))
    squared_norm = _along(canary, canary)
    # Trials are vectorised as far as their noise stays small.
    vectorised = max(1, _AT_ONCE // sum(x.size for x in jax.tree.leaves(zeros)))

    @jax.jit
    def noise_along(keys: UInt32[Array, "trial release *band 8"]) -> Float[Array, "trial release"]:
        """The noise of each run's sums along the canary's delta."""
        parts = jax.lax.map(
            lambda key: _along(privacy.noised(zeros, key), canary),
            keys.reshape(-1, *keys.shape[2:]),
            batch_size=vectorised,
        )
        return parts.reshape(keys.shape[:2]) / squared_norm

    weights, probability = _participation(privacy, releases)

    def scores(sign: int) -> Float[np.ndarray, "trial"]:
        keys = rng.integers(1, 2**32, (trials, len(weights), _KEY_WORDS), np.uint32)
        if privacy.noise_bands > 1:
            keys = _with_earlier(keys, privacy.noise_bands)
            present = np.ones(trials)
        else:
            present = rng.binomial(len(weights), probability, trials).astype(float)
        return sign * present + np.asarray(noise_along(keys), np.float64) @ weights

    without = -1 if isinstance(privacy.sampling, Uniform) and privacy.observer == "model" else 0
    return scores(1), scores(without)


def _participation(privacy: UserLevelDP, releases: int) -> tuple[Float[np.ndarray, "release"], float]:
    """The weights of the scored releases, and the probability with which the canary takes part in each.

    In passes, and against somebody who knows the cohorts, it is known in which ones it takes part. Under
    correlated noise the canary takes part in the first round of each pass, and the weights make independent
    noise of the releases' noise before they take the score along what the canary adds.
    """
    sampling, num_clients = privacy.sampling, privacy.num_clients
    if isinstance(sampling, Passes):
        each_pass = sampling.rounds_of_pass(num_clients)
        if privacy.noise_bands == 1:
            return np.ones(-(-releases // each_pass)), 1.0
        signal = strategy_of_client(privacy.noise_bands, releases, each_pass)
        strategy = strategy_coefficients(privacy.noise_bands, releases)
        columns = [strategy[: releases - t] @ signal[t:] for t in range(releases)]
        return np.array(columns) / np.sum(np.square(signal)), 1.0
    if isinstance(sampling, Everyone) or privacy.observer == "server":
        return np.ones(releases), 1.0
    return np.ones(releases), privacy.accounting.divisor / num_clients


def _with_earlier(
    keys: UInt32[np.ndarray, "trial release 8"], bands: int
) -> UInt32[np.ndarray, "trial release band 8"]:
    """The key of each release, before those of the releases before it; zeros where there is none."""
    trials, releases, words = keys.shape
    before = np.concatenate([np.zeros((trials, bands - 1, words), np.uint32), keys], 1)
    return np.stack([before[:, bands - 1 - band :][:, :releases] for band in range(bands)], 2)


def _along(a: Any, b: Any) -> Float[Array, ""]:
    """The inner product of two pytrees."""
    others = leaves_of(b)
    return jnp.stack([jnp.vdot(x, others[name]) for name, x in leaves_of(a).items()]).sum()
