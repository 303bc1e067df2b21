"""The points of a run's curves."""

from collections.abc import Mapping
from typing import NamedTuple


class Point(NamedTuple):
    """A point of a curve: the metrics of some clients that were served in one way.

    Attributes:
        curve: The name of the curve: `"steps"`, `"support"` or `"examples"`.
        x: Reconstruction steps; or the share of the examples outside the query set that is support; or the
            mean number of examples of a client in the group.
        metrics: The metrics by their names, means over the clients' query examples.
        clients: The number of clients that were scored.
    """

    curve: str
    x: float
    metrics: Mapping[str, float]
    clients: int
