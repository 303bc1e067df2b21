"""What the numbers in a run's fields stand for, held to the parameters that were trained with them."""

import json
from pathlib import Path
from typing import Any

from fedrecon.errors import RunError
from fedrecon.experiment.storage.checkpoint import Checkpoints
from fedrecon.experiment.storage.run_folder import CHECKPOINTS, VOCABULARIES
from fedrecon.experiment.training.run_spec import ids_digest

DIGEST = "vocabularies"  # in what a checkpoint saves beside the parameters


def known_to(run: Path) -> dict[str, Any]:
    """For each field that has them the original ids, as the run numbers them.

    Raises:
        RunError: The run's file cannot be read, or is not the one its parameters were trained with: row 5 of
            a table would stand for another item, or another word.
    """
    path = run / VOCABULARIES
    if not path.exists():
        return {}
    try:
        known: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RunError(f"{path}: cannot be read: {error}") from None
    checkpoints = Checkpoints(run / CHECKPOINTS)
    latest = checkpoints.latest()
    trained = None if latest is None else checkpoints.info(latest).get(DIGEST)
    if trained is not None and trained != ids_digest(known):
        raise RunError(f"{path}: is not the vocabulary that the run's parameters were trained with")
    return known
