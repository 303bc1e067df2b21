"""What a sum of clipped deltas with Gaussian noise reveals, for each way of drawing cohorts.

==================  ===========  ===================  =====================================
sampling            relation     sensitivity          accountant
==================  ===========  ===================  =====================================
`Everyone`          add/remove   the clipping bound   closed form of the Gaussian mechanism
`Poisson(q)`        add/remove   the clipping bound   privacy loss distributions
`Uniform(k)`        replace one  twice that           Rényi differential privacy
`Passes(k)`         zero out     the clipping bound   closed form, one release a pass
`Passes(k, fixed)`  zero out     of the noise matrix  closed form of one matrix mechanism
==================  ===========  ===================  =====================================

The table holds against somebody who sees the released parameters. Against a server that knows who takes part,
sampling amplifies nothing, and presence itself is no secret: there the relation is zero-out, and every round
counts in full.
"""

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any, Literal, cast

from fedrecon.data._sampling import Everyone, Passes, Poisson, Sampling, Uniform
from fedrecon.privacy._correlated import sensitivity
from fedrecon.privacy._gaussian import gaussian_epsilon

Observer = Literal["model", "server"]
# Of privacy losses; with little noise these are large, so that finer steps take long and tell nothing.
_DISCRETISATION, _COARSE, _LITTLE_NOISE = 1e-4, 1e-3, 0.7
_CALIBRATION = 1e-4  # how far below the epsilon asked for the calibrated one may be, relative
GAUSSIAN = "gaussian"  # the name of an accountant
_START = 8.0  # a noise multiplier to start the search with


@dataclass(frozen=True, eq=False)
class Accounting:
    """How releases under one sampling are accounted for.

    Attributes:
        relation: Which sets of clients are neighbours: `"add_or_remove"` one client, `"replace_one"` by
            another, or `"zero_out"`: one client's delta becomes 0 while it stays among the clients.
        sensitivity: The most by which neighbours' sums differ, in units of the clipping bound.
        divisor: The public number by which the server divides the noised sum.
        accountant: The name of the accountant that computes epsilon.
        epsilon: `(noise multiplier relative to the sensitivity, rounds, delta) -> epsilon`.
        as_one: `(noise multiplier relative to the sensitivity, rounds) -> noise multiplier` of the one
            Gaussian mechanism that is as private as all rounds; None, the default, where there is none.
    """

    relation: str
    sensitivity: float
    divisor: float
    accountant: str
    epsilon: Callable[[float, int, float], float]
    as_one: Callable[[float, int], float] | None = None

    @staticmethod
    def gaussian(
        relation: str, sensitivity: float, divisor: float, as_one: Callable[[float, int], float]
    ) -> "Accounting":
        """The accounting of releases that together are as private as one Gaussian mechanism.

        Args:
            relation: The sets of clients that are neighbours, one of the values of `Accounting.relation`.
            sensitivity: The most by which neighbours' sums differ, in units of the clipping bound.
            divisor: The public number by which the server divides the noised sum.
            as_one: `(noise multiplier relative to the sensitivity, rounds) -> noise multiplier` of the one
                Gaussian mechanism that is as private as all rounds; infinity for no rounds.
        """

        def epsilon(noise_multiplier: float, rounds: int, delta: float) -> float:
            return gaussian_epsilon(as_one(noise_multiplier, rounds), delta) if rounds else 0.0

        return Accounting(relation, sensitivity, divisor, GAUSSIAN, epsilon, as_one)


