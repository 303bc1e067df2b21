"""The records of a run's rounds, which the host fetches from the device some rounds later."""

import math
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from typing import Any, cast

import jax

from fedrecon.evaluation._evaluation import Evaluation
from fedrecon.experiment.console.progress import Progress
from fedrecon.experiment.storage.metrics_log import TRAINING, Records, Row, place, rows
from fedrecon.experiment.training.evaluation_rows import mean_of, metric_rows, size_rows
from fedrecon.simulation._round import Round

# Seconds between two fetches of the metrics of past rounds.
FETCH_EVERY = 0.5
# The number of rounds that the host stays ahead of the device.
LAG = 2


class RoundRecorder:
    """Records the metrics of rounds and of evaluations, and shows them as progress.

    JAX computes asynchronously: a round is returned when its programs are queued, and to read its metrics is
    to wait for them. So rounds are kept until their metrics are fetched: before each evaluation or checkpoint
    those of all rounds, and else twice a second those of all but the last `LAG` rounds, which are probably
    done. The device then always has the programs of the next rounds to work on.

    Args:
        records: The records of the run.
        progress: Receives every recorded round and evaluation, to show them.
        more_rows: Makes the further rows of a round from its number; by default there are none.
        unprotected: Gets the clients' training metrics of a private algorithm, which are then neither in
            `records` nor shown; None, the default, for an algorithm that is not private.
    """

    def __init__(
        self,
        records: Records,
        progress: Progress,
        more_rows: Callable[[int], Iterable[Row]] = lambda number: (),
        unprotected: Records | None = None,
    ):
        self._records, self._progress, self._more_rows = records, progress, more_rows
        self._unprotected = unprotected
        self._pending: deque[Round] = deque()
        self._fetched = time.monotonic()
        self._since: dict[str, tuple[float, float]] = {}

    def add(self, round: Round) -> None:
        """Adds a round to those to record, and waits until the device is at most `LAG` rounds behind it."""
        # Without its state, which would stay in the device's memory until the metrics are fetched.
        self._pending.append(round._replace(state=cast(Any, None)))
        if len(self._pending) > LAG:
            # The host must not get further ahead: every queued round needs memory for a state, and after
            # Ctrl-C all of them would have to be finished.
            jax.block_until_ready(self._pending[-1 - LAG].block_metrics)

    def fetch(self, leave: int = 0) -> None:
        """Fetches and records the metrics of all rounds but the last few.

        Args:
            leave: The number of rounds whose metrics are left for later; 0 by default.
        """
        while len(self._pending) > leave:
            round = self._pending[0]
            means = {name: (float(mean.total), float(mean.weight)) for name, mean in round.metrics().items()}
            # Only now, since Ctrl-C may end the wait for the metrics.
            self._pending.popleft()
            if self._unprotected is not None:
                self._unprotected.append(metric_rows(round.number, means))
                means = {}
            self._records.append([*metric_rows(round.number, means), *size_rows(round)])
            for name, (total, weight) in means.items():
                before = self._since.get(name, (0.0, 0.0))
                self._since[name] = (before[0] + total, before[1] + weight)
            further = list(self._more_rows(round.number))
            if further:
                self._records.append(further)
            # A private algorithm releases no loss.
            self._progress.round(round.number, mean_of(*means["loss"]) if "loss" in means else math.nan)
        self._records.write()
        if self._unprotected is not None:
            self._unprotected.write()
        self._fetched = time.monotonic()

    def fetch_if_due(self) -> None:
        """Fetches the metrics of all but the last `LAG` rounds, if the last fetch is half a second ago."""
        if time.monotonic() - self._fetched > FETCH_EVERY:
            self.fetch(LAG)

    def end_at(self, done: int) -> None:
        """Records all rounds up to a round, and removes the records of later ones.

        Args:
            done: The number of the last complete round.
        """
        self._pending = deque(round for round in self._pending if round.number <= done)
        self.fetch()
        self._records.forget(done)
        if self._unprotected is not None:
            self._unprotected.forget(done)

    def add_evaluations(self, number: int, evaluations: Mapping[str, Evaluation], seconds: float) -> None:
        """Records the evaluations after a round.

        Args:
            number: The number of the round.
            evaluations: The evaluations by the name of the set of clients.
            seconds: Seconds since the run began.
        """
        for name, evaluation in evaluations.items():
            self._records.append(rows(number, *place(name), evaluation.summary()))
        self._records.append([Row(number, "train", TRAINING, "total", "seconds", seconds)])
        self._records.write()

    def take_training_means(self) -> dict[str, float]:
        """Means of the training metrics over the rounds that were fetched since the last call."""
        means = {name: mean_of(*mean) for name, mean in self._since.items()}
        self._since = {}
        return means
