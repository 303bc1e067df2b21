"""Numbers to Weights & Biases."""

import json
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import wandb

from fedrecon._files import write_atomically

# The run's id, and the last step of each name, in the run folder: offline there is nobody to ask.
STATE = "wandb.json"


class WandbTracker:
    """Logs to a run of Weights & Biases, the same one after a resume.

    Args:
        folder: The run's; offline it gets all files.
        title: The name of a new run.
        settings: Its configuration.
        project: Made where it does not exist.
        entity: The user or team; `""` for the one logged in.
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
        else:  # the test's, of parameters of an earlier round: a history has no way back
            self._run.summary.update(dict(values))
        self._last |= dict.fromkeys(values, step)

    def flush(self) -> None:
        write_atomically(self._state, json.dumps({"id": self._id, "last": self._last}))

    def close(self, finished: bool) -> None:
        self._run.finish(exit_code=0 if finished else 1)
