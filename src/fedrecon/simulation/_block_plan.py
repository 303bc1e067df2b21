"""Cuts a cohort into blocks of clients of similar length, so that little work is done on padding.

A plan is chosen once per run and consists of a few slots of fixed shape, since every shape costs a
compilation; a cohort is sorted by length and poured into them.
"""

import json
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import Int

# The overhead of a step of a block, as a number of clients: a step costs about as much as if the block had so
# many clients more. Measured on a CPU with matrix factorisation.
_OVERHEAD = 16
_MOST_CLIENTS = 64
MOST_PLACES = 2**18  # the largest number of examples, with padding, of an evaluation's block
# The longest clients get a slot of their own in an evaluation if they are this many times as long as the 95 %
# quantile: all others would be padded to their length.
FAR = 8
# With so many clients an evaluation has slots for several lengths, since it then saves more than the further
# programs take to compile; the slots end at these quantiles of the lengths, and at the longest.
_MANY_CLIENTS = 5000
_SHORTER = (0.5, 0.8, 0.95)


class Slot(NamedTuple):
    """Several blocks of one shape.

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
        """The number of clients in all blocks of the slot."""
        return self.blocks * self.clients

    def part(
        self, positions: Int[np.ndarray, "row"], number: int, parts: int
    ) -> tuple["Slot", Int[np.ndarray, "row"]]:
        """One of several equal parts of every block, and the clients that come to lie in it.

        Args:
            positions: The positions of the slot's clients, in their order.
            number: The number of the part, from 0.
            parts: The number of parts; the clients of a block must be a multiple of it.
        """
        if parts == 1:
            return self, positions
        width = self.clients // parts
        places = np.full(self.capacity, -1)
        places[: len(positions)] = positions
        own = places.reshape(self.blocks, self.clients)[:, number * width : (number + 1) * width]
        return self._replace(clients=width), own[own >= 0]


class Plan(NamedTuple):
    """How cohorts are cut into blocks.

    Two runs under one plan have the same bits, since it decides the order of all sums; other plans agree up
    to rounding.

    Attributes:
        slots: The slots of a pass over a cohort, from the shortest clients to the longest.
    """

    slots: tuple[Slot, ...]

    def to_json(self) -> str:
        """The plan as JSON, for the run folder: a resume must use the same plan to reach the same bits."""
        return json.dumps([slot._asdict() for slot in self.slots])

    @staticmethod
    def from_json(text: str) -> "Plan":
        """The plan of a text that `to_json` returned."""
        return Plan(tuple(Slot(**slot) for slot in json.loads(text)))

    def in_parts(self, parts: int) -> "Plan":
        """The plan with the clients of every block rounded up to a multiple of `parts`."""
        return Plan(tuple(slot._replace(clients=-(-slot.clients // parts) * parts) for slot in self.slots))

    def halved(self) -> "Plan | None":
        """The plan with half of each slot's blocks; None where a slot has an odd number of them."""
        if any(slot.blocks % 2 for slot in self.slots):
            return None
        return Plan(tuple(slot._replace(blocks=slot.blocks // 2) for slot in self.slots))

    def passes(self, lengths: Int[np.ndarray, "client"]) -> list[list[Int[np.ndarray, "row"]]]:
        """Pours clients into the slots, over as many passes as it takes (nearly always one).

        Args:
            lengths: The number of examples of each client of a cohort.

        Returns:
            For each pass and slot, the clients' positions in `lengths`, at most the slot's capacity.

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
        """Assigns each client to the shortest slot that takes it, without regard to the slots' capacity.

        Args:
            lengths: The number of examples of each client.

        Returns:
            Slots and the clients' positions in `lengths`, from the shortest client to the longest.

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
    most_places: int = MOST_PLACES,
    parts: int = 1,
) -> Plan:
    """Chooses slots for cohorts of some clients.

    Args:
        num_examples: The number of examples of every client of the population, `[client]`.
        cohort: The number of clients of a round.
        most_slots: The largest number of slots, which are shapes to compile; 2 by default.
        clients_per_block: The number of clients of a block, which are vectorised; None, the default, for up
            to 64, as the expected cost decides.
        draw: Draws a cohort for planning, `number of the trial -> positions of its clients`; None, the
            default, draws all clients with the same probability.
        most_places: The largest number of examples of a block that has more than one client, padding
            included; 2^18 by default.
        parts: The number of programs that share the blocks of a pass; the number of blocks of each slot is a
            multiple of it. 1 by default.

    Returns:
        A plan whose last slot takes the longest client.
    """
    longest = max(int(num_examples.max(initial=0)), 1)
    trials = min(max(200_000 // cohort, 50), 1000)
    if draw is None:
        cohorts = np.random.default_rng(0).choice(num_examples, (trials, cohort))
    else:
        cohorts = np.zeros((trials, cohort), np.int64)  # a smaller cohort is filled with clients of length 0
        for trial, row in enumerate(cohorts):
            drawn = draw(trial)[:cohort]
            row[: len(drawn)] = num_examples[drawn]
    # The length of the k-th shortest client that no trial exceeded. The slots' lengths are chosen from these,
    # so that nearly every cohort takes one pass.
    lengths = np.sort(cohorts, axis=1).max(axis=0)
    # Rounded up to tens, but not beyond the longest client: where clients are cut at a number of examples,
    # many have exactly that number, and padding beyond it may cost another batch.
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
            length = int(lengths[end - 1])
            blocks = -(-(end - start) // (parts * clients_in_block(length, width, most_places))) * parts
            clients = -(-(end - start) // blocks)
            slot = Slot(blocks, clients, length)
            cost = slot.length * blocks * (clients + _OVERHEAD)
            options += [(c + cost, (*p, slot)) for c, p in plans if len(p) < most_slots]
        # Dynamic programming: for every number of slots only the cheapest plan up to `end` can be part of the
        # best one.
        kept: dict[int, tuple[float, tuple[Slot, ...]]] = {}
        for c, p in sorted(options, key=lambda o: o[0]):
            kept.setdefault(len(p), (c, p))
        best[end] = list(kept.values())
    return Plan(min(best[cohort], key=lambda o: o[0])[1])


def plan_evaluation(
    num_examples: Int[np.ndarray, "client"],
    heavy: bool = False,
    most_places: int = MOST_PLACES,
    most_slots: int = 4,
) -> Plan:
    """Chooses slots for an evaluation of all clients.

    There is one shape, the same for any part of a population, since a second program takes longer to compile
    than it saves. Only where the clients are many, or a few far longer than the rest, have the shorter ones
    slots of their own.

    Args:
        num_examples: The number of examples of every client, `[client]`.
        heavy: Whether computing costs more than compiling; a block is then no wider than the clients fill it;
            False by default.
        most_places: The largest number of examples of a block that has more than one client, padding
            included; 2^18 by default.
        most_slots: The largest number of slots, which are shapes to compile; at least 2; 4 by default.
    """
    longest, most = max(int(num_examples.max(initial=1)), 1), _MOST_CLIENTS
    if heavy:
        blocks = -(-len(num_examples) // most)
        most = max(-(-len(num_examples) // max(blocks, 1)), 1)
    shares = np.quantile(num_examples, _SHORTER) if len(num_examples) else []
    short = {min(-(-max(int(length), 1) // 10) * 10, longest) for length in shares}
    if len(num_examples) >= _MANY_CLIENTS:
        short = set(sorted(short)[-(most_slots - 1) :])
    else:
        short = {length for length in [max(short, default=longest)] if longest > FAR * length}
    lengths = sorted({*short, longest})
    return Plan(tuple(Slot(1, clients_in_block(length, most, most_places), length) for length in lengths))


def clients_in_block(length: int, most: int = _MOST_CLIENTS, places: int = MOST_PLACES) -> int:
    """The number of clients of an evaluation's block: fewer where they are very long, to save memory.

    Args:
        length: The number of examples of each client, padding included.
        most: The largest number of clients of a block; 64 by default.
        places: The largest number of examples of a block that has more than one client, padding included;
            2^18 by default.
    """
    return max(1, min(most, places // length))
