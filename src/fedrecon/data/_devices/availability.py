"""Cohorts of real devices: who is there, who answers in time, and how long a round takes."""

import functools
import hashlib
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int, Int64

from fedrecon.core._tags import tagged
from fedrecon.data._devices.availability_models import Always, AvailabilityModel
from fedrecon.data._devices.draws import JITTER, LOSS, SPEED, normal_of, uniform_of
from fedrecon.data._devices.staleness import discounts
from fedrecon.data._sampling import AbstractSampling
from fedrecon.errors import plain, store_whole_numbers


class RoundOutcome(NamedTuple):
    """What became of the clients that a round asked.

    Attributes:
        asked: Positions of the clients that were asked, in the order in which they were drawn.
        seconds: Seconds after which each of them answers, `[asked]`; infinite for one that is lost.
        counted: Whether the round counts its answer, `[asked]`.
        delays: Rounds after which its answer is counted, `[asked]`: 0 for one that the round counts itself,
            -1 for one that is never counted.
        duration: Seconds until the round ended.
        abandoned: Whether too few had answered at its end, so that none counts.
        stale: The number of answers to earlier rounds that the round counts.
    """

    asked: Int64[np.ndarray, "asked"]
    seconds: Float[np.ndarray, "asked"]
    counted: Bool[np.ndarray, "asked"]
    delays: Int64[np.ndarray, "asked"]
    duration: float
    abandoned: bool
    stale: int


class _Answers(NamedTuple):
    """The answers to a round, before it is known whether the rounds that may count them are abandoned.

    Attributes:
        asked: Positions of the clients that were asked, in the order in which they were drawn.
        seconds: Seconds after which each of them answers, `[asked]`; infinite for one that is lost.
        delays: Rounds after which each answer arrives, `[asked]`; -1 where it is lost or too late.
        duration: Seconds until the round ended.
    """

    asked: Int64[np.ndarray, "asked"]
    seconds: Float[np.ndarray, "asked"]
    delays: Int64[np.ndarray, "asked"]
    duration: float


