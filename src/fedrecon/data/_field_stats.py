"""What is known of a field of many clients without reading it again."""

from typing import NamedTuple

import numpy as np


class FieldStats(NamedTuple):
    """A field's range, and whether numbers repeat.

    They stay true, if less sharp, for any part of the clients and of their examples.

    Attributes:
        least: A lower bound of the field's numbers.
        most: An upper bound of the field's numbers.
        distinct: One whole number per example, and no number twice at any client.
    """

    least: float
    most: float
    distinct: bool


NONE = FieldStats(np.inf, -np.inf, True)  # of no example at all


def merged(one: FieldStats, other: FieldStats) -> FieldStats:
    """What holds for two sets of clients together."""
    least, most = min(one.least, other.least), max(one.most, other.most)
    return FieldStats(least, most, one.distinct and other.distinct)


def measured(column: np.ndarray, owner: np.ndarray) -> FieldStats:
    """Reads a field.

    Args:
        column: The field of all examples, `[example, ...]`.
        owner: The client of each example, ascending, `[example]`.
    """
    single = column.ndim == 1 and column.dtype.kind in "iu"
    if not column.size:
        return NONE._replace(distinct=single)
    least, most = column.min(), column.max()
    if single:
        if column.dtype.itemsize > 4:
            column = np.unique(column, return_inverse=True)[1]
        start = int(column.min())
        pairs = owner.astype(np.int64) * (int(column.max()) - start + 1) + (column.astype(np.int64) - start)
        pairs.sort()
        single = not np.any(pairs[1:] == pairs[:-1])
    # As numbers of Python, of which whole ones have no limit.
    return FieldStats(least.item(), most.item(), single)
