"""Which clients a round asks: the cohort, as a pure function of round and seed."""

import abc
import functools
import math
from dataclasses import dataclass, field
from typing import ClassVar, NamedTuple, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Int, Int64

from fedrecon.core._tags import tagged
from fedrecon.data._positions import client_positions
from fedrecon.errors import DataError, plain, store_whole_numbers


@runtime_checkable
class Sampling(Protocol):
    """Draws cohorts: which clients take part in a round, as a pure function of round and seed.

    It is hashable and prints what it is made of, as a frozen dataclass does. One that derives from
    `AbstractSampling` can tell more of itself.
    """

    def indices(
        self, round: int, num_examples: Int[np.ndarray, "client"], seed: int
    ) -> Int[np.ndarray, "row"]:
        """Positions of the clients of a round, none of them twice, or one boolean for each client.

        Args:
            round: The number of rounds done before this one.
            num_examples: The number of examples of every client, `[client]`.
            seed: The seed of the experiment.
        """

    def most(self, num_clients: int) -> int:
        """How many clients a round will hardly ever exceed: what the blocks are laid out for."""

    def check(self, num_clients: int) -> None:
        """Raises ValueError where cohorts cannot be drawn from so many clients."""


class AbstractSampling(abc.ABC):
    """A sampling that can tell more of itself than `Sampling` asks for.

    Attributes:
        even: Whether all clients are as likely to be drawn, as by default. Where they are not, blocks are
            planned for cohorts as they are drawn.
        max_staleness: The largest number of rounds by which a client's update may be late and still be
            counted; 0, as by default, where all are counted in their round.
        staleness_exponent: The exponent of the discount `(1 + s) ** -staleness_exponent` of an update that is
            s rounds late; 0.5 by default.
    """

    even: ClassVar[bool] = True
    max_staleness: int = 0
    staleness_exponent: float = 0.5

    @abc.abstractmethod
    def indices(
        self, round: int, num_examples: Int[np.ndarray, "client"], seed: int
    ) -> Int[np.ndarray, "row"]:
        """Positions of the clients of a round, see `Sampling`."""

    def figures(self, round: int, num_examples: Int[np.ndarray, "client"], seed: int) -> dict[str, float]:
        """Numbers about a round that a run records beside its metrics; by default there are none.

        The arguments are those of `indices`.
        """
        return {}

    def delays(
        self, round: int, num_examples: Int[np.ndarray, "client"], seed: int
    ) -> Int64[np.ndarray, "row"]:
        """How many rounds later the update of each client of `indices` is counted, at most `max_staleness`.

        It is only asked for where `max_staleness` is above 0. The arguments are those of `indices`.
        """
        return np.zeros(len(self.indices(round, num_examples, seed)), np.int64)

    @abc.abstractmethod
    def most(self, num_clients: int) -> int:
        """How many clients a round will hardly ever exceed, see `Sampling`."""

    @abc.abstractmethod
    def check(self, num_clients: int) -> None:
        """Raises ValueError where cohorts cannot be drawn from so many clients."""


def cohort_of(
    sampling: Sampling, round: int, num_examples: Int[np.ndarray, "client"], seed: int
) -> Int64[np.ndarray, "row"]:
    """The cohort that a sampling draws for a round, checked: a sampling may be the caller's own.

    A client that came twice would be trained twice, and counted twice in every mean.

    Args:
        sampling: The sampling that draws the cohort.
        round: The number of rounds done before this one.
        num_examples: The number of examples of every client, `[client]`.
        seed: The seed of the experiment.

    Raises:
        DataError: It draws no positions from 0 on and no mask of the clients, or a client twice.
    """
    name = f"the cohort that {type(sampling).__name__} draws for round {round + 1}"
    cohort = client_positions(name, sampling.indices(round, num_examples, seed), len(num_examples), least=0)
    ordered = np.sort(cohort)
    again = ordered[1:][ordered[1:] == ordered[:-1]]
    if again.size:
        raise DataError(f"{name} must have no client twice, it has {again[0]} more than once")
    return cohort


