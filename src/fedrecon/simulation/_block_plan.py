"""How a cohort is cut into blocks of clients of similar length, so that little work is done on padding.

A plan is chosen once per run. It is a few slots of fixed shape, since every shape costs a compilation; a
cohort is sorted by length and poured into them.
"""

import json
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import Int

# A step of a block costs about as much as this many of its clients' share in it: the overhead of a step's
# operations, in clients. Measured on a CPU with matrix factorisation (benchmarks/README.md).
_OVERHEAD = 16
_MOST_CLIENTS = 64
_MOST_PLACES = 2**18  # for examples in a block of clients that are gone through once
FAR = 8  # times as long as nearly all others is a client for which these are not padded
_MANY_CLIENTS = 5000  # from here on an evaluation is worth more than one program,
_SHORTER = (0.5, 0.8, 0.95)  # for these shares of the clients, and the rest


class Slot(NamedTuple):
    """Blocks of one shape.

    Attributes:
        blocks: The number of blocks, which run one after the other.
        clients: The number of clients of a block, which are vectorised.
        length: The number of examples of a client, padding included.
    """

    blocks: int
    clients: int
    length: int

    @property
    def capacity(self) -> int:
        """Clients in all its blocks."""
        return self.blocks * self.clients

    def part(
        self, positions: Int[np.ndarray, "row"], number: int, parts: int
    ) -> tuple["Slot", Int[np.ndarray, "row"]]:
        """One of several equal parts of every block, and the clients that come to lie in it.

        Args:
            positions: The positions of the slot's clients, in their order.
            number: The number of the part, from 0.
            parts: How many; the clients of a block are a multiple of it.
        """
        if parts == 1:
            return self, positions
        width = self.clients // parts
        places = np.full(self.capacity, -1)
        places[: len(positions)] = positions
        own = places.reshape(self.blocks, self.clients)[:, number * width : (number + 1) * width]
        return self._replace(clients=width), own[own >= 0]