def accounting(
    sampling: Sampling,
    num_clients: int,
    observer: Observer = "model",
    rounds: int = 1,
    noise_bands: int = 1,
) -> Accounting:
    """The line of the table for a sampling.

    Args:
        sampling: The sampling that draws the cohort of each round.
        num_clients: The number of clients of the population, which is public.
        observer: The observer against whom the guarantee holds: `"model"`, the default, sees the released
            parameters but not who took part; `"server"` also knows who takes part.
        rounds: The number of planned rounds, on which the sensitivity of correlated noise depends; 1 by
            default.
        noise_bands: Bands of the noising matrix; 1, the default, for independent noise in every round.

    Raises:
        ValueError: No accountant holds for that sampling; the message says why.
        ModuleNotFoundError: The accountant's package is not installed.
    """
    if type(sampling) is Poisson and sampling.probability is None:
        raise ValueError(
            f"sampling must be given as Poisson(probability=...) under a ledger, got {sampling!r}: "
            f"a probability of clients_per_round over the number of clients changes when a client is added"
        )
    if noise_bands > 1 and not (type(sampling) is Passes and sampling.order == "fixed"):
        raise ValueError(
            f"noise_bands must be 1 unless sampling is Passes(..., order='fixed'), got {noise_bands} with "
            f"{sampling!r}: without a fixed order a client may come again before the noise has faded"
        )
    if type(sampling) not in (Everyone, Poisson, Uniform, Passes):  # one that extends them draws otherwise
        raise ValueError(
            f"sampling must be Everyone, Poisson(probability=...), Uniform or Passes under differential "
            f"privacy, got {sampling!r}: {_reason(sampling)}"
        )
    divisor = _divisor(sampling, num_clients)
    if isinstance(sampling, Passes):
        per_pass = sampling.rounds_of_pass(num_clients)
        if noise_bands > 1:
            return _matrix_mechanism(divisor, rounds, noise_bands, per_pass)
        return Accounting.gaussian("zero_out", 1.0, divisor, functools.partial(_as_one, every=per_pass))
    if observer == "server":
        return Accounting.gaussian("zero_out", 1.0, divisor, _as_one)
    if isinstance(sampling, Everyone):
        return Accounting.gaussian("add_or_remove", 1.0, divisor, _as_one)
    _require("dp_accounting", f"accounting for {sampling!r}")
    if isinstance(sampling, Poisson):
        probability = float(sampling.probability or 0)
        pld = functools.partial(_poisson_pld, probability)
        return Accounting("add_or_remove", 1.0, divisor, "pld", pld)
    size = cast(Uniform, sampling).clients_per_round
    uniform = functools.partial(_uniform_rdp, num_clients, size)
    return Accounting("replace_one", 2.0, divisor, "rdp", uniform)


def poisson_rdp(probability: float, noise_multiplier: float, rounds: int, delta: float) -> float:
    """Epsilon of Poisson sampling by Rényi differential privacy, which is above that of `pld`.

    Args:
        probability: The probability with which a client takes part in a round.
        noise_multiplier: The standard deviation of the noise, in units of the sensitivity.
        rounds: The number of rounds.
        delta: The delta of the guarantee, between 0 and 1.
    """
    if rounds == 0:
        return 0.0
    import dp_accounting

    event = dp_accounting.PoissonSampledDpEvent(probability, dp_accounting.GaussianDpEvent(noise_multiplier))
    accountant = dp_accounting.rdp.RdpAccountant()
    return float(accountant.compose(event, rounds).get_epsilon(delta))


def calibrate(accounting: Accounting, epsilon: float, delta: float, rounds: int) -> float:
    """The smallest noise, in units of the sensitivity, with which so many rounds stay within epsilon.

    Args:
        accounting: The accounting of releases under the sampling.
        epsilon: The epsilon to stay within, above 0.
        delta: The delta of the guarantee, between 0 and 1.
        rounds: The number of rounds, at least 1.

    Returns:
        A noise multiplier whose epsilon is at most 0.01% below the one asked for, and never above it.
    """
    # Epsilon is close to a power of the noise: with both in logarithms, a secant hits in a few steps. A step
    # that would leave the interval which is known to hold the answer is a bisection instead. More noise takes
    # privacy loss distributions less time, so that it is approached from above.
    x, below, above = math.log(_START), -math.inf, math.inf
    points: list[tuple[float, float]] = []
    while True:
        reached = accounting.epsilon(math.exp(x), rounds, delta)
        if (1 - _CALIBRATION) * epsilon <= reached <= epsilon or above - below < _CALIBRATION / 10:
            return math.exp(x if reached <= epsilon else above)
        below, above = (x, above) if reached > epsilon else (below, x)
        points = [*points[-1:], (x, math.log(max(reached, 1e-300) / epsilon))]
        x = _next(points, below, above)


