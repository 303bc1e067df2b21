"""What the first process of a run reads from its folder, for all of its processes."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from fedrecon.errors import RunError
from fedrecon.experiment.distributed.processes import ProcessGroup
from fedrecon.experiment.storage.checkpoint import Checkpoint, Checkpoints
from fedrecon.experiment.storage.run_folder import PLAN, RunFolder
from fedrecon.simulation._block_plan import Plan
from fedrecon.simulation._client_state_store import ClientStateStore


def saved_plan(folder: RunFolder | None, processes: ProcessGroup) -> Plan | None:
    """The block plan in the run folder; None if it has none.

    A resumed run must use it, since only under the same plan sums are taken in the same order, and so only
    then are the bits the same.

    Args:
        folder: The run folder; None in all processes but the first, and for a run that keeps nothing.
        processes: The processes of the run.

    Raises:
        RunError: The file is not as it was written.
    """
    saved = processes.tell(None if folder is None else folder.read_json(PLAN))
    slots = saved["slots"] if isinstance(saved, dict) else saved  # an earlier version wrote them alone
    try:
        return None if saved is None else Plan.from_json(json.dumps(slots))
    except (ValueError, TypeError, KeyError) as error:
        raise RunError(f"{PLAN}: must be the run's plan as it was written: {error}") from None


def saved_for_all(checkpoints: Checkpoints | None, like: Any, processes: ProcessGroup) -> Checkpoint | None:
    """The last checkpoint, in every process; None if there is none. What a kill left beside it is removed.

    Args:
        checkpoints: The checkpoints of the run; None in all processes but the first, and for a run that keeps
            none.
        like: A pytree of the structure, shapes and types that were saved; every process gives one.
        processes: The processes of the run.

    Raises:
        CheckpointError: The checkpoint is cut short or another run's.
    """
    saved = None
    if checkpoints is not None:
        checkpoints.clean()
        latest = checkpoints.latest()
        saved = None if latest is None else checkpoints.restore(latest, like)
    described = processes.tell(None if saved is None else {"round": saved.round, "info": saved.info})
    if described is None:
        return None
    return Checkpoint(**described, tree=processes.share(like if saved is None else saved.tree))


def share_client_states(
    client_states: ClientStateStore, marks: Sequence[Mapping[str, Any] | None], processes: ProcessGroup
) -> None:
    """Brings the committed states of clients to the processes that do not see the run folder.

    Args:
        client_states: The store of this process.
        marks: The marks of the committed states, None for the start of the run.
        processes: The processes of the run.

    Raises:
        DataError: A log is missing or cut short.
    """
    # A mark is a file and a number of its records: of two marks of a file the longer one holds the other.
    longest: dict[str, Mapping[str, Any]] = {}
    for mark in marks if processes.count > 1 else ():
        if mark is not None and mark["records"] >= longest.get(mark["file"], mark)["records"]:
            longest[mark["file"]] = mark
    for mark in longest.values():
        records = (
            client_states.records(mark) if processes.first else np.zeros(mark["records"], client_states.dtype)
        )
        records = processes.share(records.view(np.uint8)).view(client_states.dtype)
        if not processes.first:
            client_states.adopt(mark, records)
