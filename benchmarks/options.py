"""What a benchmark is asked to do, and what it answers."""

import argparse
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


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Adds `--json` and the flags that `read_flags` reads."""
    parser.add_argument("--json", metavar="FILE", help="write the results there")
    parser.add_argument("--data", metavar="PATH", help="MovieLens 1M; default: generated data of its shape")
    parser.add_argument("--rounds", type=positive, metavar="N", help="rounds to time; default: enough")
    size = parser.add_argument_group("sizes, to try the benchmarks out")
    for name in ("clients", "items", "clients_per_round"):
        flag, default = f"--{name.replace('_', '-')}", getattr(Options, name)
        size.add_argument(flag, type=positive, default=default, metavar="N", help=f"default: {default}")


def read_flags(given: argparse.Namespace) -> Options:
    """The options that parsed flags stand for."""
    return Options(given.data, given.rounds, given.clients, given.items, given.clients_per_round)


def positive(text: str) -> int:
    """A whole number of at least 1, as the type of a flag."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {number}")
    return number
