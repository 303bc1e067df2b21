"""The weight of updates that arrive in a later round than the one they were made for."""

import math

import numpy as np
from jaxtyping import Float32

from fedrecon.errors import plain, whole_number


def discounts(max_staleness: int, exponent: float) -> Float32[np.ndarray, "staleness"]:
    """The factors `(1 + s) ** -exponent` of an update's weight that is s rounds late, s from 0 on.

    They are the polynomial discount of asynchronous federated learning (Xie et al. 2019), of which FedBuff
    (Nguyen et al. 2022) takes the exponent 1/2.

    Args:
        max_staleness: The largest number of rounds that an update may be late, at least 0.
        exponent: The exponent, at least 0; 0 counts late updates in full.

    Raises:
        ValueError: An argument is out of its range.
    """
    max_staleness = whole_number("max_staleness", max_staleness, 0)
    if not (exponent >= 0 and math.isfinite(exponent)):
        raise ValueError(f"staleness_exponent must be at least 0 and finite, got {plain(exponent)}")
    return np.asarray((1.0 + np.arange(max_staleness + 1)) ** -exponent, np.float32)
