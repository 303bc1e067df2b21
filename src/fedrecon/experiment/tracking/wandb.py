"""Logs the numbers of a run to Weights & Biases."""

import json
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import wandb

from fedrecon._files import write_atomically

# The file in the run folder that holds the id of the run and the last step of each name. They are kept there
# since an offline run cannot ask a server for them.
STATE = "wandb.json"


class WandbTracker:
    """Logs to a run of Weights & Biases, the same one after a resume.

    Args:
        folder: The run folder; an offline run keeps all its files there.
        title: The name of the run in Weights & Biases.
        settings: The run's settings by their dotted names.
        project: The name of the project; it is made where it does not exist.
        entity: The user or team that owns the run; `""` for the one that is logged in.
        mode: `"online"` or `"offline"`.
    """

    def __init__(
        self, folder: Path, title: str, settings: Mapping[str, Any], project: str, entity: str, mode: str
    ):
        self._state = folder / STATE
        saved: dict[str, Any] = {"id": uuid.uuid4().hex[:12], "last": {}}
        resumed = self._state.exists()
        if resumed:
            saved = json.loads(self._state.read_text(encoding="utf-8"))
        self._last: dict[str, int] = dict(saved["last"])
        self._id = str(saved["id"])
        self._step = max(self._last.values(), default=0)
        self._run: Any = wandb.init(
            project=project,
            entity=entity or None,
            name=title,
            id=self._id,
            resume="allow" if resumed and mode == "online" else None,
            dir=str(folder),
            config=dict(settings),
            mode="offline" if mode == "offline" else "online",
            settings=wandb.Settings(console="off", silent=True),
        )
        self.flush()

    def last(self) -> Mapping[str, int]:
        return dict(self._last)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        if step >= self._step:
            self._run.log(dict(values), step=step)
            self._step = step
        else:
            # Numbers of the test clients, of the selected round: the steps of a history cannot go back.
            self._run.summary.update(dict(values))
        self._last |= dict.fromkeys(values, step)

    def flush(self) -> None:
        write_atomically(self._state, json.dumps({"id": self._id, "last": self._last}))

    def close(self, finished: bool) -> None:
        self._run.finish(exit_code=0 if finished else 1)
