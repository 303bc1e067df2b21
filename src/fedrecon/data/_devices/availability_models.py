"""When clients are available: always, by day and night, or as a recording says."""

import hashlib
import math
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, Float, Int

from fedrecon.core._tags import tagged
from fedrecon.data._devices.draws import HOURS, normal_of
from fedrecon.errors import plain


@runtime_checkable
class AvailabilityModel(Protocol):
    """Says which clients are available at a time. It is hashable, as a frozen dataclass is."""

    def available(
        self, clients: Int[np.ndarray, "row"], seconds: float, seed: int
    ) -> Bool[np.ndarray, "row"]:
        """Whether each of some clients is available.

        Args:
            clients: Positions of the clients.
            seconds: The simulated time in seconds since the training began.
            seed: The seed of the experiment.
        """

    def check(self, num_clients: int) -> None:
        """Raises ValueError where the model does not fit so many clients."""


@tagged("availability/always")
@dataclass(frozen=True)
class Always:
    """All clients are available all the time."""

    def available(
        self, clients: Int[np.ndarray, "row"], seconds: float, seed: int
    ) -> Bool[np.ndarray, "row"]:
        return np.ones(len(clients), bool)

    def check(self, num_clients: int) -> None:
        """Any number of clients will do."""


@tagged("availability/nightly")
@dataclass(frozen=True)
class Nightly:
    """Each client is available for some hours a day, around an hour of its own.

    Phones train while they charge: most at night, by the clock of where they are.

    Attributes:
        hours: Hours a day for which a client is available, above 0 and at most 24.
        peak: The hour of the day, from 0 to below 24, around which the middles of the clients' hours lie. The
            training begins at hour 0.
        spread: Standard deviation, in hours, of the clients' middles from `peak`; at least 0. Above about 8
            the clients are spread evenly over the day.
    """

    hours: float = 8.0
    peak: float = 3.0
    spread: float = 3.0

    def __post_init__(self) -> None:
        if not 0 < self.hours <= 24:
            raise ValueError(f"hours must be above 0 and at most 24, got {plain(self.hours)}")
        if not 0 <= self.peak < 24:
            raise ValueError(f"peak must be from 0 to below 24, got {plain(self.peak)}")
        if not (self.spread >= 0 and math.isfinite(self.spread)):
            raise ValueError(f"spread must be at least 0 and finite, got {plain(self.spread)}")

    def available(
        self, clients: Int[np.ndarray, "row"], seconds: float, seed: int
    ) -> Bool[np.ndarray, "row"]:
        middle = self.peak + self.spread * normal_of(clients, seed, HOURS)
        # The distance from the middle on a clock of 24 hours, from -12 to 12.
        apart = (seconds / 3600 - middle + 12) % 24 - 12
        return np.abs(apart) <= self.hours / 2

    def check(self, num_clients: int) -> None:
        """Any number of clients will do."""


@dataclass(frozen=True, eq=False)
class Traces:
    """Clients are available in the intervals of a recording, which is repeated when it is over.

    Attributes:
        client: The position of the client of each interval, `[interval]`.
        start: Beginning of each interval in seconds, `[interval]`, at least 0.
        end: End of each interval in seconds, `[interval]`, after its `start` and at most `length`.
        length: Length of the recording in seconds; by default the end of the last interval.
    """

    client: Int[np.ndarray, "interval"]
    start: Float[np.ndarray, "interval"]
    end: Float[np.ndarray, "interval"]
    length: float | None = None

    def __post_init__(self) -> None:
        client = np.asarray(self.client)
        start, end = np.asarray(self.start, np.float64), np.asarray(self.end, np.float64)
        if client.ndim != 1 or client.dtype.kind not in "iu" or client.min(initial=0) < 0:
            raise ValueError(
                f"client must hold positions of clients, got {client.dtype} {list(client.shape)}"
            )
        if not client.size or start.shape != client.shape or end.shape != client.shape:
            raise ValueError(
                f"client, start and end must have one entry for each interval, got {list(client.shape)}, "
                f"{list(start.shape)} and {list(end.shape)}"
            )
        if not np.all((start >= 0) & (start < end) & np.isfinite(end)):
            raise ValueError("start must be at least 0 and below end, it is not in every interval")
        length = float(end.max()) if self.length is None else float(self.length)
        if not end.max() <= length < math.inf:
            raise ValueError(
                f"length must be finite and at least the last end, {end.max():g}, got {length:g}"
            )
        # By client, so that the intervals of one lie side by side.
        order = np.argsort(client, kind="stable")
        for name, values in (
            ("client", client[order].astype(np.int64)),
            ("start", start[order]),
            ("end", end[order]),
        ):
            values.setflags(write=False)
            object.__setattr__(self, name, values)
        object.__setattr__(self, "length", length)

    def __repr__(self) -> str:
        # Run folders compare what samplings print: a digest tells recordings of the same size apart.
        content = hashlib.sha256(b"".join(x.tobytes() for x in (self.client, self.start, self.end)))
        return (
            f"Traces({len(self.client)} intervals, length={self.length}, sha256={content.hexdigest()[:16]})"
        )

    def available(
        self, clients: Int[np.ndarray, "row"], seconds: float, seed: int
    ) -> Bool[np.ndarray, "row"]:
        assert self.length is not None
        now = seconds % self.length
        first = np.searchsorted(self.client, clients, side="left")
        last = np.searchsorted(self.client, clients, side="right")
        open_now = np.concatenate([[0], np.cumsum((self.start <= now) & (now < self.end))])
        return np.asarray(open_now[last] > open_now[first])

    def check(self, num_clients: int) -> None:
        """Raises ValueError where an interval is of a client that is not there."""
        if self.client[-1] >= num_clients:
            raise ValueError(
                f"client must be below the {num_clients:,} training clients, got {int(self.client[-1])}"
            )