def _next(points: list[tuple[float, float]], below: float, above: float) -> float:
    """Where to look next for the zero of a falling function, by the last one or two points of it."""
    (x, y), slope = points[-1], -1.0
    if len(points) == 2 and points[0][0] != x:
        slope = (y - points[0][1]) / (x - points[0][0])
    aim = y + _CALIBRATION / 2  # the middle of what is allowed
    guess = x - aim / slope if slope < 0 else math.nan
    if not below < guess < above:
        guess = (below + above) / 2
    return min(max(guess, x - 1), x + 1) if math.isfinite(guess) else x + math.copysign(1, y)


def _matrix_mechanism(divisor: float, rounds: int, bands: int, separation: int) -> Accounting:
    """The accounting of correlated noise in a fixed order: all rounds together are one Gaussian mechanism."""
    planned = sensitivity(bands, rounds, separation)

    def as_one(noise_multiplier: float, rounds: int) -> float:
        if not rounds:
            return math.inf
        return noise_multiplier * planned / sensitivity(bands, rounds, separation)

    return Accounting.gaussian("zero_out", planned, divisor, as_one)


def _as_one(noise_multiplier: float, rounds: int, every: int = 1) -> float:
    """The accounting of rounds in which every client takes part once in `every` of them."""
    return noise_multiplier / math.sqrt(-(-rounds // every)) if rounds else math.inf


@functools.lru_cache(maxsize=64)
def _poisson_pld(probability: float, noise_multiplier: float, rounds: int, delta: float) -> float:
    if rounds == 0:
        return 0.0
    composed = _loss_distribution(probability, noise_multiplier).self_compose(rounds)
    return float(composed.get_epsilon_for_delta(delta))


@functools.lru_cache(maxsize=2)
def _loss_distribution(probability: float, noise_multiplier: float) -> Any:
    from dp_accounting.pld import privacy_loss_distribution

    step = _COARSE if noise_multiplier < _LITTLE_NOISE else _DISCRETISATION
    return privacy_loss_distribution.from_gaussian_mechanism(
        noise_multiplier, sampling_prob=probability, value_discretization_interval=step
    )


def _uniform_rdp(num_clients: int, size: int, noise_multiplier: float, rounds: int, delta: float) -> float:
    if rounds == 0:
        return 0.0
    import dp_accounting

    gaussian = dp_accounting.GaussianDpEvent(noise_multiplier)
    event = dp_accounting.SampledWithoutReplacementDpEvent(num_clients, size, gaussian)
    relation = dp_accounting.NeighboringRelation.REPLACE_ONE
    accountant = dp_accounting.rdp.RdpAccountant(neighboring_relation=relation)
    return float(accountant.compose(event, rounds).get_epsilon(delta))


def _divisor(sampling: Any, num_clients: int) -> float:
    if isinstance(sampling, Everyone):
        return float(num_clients)
    if isinstance(sampling, Poisson):
        return float(sampling.probability or 0) * num_clients
    return float(sampling.clients_per_round)


def _reason(sampling: Any) -> str:
    if not getattr(sampling, "even", True):
        return "a client that is drawn by its examples reveals how many it has"
    return "no accountant is known for it"


def _require(package: str, what: str) -> None:
    if find_spec(package) is None:
        raise ModuleNotFoundError(
            f"{what} needs the package {package}, which is not installed: pip install 'fedrecon[privacy]'",
            name=package,
        )
