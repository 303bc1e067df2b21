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

# Seconds between two times that a tracker is written to.
PAUSE = 1.0


class Follower:
    """Listens to the records of a run while entered. A tracker that fails does not stop the run.

    What it could not pass on it keeps, tries again, and tells of at the end.

    Args:
        start: Opens the tracker, once there is something to log: when the run folder is there.
        note: Told of what goes wrong.

    Attributes:
        finished: Whether the run got to its end, to be set before leaving.
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
        """Some rows were recorded."""
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
        """Logs what waits, each number that is new."""
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
        # Hours of training do not end because a server that shows their curves is away.
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
    """How trackers call a number: `train/loss`, `test/recon_eval/examples/rmse`, `…/hr_10`."""
    parts = (row.split, row.metric) if row.protocol == TRAINING else row[1:5]
    return re.sub(r"[^\w./-]", "_", "/".join(parts))  # what MLflow allows


def _words(failure: Exception) -> str:
    return f"{type(failure).__name__}: {failure}".splitlines()[0]
