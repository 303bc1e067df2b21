"""What a benchmark is asked to do, and what it answers."""

from dataclasses import dataclass
from typing import NamedTuple


@dataclass(frozen=True)
class Options:
    """How large the benchmarks are.

    Attributes:
        data: MovieLens 1M, its folder or a file of ratings; None generates data of its shape.
        rounds: Rounds that are timed; None leaves their number to each benchmark.
        clients: Clients that are generated, those kept for evaluation included.
        items: Items that are generated.
        clients_per_round: Size of a cohort.
    """

    data: str | None = None
    rounds: int | None = None
    clients: int = 6_040
    items: int = 3_706
    clients_per_round: int = 100


class Row(NamedTuple):
    """A line of the table.

    Attributes:
        what: That was measured.
        value: None where it could not be.
        unit: Of the value; `"x"` for a ratio, `""` for a count.
        note: What else a reader should know.
    """

    what: str
    value: float | None
    unit: str
    note: str = ""
