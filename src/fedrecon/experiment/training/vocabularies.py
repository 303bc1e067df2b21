"""What a run took from its training data: vocabularies of its fields, and settings of its model."""

import json
from pathlib import Path
from typing import Any

from fedrecon.errors import RunError
from fedrecon.experiment.storage.checkpoint import Checkpoints
from fedrecon.experiment.storage.digests import missing
from fedrecon.experiment.storage.run_folder import CHECKPOINTS, VOCABULARIES
from fedrecon.experiment.training.run_spec import ids_digest

# The key of the vocabularies' digest among the JSON values of a checkpoint.
DIGEST = "vocabularies"
# The key of the settings that the training data decided, see `Task.settings_from_data`.
SETTINGS_FROM_DATA = "settings_from_data"


def vocabularies_of(run: Path) -> dict[str, Any]:
    """The original ids of each field that has them, in the order of the run's numbers.

    Args:
        run: The run folder, whose `vocabularies.json` is read.

    Raises:
        RunError: The file cannot be read, or its digest is not the one that was saved with the run's
            parameters: row 5 of a table would stand for another item, or another word.
    """
    path = run / VOCABULARIES
    checkpoints = Checkpoints(run / CHECKPOINTS)
    latest = checkpoints.latest()
    trained = None if latest is None else checkpoints.describe_info(latest).get(DIGEST)
    if not path.exists():
        if trained is not None and trained != ids_digest({}):
            raise missing(path)
        return {}
    try:
        vocabularies: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RunError(f"{path}: cannot be read: {error}") from None
    if trained is not None and trained != ids_digest(vocabularies):
        raise RunError(f"{path}: is not the vocabulary that the run's parameters were trained with")
    return vocabularies


def settings_from_data_of(run: Path) -> dict[str, float | str]:
    """The settings of a run's model that its training data decided; empty if its checkpoint tells none.

    Args:
        run: The run folder.

    Raises:
        RunError: The checkpoint is not what was written.
    """
    checkpoints = Checkpoints(run / CHECKPOINTS)
    latest = checkpoints.latest()
    return {} if latest is None else checkpoints.describe_info(latest).get(SETTINGS_FROM_DATA, {})