@tagged("sampling/uniform")
@dataclass(frozen=True)
class Uniform(AbstractSampling):
    """A fixed number of clients, drawn without replacement.

    Attributes:
        clients_per_round: The number of clients of a cohort, at least 1.
    """

    clients_per_round: int

    def __post_init__(self) -> None:
        store_whole_numbers(self, 1, "clients_per_round")

    def indices(
        self, round: int, num_examples: Int[np.ndarray, "client"], seed: int
    ) -> Int[np.ndarray, "row"]:
        return _generator(seed, round).choice(len(num_examples), self.clients_per_round, replace=False)

    def most(self, num_clients: int) -> int:
        return self.clients_per_round

    def check(self, num_clients: int) -> None:
        _enough(self.clients_per_round, num_clients)


@tagged("sampling/everyone")
@dataclass(frozen=True)
class Everyone(AbstractSampling):
    """All clients in every round."""

    def indices(
        self, round: int, num_examples: Int[np.ndarray, "client"], seed: int
    ) -> Int[np.ndarray, "row"]:
        return np.arange(len(num_examples))

    def most(self, num_clients: int) -> int:
        return num_clients

    def check(self, num_clients: int) -> None:
        """All populations will do."""


@tagged("sampling/poisson", later=("probability",))
@dataclass(frozen=True)
class Poisson(AbstractSampling):
    """Every client independently with the same probability. A cohort may be empty.

    Attributes:
        clients_per_round: The expected number of clients of a cohort, at least 1: the probability is this
            number over the number of clients.
        probability: A fixed probability in place of `clients_per_round`, above 0 and at most 1. It does not
            change with the number of clients, as accounting for privacy assumes.
    """

    clients_per_round: int | None = None
    probability: float | None = None

    def __post_init__(self) -> None:
        if (self.clients_per_round is None) == (self.probability is None):
            given = "neither" if self.probability is None else "both"
            raise ValueError(f"either clients_per_round or probability must be given, got {given}")
        store_whole_numbers(self, 1, "clients_per_round", optional=True)
        if self.probability is not None and not 0 < self.probability <= 1:
            raise ValueError(f"probability must be above 0 and at most 1, got {plain(self.probability)}")

    def indices(
        self, round: int, num_examples: Int[np.ndarray, "client"], seed: int
    ) -> Int[np.ndarray, "row"]:
        generator, n = _generator(seed, round), len(num_examples)
        # The number first, then which: the same law, without a draw for each client of the population.
        return generator.choice(n, generator.binomial(n, self._share(n)), replace=False)

    def most(self, num_clients: int) -> int:
        expected = num_clients * self._share(num_clients)
        return max(1, min(num_clients, math.ceil(expected + 4 * math.sqrt(expected))))

    def check(self, num_clients: int) -> None:
        if self.clients_per_round is not None:
            _enough(self.clients_per_round, num_clients)

    def _share(self, num_clients: int) -> float:
        """The probability with which a client takes part in a round."""
        if self.probability is not None:
            return self.probability
        return (self.clients_per_round or 0) / num_clients