class Plan(NamedTuple):
    """The slots of a pass over a cohort, from the shortest clients to the longest."""

    slots: tuple[Slot, ...]

    def to_json(self) -> str:
        """For the run folder: a resume must use the same plan to reach the same bits."""
        return json.dumps([slot._asdict() for slot in self.slots])

    @staticmethod
    def from_json(text: str) -> "Plan":
        """Inverse of `to_json`."""
        return Plan(tuple(Slot(**slot) for slot in json.loads(text)))

    def in_parts(self, parts: int) -> "Plan":
        """The plan with every block's clients rounded up to a multiple of so many, to be cut evenly."""
        return Plan(tuple(slot._replace(clients=-(-slot.clients // parts) * parts) for slot in self.slots))

    def passes(self, lengths: Int[np.ndarray, "client"]) -> list[list[Int[np.ndarray, "row"]]]:
        """Pours clients into the slots, over as many passes as it takes (nearly always one).

        Args:
            lengths: The number of examples of each client of a cohort.

        Returns:
            For each pass and slot, positions in `lengths`, at most the slot's capacity.

        Raises:
            ValueError: A client is longer than the last slot.
        """
        self._check(lengths)
        passes: list[list[Int[np.ndarray, row]]] = []
        left = np.argsort(lengths, kind="stable")
        while left.size or not passes:
            slots = []
            for slot in self.slots:  # the shortest first leaves the longer slots to those that need them
                fits = int(np.searchsorted(lengths[left], slot.length, side="right"))
                taken = min(fits, slot.capacity)
                slots.append(left[:taken])
                left = left[taken:]
            passes.append(slots)
        return passes

    def fitting(self, lengths: Int[np.ndarray, "client"]) -> list[tuple[Slot, Int[np.ndarray, "row"]]]:
        """For each slot the clients, any number of them, that it is the shortest to take.

        Args:
            lengths: The number of examples of each client.

        Returns:
            Slots and positions in `lengths`, from the shortest client to the longest.

        Raises:
            ValueError: A client is longer than the last slot.
        """
        self._check(lengths)
        slots = sorted(self.slots, key=lambda slot: slot.length)
        order = np.argsort(lengths, kind="stable")
        ends = np.searchsorted(lengths[order], [slot.length for slot in slots], side="right")
        return list(zip(slots, np.split(order, ends[:-1]), strict=True))

    def _check(self, lengths: Int[np.ndarray, "client"]) -> None:
        if lengths.max(initial=0) > self.slots[-1].length:
            raise ValueError(
                f"a plan's last slot must take the longest client, of {lengths.max()} examples, but it takes "
                f"{self.slots[-1].length}"
            )


def plan_blocks(
    num_examples: Int[np.ndarray, "client"],
    cohort: int,
    most_slots: int = 2,
    clients_per_block: int | None = None,
    draw: Callable[[int], Int[np.ndarray, "row"]] | None = None,
) -> Plan:
    """Chooses slots for cohorts of some clients.

    Args:
        num_examples: The number of examples of every client of the population, `[client]`.
        cohort: The number of clients of a round.
        most_slots: The largest number of slots, which are shapes to compile.
        clients_per_block: Clients side by side; None leaves the choice to the plan.
        draw: From the number of a trial to the positions of a cohort's clients; None draws all alike.

    Returns:
        A plan whose last slot takes the longest client.
    """
    longest = max(int(num_examples.max(initial=0)), 1)
    trials = min(max(200_000 // cohort, 50), 1000)
    if draw is None:
        cohorts = np.random.default_rng(0).choice(num_examples, (trials, cohort))
    else:
        cohorts = np.zeros((trials, cohort), np.int64)  # where fewer can be drawn, the others have no example
        for trial, row in enumerate(cohorts):
            drawn = draw(trial)[:cohort]
            row[: len(drawn)] = num_examples[drawn]
    lengths = np.sort(cohorts, axis=1).max(axis=0)  # of the k-th shortest client, hardly ever exceeded
    # Rounded, but not beyond the longest client: where clients are cut at a number of examples, many have it,
    # and more room may be another batch.
    lengths = np.minimum(-(-np.maximum(lengths, 1) // 10) * 10, longest)
    lengths[-1] = longest
    width = clients_per_block or _MOST_CLIENTS
    cuts = sorted({round(i * cohort / 20) for i in range(1, 21)} - {0} | {cohort})
    best: dict[int, list[tuple[float, tuple[Slot, ...]]]] = {0: [(0.0, ())]}
    for end in cuts:
        options = []
        for start, plans in best.items():
            if start >= end:
                continue
            blocks = -(-(end - start) // width)
            clients = -(-(end - start) // blocks)
            slot = Slot(blocks, clients, int(lengths[end - 1]))
            cost = slot.length * blocks * (clients + _OVERHEAD)
            options += [(c + cost, (*p, slot)) for c, p in plans if len(p) < most_slots]
        # For every number of slots the cheapest way to get here.
        kept: dict[int, tuple[float, tuple[Slot, ...]]] = {}
        for c, p in sorted(options, key=lambda o: o[0]):
            kept.setdefault(len(p), (c, p))
        best[end] = list(kept.values())
    return Plan(min(best[cohort], key=lambda o: o[0])[1])


def plan_evaluation(num_examples: Int[np.ndarray, "client"], heavy: bool = False) -> Plan:
    """Slots for going through all clients once.

    One shape, the same for any part of a population, since a second program takes longer to compile than
    it saves, unless the clients are many, or a few far longer than the rest: then the shorter ones have slots
    of their own.

    Args:
        num_examples: The number of examples of every client, `[client]`.
        heavy: Whether computing costs more than compiling: then a block is no wider than the clients fill it.
    """
    longest, most = max(int(num_examples.max(initial=1)), 1), _MOST_CLIENTS
    if heavy:
        blocks = -(-len(num_examples) // most)
        most = max(-(-len(num_examples) // max(blocks, 1)), 1)
    shares = np.quantile(num_examples, _SHORTER) if len(num_examples) else []
    short = {min(-(-max(int(length), 1) // 10) * 10, longest) for length in shares}
    if len(num_examples) < _MANY_CLIENTS:
        short = {length for length in [max(short, default=longest)] if longest > FAR * length}
    return Plan(
        tuple(Slot(1, clients_in_block(length, most), length) for length in sorted({*short, longest}))
    )


def clients_in_block(length: int, most: int = _MOST_CLIENTS, places: int = _MOST_PLACES) -> int:
    """Clients of a block that is gone through once: fewer where they are very long, for the memory's sake.

    Args:
        length: The number of examples of each client, padding included.
        most: The largest number of clients of a block.
        places: The largest number of examples of a block that has more than one client, padding included.
    """
    return max(1, min(most, places // length))
