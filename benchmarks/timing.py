"""Rounds of the library, timed as they really run."""

import os
import time
from collections.abc import Callable, Hashable
from typing import Any, NamedTuple, TypeAlias, TypeVar

import jax
import numpy as np

from fedrecon import Simulation


class Timed(NamedTuple):
    """Rounds that ran one after the other.

    Attributes:
        seconds: From the end of one round to the end of the next, `[round]`.
        wall: Seconds from the first round's start to the last one's end.
        cpu: Seconds of work by all threads of the process in that time.
    """

    seconds: list[float]
    wall: float
    cpu: float


Name = TypeVar("Name", bound=Hashable)
Way: TypeAlias = Callable[[int], Timed]


class Rounds:
    """Runs a simulation on and on, a chunk of rounds at a time.

    Attributes:
        done: Rounds run so far.
    """

    def __init__(self, simulation: Simulation):
        self.simulation = simulation
        self.done = 0
        self._state = jax.block_until_ready(simulation.init())

    def time(self, count: int) -> Timed:
        """Times the next rounds, all of each: cohort, layout, transfer, dispatch, computation, server's step.

        As in training, a cohort is laid out while the device computes the round before; a round has ended
        when its parameters are there. The last one is waited for.
        """
        ends, before = [], None
        cpu, start = time.process_time(), time.perf_counter()
        for one in self.simulation.rounds(self._state, count):
            if before is not None:
                jax.block_until_ready(before)
                ends.append(time.perf_counter())
            before = self._state = one.state
        jax.block_until_ready(before)
        ends.append(time.perf_counter())
        self.done += count
        seconds = np.diff([start, *ends]).tolist()
        return Timed(seconds, ends[-1] - start, time.process_time() - cpu)


def joined(parts: list[Timed]) -> Timed:
    """Chunks as one."""
    return Timed([s for p in parts for s in p.seconds], sum(p.wall for p in parts), sum(p.cpu for p in parts))


def in_turn(ways: dict[Name, Way], rounds: int, chunks: int) -> dict[Name, Timed]:
    """Times several ways to run rounds, chunk by chunk in turn, so that what else the machine does hits all.

    Args:
        ways: Each runs and times so many rounds; it has been warmed up.
        rounds: Of each way.
        chunks: In how many parts.
    """
    found: dict[Name, list[Timed]] = {name: [] for name in ways}
    sizes = [len(part) for part in np.array_split(np.arange(rounds), min(chunks, rounds))]
    for size in sizes:
        for name, time_rounds in ways.items():
            found[name].append(time_rounds(size))
    return {name: joined(parts) for name, parts in found.items()}


def timed(call: Callable[[], Any], count: int) -> Timed:
    """Times calls, each to the end of its work on the device."""
    ends = []
    cpu, start = time.process_time(), time.perf_counter()
    for _ in range(count):
        jax.block_until_ready(call())
        ends.append(time.perf_counter())
    return Timed(np.diff([start, *ends]).tolist(), ends[-1] - start, time.process_time() - cpu)


def milliseconds(rounds: Timed) -> float:
    """The median round's, from end to end."""
    return float(np.median(rounds.seconds)) * 1e3


def work(rounds: Timed) -> float:
    """CPU milliseconds per round, of all threads."""
    return rounds.cpu / len(rounds.seconds) * 1e3


def load() -> float:
    """Processes that wanted a core in the last minute, this one included."""
    return os.getloadavg()[0]
