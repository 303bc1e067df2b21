"""Which clients a round asks: the cohort, as a pure function of round and seed."""

import functools
import math
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Int


@runtime_checkable
class Sampling(Protocol):
    """Draws cohorts."""

    def indices(
        self, round: int, num_examples: Int[np.ndarray, "client"], seed: int
    ) -> Int[np.ndarray, "row"]:
        """Positions of the clients of a round, none of them twice.

        Args:
            round: Rounds done before this one.
            num_examples: Examples of every client.
            seed: The experiment's.
        """

    def most(self, num_clients: int) -> int:
        """How many clients a round will hardly ever exceed: what the blocks are laid out for."""

    def check(self, num_clients: int) -> None:
        """Raises ValueError where cohorts cannot be drawn from so many clients."""


@dataclass(frozen=True)
class Uniform:
    """A fixed number of clients, drawn without replacement.

    Attributes:
        clients_per_round: At least 1.
    """

    clients_per_round: int

    def __post_init__(self) -> None:
        _positive(self.clients_per_round)

    def indices(
        self, round: int, num_examples: Int[np.ndarray, "client"], seed: int
    ) -> Int[np.ndarray, "row"]:
        return _generator(seed, round).choice(len(num_examples), self.clients_per_round, replace=False)

    def most(self, num_clients: int) -> int:
        return self.clients_per_round

    def check(self, num_clients: int) -> None:
        _enough(self.clients_per_round, num_clients)


@dataclass(frozen=True)
class Poisson:
    """Every client independently with the same probability, as accounting for privacy assumes.

    Attributes:
        clients_per_round: The expected number, at least 1.
    """

    clients_per_round: int

    def __post_init__(self) -> None:
        _positive(self.clients_per_round)

    def indices(
        self, round: int, num_examples: Int[np.ndarray, "client"], seed: int
    ) -> Int[np.ndarray, "row"]:
        generator, n = _generator(seed, round), len(num_examples)
        # The number first, then which: the same law, without a draw for each client of the population.
        return generator.choice(n, generator.binomial(n, self.clients_per_round / n), replace=False)

    def most(self, num_clients: int) -> int:
        return min(num_clients, math.ceil(self.clients_per_round + 4 * math.sqrt(self.clients_per_round)))

    def check(self, num_clients: int) -> None:
        _enough(self.clients_per_round, num_clients)


@dataclass(frozen=True)
class Weighted:
    """A fixed number of clients, without replacement, each draw in proportion to a client's examples.

    Clients without an example are never drawn.

    Attributes:
        clients_per_round: At least 1.
    """

    clients_per_round: int

    def __post_init__(self) -> None:
        _positive(self.clients_per_round)

    def indices(
        self, round: int, num_examples: Int[np.ndarray, "client"], seed: int
    ) -> Int[np.ndarray, "row"]:
        weights = num_examples / num_examples.sum()
        most = min(self.clients_per_round, int(np.count_nonzero(weights)))
        return _generator(seed, round).choice(len(num_examples), most, replace=False, p=weights)

    def most(self, num_clients: int) -> int:
        return self.clients_per_round

    def check(self, num_clients: int) -> None:
        _enough(self.clients_per_round, num_clients)


@dataclass(frozen=True)
class Passes:
    """Every client once per pass, in a new random order each time; a pass's last cohort may be smaller.

    Attributes:
        clients_per_round: At least 1.
    """

    clients_per_round: int

    def __post_init__(self) -> None:
        _positive(self.clients_per_round)

    def indices(
        self, round: int, num_examples: Int[np.ndarray, "client"], seed: int
    ) -> Int[np.ndarray, "row"]:
        per_pass = -(-len(num_examples) // self.clients_per_round)
        order = _permutation(seed, round // per_pass, len(num_examples))
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


def _positive(value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"clients_per_round must be a whole number of at least 1, got {value!r}")


def _enough(asked: int, num_clients: int) -> None:
    if asked > num_clients:
        raise ValueError(
            f"clients_per_round must be at most the {num_clients:,} training clients, got {asked:,}"
        )
