"""Passes what a run records on to a tracker, each number once, however often the run is resumed."""

import re
import time
from collections import defaultdict
from collections.abc import Callable, Iterable
from pathlib import Path
from types import TracebackType
from typing import Any

from fedrecon.experiment.storage.metrics_log import TRAINING, Row
from fedrecon.experiment.tracking.settings import TrackingSettings, UntrackedSettings
from fedrecon.experiment.tracking.tracker import Tracker

# Seconds between two writes to a tracker.
PAUSE = 1.0


class Follower:
    """Passes the records of a run on to a tracker while entered. A tracker that fails does not stop the run.

    Numbers that could not be passed on are kept and tried again; at the end it notes how many are left.

    Args:
        start: Opens the tracker. It is called when there is something to log, since only then the run folder
            exists.
        note: Is called with a line of text when the tracker fails.

    Attributes:
        finished: Whether the run got to its end; the caller sets it before leaving.
    """

    def __init__(self, start: Callable[[], Tracker], note: Callable[[str], None]):
        self._start, self._note = start, note
        self._tracker: Tracker | None = None
        self._last: dict[str, int] = {}
        self._waiting: list[Row] = []
        self._written = 0.0
        self._failing = False
        self.finished = False

    def __call__(self, rows: Iterable[Row]) -> None:
        """Receives the rows that were just recorded."""
        self._waiting += rows
        if time.monotonic() - self._written > PAUSE:
            self._pass_on()

    def __enter__(self) -> "Follower":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pass_on()
        if self._waiting:
            self._note(f"tracking: {len(self._waiting):,} numbers could not be passed on")
        if self._tracker is not None:
            try:
                self._tracker.close(self.finished)
            except Exception as failure:
                self._note(f"tracking: {_words(failure)}")

    def _pass_on(self) -> None:
        """Logs the waiting rows, but those that an earlier process has logged."""
        try:
            if self._tracker is None and self._waiting:
                self._tracker = self._start()
                self._last = dict(self._tracker.last())
            steps: dict[int, dict[str, float]] = defaultdict(dict)
            for row in self._waiting:
                if row.round > self._last.get(name_of(row), -1):
                    steps[row.round][name_of(row)] = row.value
            for step, values in steps.items():
                assert self._tracker is not None
                self._tracker.log(step, values)
                self._last |= dict.fromkeys(values, step)
            if self._tracker is not None:
                self._tracker.flush()
            self._waiting = []
            self._failing = False
        # Any error of a tracker is caught: a server that is away must not end hours of training.
        except Exception as failure:
            if not self._failing:
                self._note(f"tracking failed, the run goes on and will try again: {_words(failure)}")
            self._failing = True
        self._written = time.monotonic()


def follower(
    tracking: TrackingSettings,
    folder: Path,
    title: str,
    settings: dict[str, Any],
    note: Callable[[str], None],
) -> Follower | None:
    """What passes the numbers of a run on to a tracker; None where no tracker is set.

    Args:
        tracking: Which tracker, and where it is.
        folder: The run folder, where trackers keep what they need to go on after a resume.
        title: The name under which the tracker shows the run.
        settings: The run's other settings by their dotted names, to be shown beside its numbers.
        note: Is called with a line of text when the tracker fails.

    Raises:
        SettingError: The tracker's package is not installed.
    """
    if isinstance(tracking, UntrackedSettings):
        return None
    tracking.check()
    return Follower(lambda: tracking.open(folder, title, settings), note)


def name_of(row: Row) -> str:
    """The name of a number in a tracker: `train/loss`, `test/recon_eval/examples/rmse`, `…/hr_10`."""
    parts = (row.split, row.metric) if row.protocol == TRAINING else row[1:5]
    # MLflow allows no other characters, so `hr@10` becomes `hr_10`.
    return re.sub(r"[^\w./-]", "_", "/".join(parts))


def _words(failure: Exception) -> str:
    return f"{type(failure).__name__}: {failure}".splitlines()[0]
