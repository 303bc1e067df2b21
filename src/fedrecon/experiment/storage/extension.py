"""More rounds for a run that has begun: the change of its number of rounds, whole or not at all.

The number stands in two files, the settings and the fingerprint, which cannot be replaced at once. So both
are first written into a third one. Whoever opens the folder afterwards finishes what a kill left undone.
"""

import json
import tomllib
from pathlib import Path
from typing import Any

from fedrecon._files import write_atomically
from fedrecon.experiment.storage.digests import read_json, seal
from fedrecon.experiment.storage.run_folder import (
    CONFIG,
    EXTENSION,
    FINGERPRINT,
    SETTINGS,
    finish_extension,
    lock_folder,
    settings_digest,
)


def extend(run: Path, rounds: int) -> None:
    """Lets a run go on to more rounds; its `result.json`, of the fewer ones, goes.

    The rounds that are done stay as they are: nothing in them depends on how many follow.

    Args:
        run: The run folder.
        rounds: The number of rounds, at least that of the run; with an equal one nothing changes.

    Raises:
        RunError: Another process is using the folder, or a file in it is not what was written.
    """
    import tomli_w

    guard = lock_folder(run)
    try:
        finish_extension(run)
        config = tomllib.loads((run / CONFIG).read_text(encoding="utf-8"))
        fingerprint: dict[str, Any] = read_json(run / FINGERPRINT)
        if config["training"]["rounds"] == rounds:
            return
        config["training"]["rounds"] = rounds
        changed = {**fingerprint, "rounds": rounds}
        if SETTINGS in changed:
            changed[SETTINGS] = settings_digest(config)
        content = {"config": tomli_w.dumps(config), "fingerprint": changed}
        write_atomically(run / EXTENSION, json.dumps(seal(content), indent=2) + "\n")
        finish_extension(run)
    finally:
        guard.release()
