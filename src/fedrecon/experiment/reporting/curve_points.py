"""What a run's curves are made of."""

from collections.abc import Mapping
from typing import NamedTuple


class Point(NamedTuple):
    """A point of a curve.

    Attributes:
        curve: `"steps"`, `"support"` or `"examples"`.
        x: Steps; share of the examples that are not query; a client's examples, the mean of its group.
        metrics: Over examples.
        clients: How many were scored.
    """

    curve: str
    x: float
    metrics: Mapping[str, float]
    clients: int