@tagged("sampling/weighted")
@dataclass(frozen=True)
class Weighted(AbstractSampling):
    """A fixed number of clients, without replacement, each draw in proportion to a client's examples.

    Clients without an example are never drawn. The running sum of the examples is kept between rounds, 8
    bytes a client: a round takes no time for clients that it does not draw.

    Attributes:
        clients_per_round: The number of clients of a cohort, at least 1.
        even: Whether all clients are as likely to be drawn. As they are not, the blocks are planned for
            cohorts that are drawn in this way.
    """

    clients_per_round: int
    even: ClassVar[bool] = False
    _known: "_Shares | None" = field(default=None, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        store_whole_numbers(self, 1, "clients_per_round")

    def indices(
        self, round: int, num_examples: Int[np.ndarray, "client"], seed: int
    ) -> Int[np.ndarray, "row"]:
        known = self._known
        if known is None or known.num_examples is not num_examples:
            known = _Shares.of(num_examples)
            object.__setattr__(self, "_known", known)  # a mere memory: a frozen instance stays what it says
        most = min(self.clients_per_round, known.drawable)
        return known.draw(_generator(seed, round), most)

    def most(self, num_clients: int) -> int:
        return self.clients_per_round

    def check(self, num_clients: int) -> None:
        _enough(self.clients_per_round, num_clients)


class _Shares(NamedTuple):
    """How likely clients are to be drawn.

    Attributes:
        num_examples: The number of examples of every client, `[client]`.
        ends: Their running sum: the client of an example is the first whose end is above it.
        drawable: The positions of the clients that have an example.
    """

    num_examples: Int[np.ndarray, "client"]
    ends: Int[np.ndarray, "client"]
    drawable: int

    @staticmethod
    def of(num_examples: Int[np.ndarray, "client"]) -> "_Shares":
        ends = np.cumsum(num_examples, dtype=np.int64)
        return _Shares(num_examples, ends, int(np.count_nonzero(num_examples)))

    def draw(self, generator: np.random.Generator, count: int) -> Int[np.ndarray, "row"]:
        """Different clients, in the order in which they are drawn.

        Who is drawn again is passed over, which leaves the others their proportions; only where that would be
        most of the draws, those drawn before are taken out, in a pass over all clients.
        """
        drawn, ends = np.zeros(0, np.int64), self.ends
        while len(drawn) < count:
            if 2 * self.num_examples[drawn].sum() > ends[-1]:
                left = self.num_examples.copy()
                left[drawn] = 0
                ends = np.cumsum(left, dtype=np.int64)
            examples = generator.integers(ends[-1], size=count - len(drawn))
            drawn = np.concatenate([drawn, np.searchsorted(ends, examples, side="right")])
            drawn = drawn[np.sort(np.unique(drawn, return_index=True)[1])]
        return drawn


@tagged("sampling/passes", later=("order",))
@dataclass(frozen=True)
class Passes(AbstractSampling):
    """Every client once per pass; a pass's last cohort may be smaller.

    Attributes:
        clients_per_round: The number of clients of a cohort, at least 1.
        order: Whether each pass has a new `"random"` order, or all passes the same `"fixed"` one, drawn once:
            a client then takes part again after exactly as many rounds as a pass has.
    """

    clients_per_round: int
    order: str = "random"

    def __post_init__(self) -> None:
        store_whole_numbers(self, 1, "clients_per_round")
        if self.order not in ("random", "fixed"):
            raise ValueError(f"order must be 'random' or 'fixed', got {self.order!r}")

    def __repr__(self) -> str:
        order = "" if self.order == "random" else f", order={self.order!r}"
        return f"Passes(clients_per_round={self.clients_per_round}{order})"

    def rounds_of_pass(self, num_clients: int) -> int:
        """The number of rounds in which every one of so many clients takes part once."""
        return -(-num_clients // self.clients_per_round)

    def indices(
        self, round: int, num_examples: Int[np.ndarray, "client"], seed: int
    ) -> Int[np.ndarray, "row"]:
        per_pass = self.rounds_of_pass(len(num_examples))
        number = 0 if self.order == "fixed" else round // per_pass
        order = _permutation(seed, number, len(num_examples))
        start = round % per_pass * self.clients_per_round
        return order[start : start + self.clients_per_round]

    def most(self, num_clients: int) -> int:
        return self.clients_per_round

    def check(self, num_clients: int) -> None:
        _enough(self.clients_per_round, num_clients)


@functools.lru_cache(maxsize=2)
def _permutation(seed: int, number: int, size: int) -> Int[np.ndarray, "client"]:
    return _generator(seed, number).permutation(size)


def _generator(seed: int, round: int) -> np.random.Generator:
    return np.random.default_rng([seed % 2**63, round])


def _enough(asked: int, num_clients: int) -> None:
    if asked > num_clients:
        raise ValueError(
            f"clients_per_round must be at most the {num_clients:,} training clients, got {asked:,}"
        )