@tagged("sampling/availability", later=("max_staleness", "staleness_exponent"))
@dataclass(frozen=True)
class Availability(AbstractSampling):
    """Rounds as real devices answer them: some are away, some slow, some never answer.

    A round asks `clients_per_round * over_selection` of the clients that are available, drawn without
    replacement. A client answers after `latency` plus `seconds_per_example` for each of its examples, both
    times its slowness; with probability `dropout` it never does. The round ends with its
    `clients_per_round`-th answer or at the deadline, and counts the answers that are there; with fewer than
    `min_answers` it counts none, which leaves the whole server state but its number of rounds as it was. A
    client that is not counted leaves no trace, as in a deployment: a stateful algorithm keeps its old client
    state.

    With `max_staleness`, an answer that comes after the end of its round is counted by the first round that
    begins after it came: an answer of t seconds after `ceil(t / round_seconds)` rounds, and after one at
    least. Its update was made from the parameters of the round that asked, and its weight is multiplied by
    `(1 + s) ** -staleness_exponent`, where s is the number of rounds. Such answers come in addition to the
    `clients_per_round` of a round, and `min_answers` counts them, too. A device that is asked again before it
    has answered works on both rounds.

    What holds back a device is no property of its data, but is often related to it: a client with many
    examples answers later. So the clients that are counted are not a uniform sample of all, which is what
    this sampling lets one study.

    Attributes:
        clients_per_round: The number of answers at which a round ends, at least 1.
        over_selection: Clients asked for each answer that is wanted, at least 1; 1 by default.
        deadline: Seconds after which a round ends with the answers that are there; infinite by default.
        min_answers: Answers that a round needs to count any, at least 1 and at most `clients_per_round`; 1 by
            default.
        dropout: Probability that an asked client never answers, from 0 to below 1; 0 by default.
        latency: Seconds that a client of slowness 1 takes besides its examples; 10 by default.
        seconds_per_example: Seconds that a client of slowness 1 takes for an example; 0.1 by default.
        speed_spread: Standard deviation of the logarithm of a client's slowness, which is the same in all
            rounds and has the median 1; 0.5 by default.
        jitter: Standard deviation of the logarithm of a further factor, drawn for each client and round; 0.1
            by default.
        round_seconds: Seconds from the beginning of one round to that of the next, by which the time of day
            passes; 300 by default.
        model: Says which clients are available at a time; all of them by default.
        max_staleness: The largest number of rounds by which an answer may be late and still be counted; 0,
            the default, to drop late answers.
        staleness_exponent: The exponent of the discount of late answers, at least 0; 0.5 by default.
        even: Whether all clients are as likely to be counted. As they are not, the blocks are planned for
            cohorts that are drawn in this way.
    """

    clients_per_round: int
    over_selection: float = 1.0
    deadline: float = math.inf
    min_answers: int = 1
    dropout: float = 0.0
    latency: float = 10.0
    seconds_per_example: float = 0.1
    speed_spread: float = 0.5
    jitter: float = 0.1
    round_seconds: float = 300.0
    model: AvailabilityModel = Always()
    max_staleness: int = 0
    staleness_exponent: float = 0.5
    even: ClassVar[bool] = False

    def __post_init__(self) -> None:
        store_whole_numbers(self, 1, "clients_per_round", "min_answers")
        if self.min_answers > self.clients_per_round:
            raise ValueError(
                f"min_answers must be at most clients_per_round, {self.clients_per_round}, "
                f"got {self.min_answers}"
            )
        if not (self.over_selection >= 1 and math.isfinite(self.over_selection)):
            raise ValueError(
                f"over_selection must be at least 1 and finite, got {plain(self.over_selection)}"
            )
        if not self.deadline > 0:
            raise ValueError(f"deadline must be above 0, got {plain(self.deadline)}")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout must be from 0 to below 1, got {plain(self.dropout)}")
        for name in ("latency", "seconds_per_example", "speed_spread", "jitter", "round_seconds"):
            if not (getattr(self, name) >= 0 and math.isfinite(getattr(self, name))):
                raise ValueError(f"{name} must be at least 0 and finite, got {plain(getattr(self, name))}")
        store_whole_numbers(self, 0, "max_staleness")
        discounts(self.max_staleness, self.staleness_exponent)
        if self.max_staleness and not self.round_seconds:
            raise ValueError(f"round_seconds must be above 0 with max_staleness, got {self.round_seconds:g}")

    def indices(
        self, round: int, num_examples: Int[np.ndarray, "client"], seed: int
    ) -> Int[np.ndarray, "row"]:
        outcome = self.outcome(round, num_examples, seed)
        return outcome.asked[outcome.delays >= 0]

    def delays(
        self, round: int, num_examples: Int[np.ndarray, "client"], seed: int
    ) -> Int64[np.ndarray, "row"]:
        outcome = self.outcome(round, num_examples, seed)
        return outcome.delays[outcome.delays >= 0]

    def outcome(self, round: int, num_examples: Int[np.ndarray, "client"], seed: int) -> RoundOutcome:
        """What becomes of the clients that a round asks; the arguments are those of `Sampling.indices`."""
        lengths = _Lengths(num_examples, hashlib.blake2b(num_examples.tobytes()).digest())
        answers = functools.partial(_answers, self, lengths, seed)
        asked, seconds, delays, duration = answers(round)
        stale, abandoned = self._stale(answers, round)
        delays = np.where((delays == 0) & abandoned, -1, delays)
        if self.min_answers > 1:  # else a round with a late answer has answers enough
            for delay in np.unique(delays[delays > 0]):
                if self._stale(answers, round + int(delay))[1]:
                    delays = np.where(delays == delay, -1, delays)
        return RoundOutcome(
            asked, seconds, delays == 0, delays, duration, abandoned, 0 if abandoned else stale
        )

    def _stale(self, answers: Callable[[int], _Answers], round: int) -> tuple[int, bool]:
        """The number of answers to earlier rounds that a round finds, and whether it has too few answers."""
        earlier = range(1, min(self.max_staleness, round) + 1)
        stale = sum(int(np.sum(answers(round - delay).delays == delay)) for delay in earlier)
        return stale, int(np.sum(answers(round).delays == 0)) + stale < self.min_answers

    def _answers(self, num_examples: Int[np.ndarray, "client"], seed: int, round: int) -> _Answers:
        generator = np.random.default_rng([seed % 2**63, round])
        most = math.ceil(self.clients_per_round * self.over_selection)
        asked = self._draw(generator, min(most, len(num_examples)), len(num_examples), round, seed)
        slowness = np.exp(
            self.speed_spread * normal_of(asked, seed, SPEED)
            + self.jitter * normal_of(asked, seed, JITTER, round)
        )
        seconds = slowness * (self.latency + self.seconds_per_example * num_examples[asked])
        seconds = np.where(uniform_of(asked, seed, LOSS, round) < self.dropout, np.inf, seconds)
        end = self._end(np.sort(seconds))
        # Of two answers at the same moment a round that needs one more takes that of the client asked first.
        in_order = np.argsort(seconds, kind="stable")[: self.clients_per_round]
        in_time = np.zeros(len(asked), bool)
        in_time[in_order] = seconds[in_order] <= end
        delays = np.full(len(asked), -1)
        if self.max_staleness:
            begun = np.maximum(np.ceil(seconds / self.round_seconds), 1)
            delays = np.where(begun <= self.max_staleness, begun, -1).astype(np.int64)
        return _Answers(asked, seconds, np.where(in_time, 0, delays), end)

    def _end(self, seconds: Float[np.ndarray, "asked"]) -> float:
        """When a round ends whose answers come after these seconds, in ascending order.

        Without a deadline, a round that never gets all its answers ends with the last of them.
        """
        if len(seconds) >= self.clients_per_round and seconds[self.clients_per_round - 1] < self.deadline:
            return float(seconds[self.clients_per_round - 1])
        if self.deadline < math.inf:
            return self.deadline
        return float(np.max(seconds[np.isfinite(seconds)], initial=0.0))

    def figures(self, round: int, num_examples: Int[np.ndarray, "client"], seed: int) -> dict[str, float]:
        """Clients asked, counted, late and lost, whether the round was abandoned, and its seconds.

        With `max_staleness` also the number of late answers to earlier rounds that it counted.
        """
        outcome = self.outcome(round, num_examples, seed)
        is_lost = np.isinf(outcome.seconds)
        # In time, but after enough others: late for this round as well.
        in_time = np.sort(outcome.seconds)[: self.clients_per_round] <= outcome.duration
        return {
            "asked_clients": float(len(outcome.asked)),
            "counted_clients": float(outcome.counted.sum()),
            "late_clients": float((~is_lost).sum() - in_time.sum()),
            "lost_clients": float(is_lost.sum()),
            "abandoned": float(outcome.abandoned),
            "round_seconds": outcome.duration,
        } | ({"stale_clients": float(outcome.stale)} if self.max_staleness else {})

    def most(self, num_clients: int) -> int:
        asked = self.clients_per_round * (self.over_selection if self.max_staleness else 1)
        return min(math.ceil(asked), num_clients)

    def check(self, num_clients: int) -> None:
        if self.clients_per_round > num_clients:
            raise ValueError(
                f"clients_per_round must be at most the {num_clients:,} training clients, "
                f"got {self.clients_per_round:,}"
            )
        self.model.check(num_clients)

    def _draw(
        self, generator: np.random.Generator, count: int, num_clients: int, round: int, seed: int
    ) -> Int64[np.ndarray, "asked"]:
        """Up to so many different clients that are available, in random order."""
        seconds = round * self.round_seconds
        drawn, left = np.zeros(0, np.int64), 4
        # Few draws from a large population, so that a round takes no time for clients that it does not ask.
        while len(drawn) < count and left and 8 * count < num_clients:
            candidates = generator.integers(num_clients, size=2 * count)
            candidates = candidates[self.model.available(candidates, seconds, seed)]
            drawn = np.concatenate([drawn, candidates])
            drawn = drawn[np.sort(np.unique(drawn, return_index=True)[1])]
            left -= 1
        if len(drawn) < count:
            everyone = np.arange(num_clients)
            there = everyone[self.model.available(everyone, seconds, seed)]
            others = generator.permutation(np.setdiff1d(there, drawn, assume_unique=True))
            drawn = np.concatenate([drawn, others])
        return drawn[:count]


class _Lengths(NamedTuple):
    """Numbers of examples, `[client]`, which are compared by their digest."""

    num_examples: Int[np.ndarray, "client"]
    digest: bytes

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Lengths) and self.digest == other.digest

    def __hash__(self) -> int:
        return hash(self.digest)


@functools.lru_cache(maxsize=64)
def _answers(sampling: Availability, lengths: _Lengths, seed: int, round: int) -> _Answers:
    """The answers to a round, remembered: with late answers a round depends on those before and after it."""
    return sampling._answers(lengths.num_examples, seed, round)
