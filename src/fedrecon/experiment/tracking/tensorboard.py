"""Writes the numbers of a run as TensorBoard's event files."""

import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tensorboard.backend.event_processing.event_file_loader import LegacyEventFileLoader
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.event_file_writer import EventFileWriter


class TensorBoardTracker:
    """Writes event files, one for each process that worked on the run.

    Args:
        folder: The folder of the event files.
    """

    def __init__(self, folder: Path):
        self._last: dict[str, int] = {}
        for event in _events(folder):
            for value in event.summary.value:
                self._last[value.tag] = max(event.step, self._last.get(value.tag, -1))
        self._writer = EventFileWriter(str(folder))

    def last(self) -> Mapping[str, int]:
        return self._last

    def log(self, step: int, values: Mapping[str, float]) -> None:
        scalars = [Summary.Value(tag=name, simple_value=value) for name, value in values.items()]
        self._writer.add_event(Event(wall_time=time.time(), step=step, summary=Summary(value=scalars)))

    def flush(self) -> None:
        self._writer.flush()

    def close(self, finished: bool) -> None:
        self._writer.close()


def _events(folder: Path) -> Iterator[Any]:
    """All events in a folder; of a file that a kill cut short, the whole events before the cut."""
    for path in sorted(folder.glob("events.out.tfevents.*")):
        yield from LegacyEventFileLoader(str(path)).Load()
