"""Detects that a run has diverged, and says how."""

import math
from collections.abc import Collection, Mapping

import jax
import numpy as np

from fedrecon.core._model import leaves_of
from fedrecon.core._types import Params
from fedrecon.evaluation._evaluation import Evaluation
from fedrecon.experiment.storage.metrics_log import Records


def divergence(
    global_params: Params, evaluations: Collection[Evaluation], records: Records, since: int
) -> str | None:
    """How a run diverged, as the end of a sentence; None if it did not.

    A run has diverged if the global parameters are not finite, if the last evaluation has no finite metric,
    or if more than half of the updates since the evaluation before were dropped.

    Args:
        global_params: The global parameters after the last round.
        evaluations: The last evaluation of each set of clients; those that evaluated no client are ignored.
        records: The records of the run.
        since: The round of the evaluation before the last one; 0 where there was none.
    """
    broken = not_finite(global_params)
    if broken is not None:
        return f"the global parameter {broken!r} is not finite"
    values = [value for x in evaluations if x.evaluated_clients for value in x.over_examples().values()]
    if values and not any(math.isfinite(x) for x in values):
        return "the last evaluation has no finite metric"
    updates, dropped = (
        sum(value for round, value in records.series("train", name, "total").items() if round > since)
        for name in ("clients", "dropped")
    )
    if dropped > updates / 2:
        return f"{dropped:,.0f} of the last {updates:,.0f} updates were dropped as not finite"
    return None


def not_finite(global_params: Params) -> str | None:
    """The path of the first leaf that holds NaN or an infinity; None if all numbers are finite."""
    for path, leaf in leaves_of(global_params).items():
        if not np.all(np.isfinite(np.asarray(jax.device_get(leaf)))):
            return path
    return None


def last_evaluations(
    evaluations: Mapping[str, Evaluation], while_training: Collection[str]
) -> list[Evaluation]:
    """The evaluations of the parameters after the last round.

    Sets that are evaluated while training are preferred, since the test clients may have been evaluated with
    the parameters of an earlier round.

    Args:
        evaluations: The last evaluation of each set of clients, by its name.
        while_training: Names of the sets that are evaluated while training.
    """
    names = [name for name in evaluations if name in while_training] or list(evaluations)
    return [evaluations[name] for name in names]
