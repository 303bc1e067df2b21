"""The checkpoints of a run: their content, the order in which it is written, and how one is restored."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from fedrecon.algorithms._base import ServerState
from fedrecon.errors import DataError
from fedrecon.experiment.distributed.broadcast import saved_for_all, share_client_states
from fedrecon.experiment.distributed.processes import ProcessGroup
from fedrecon.experiment.storage.checkpoint import Checkpoint, CheckpointError, Checkpoints
from fedrecon.experiment.storage.metrics_log import Records
from fedrecon.experiment.storage.resource_usage import Stopwatch
from fedrecon.experiment.training.best_selection import BestSelection
from fedrecon.experiment.training.run_ledger import RunLedger
from fedrecon.experiment.training.run_spec import RunSpec
from fedrecon.experiment.training.vocabularies import DIGEST, SETTINGS_FROM_DATA
from fedrecon.simulation._client_state_store import ClientStateStore

# The key of the mark of the records so far among the JSON values of a checkpoint.
RECORDS = "records"


class Restored(NamedTuple):
    """The state from which a run continues.

    Attributes:
        state: The server's state after `done` rounds.
        done: The number of rounds done.
        recomputed: The number of recorded rounds after `done`, which will be computed again.
        from_checkpoint: Whether the state is that of a checkpoint, and not the start of the run.
    """

    state: ServerState
    done: int
    recomputed: int
    from_checkpoint: bool


class Checkpointer:
    """Saves the state of a run, and restores it.

    Args:
        spec: The specification of the run.
        client_states: The states of the training clients; None for a stateless algorithm.
        checkpoints: The checkpoints of the run; None in all processes but the first, and for a run that keeps
            none.
        records: The records of the run, which are committed before each checkpoint.
        stopwatch: The stopwatch of the run, whose seconds are saved.
        processes: The processes of the run.
        selection: The best evaluation so far, which is saved and restored as well.
        ledger: Counts the releases of a private algorithm; None, the default, for others.
    """

    def __init__(
        self,
        spec: RunSpec,
        client_states: ClientStateStore | None,
        checkpoints: Checkpoints | None,
        records: Records,
        stopwatch: Stopwatch,
        processes: ProcessGroup,
        selection: BestSelection,
        ledger: RunLedger | None = None,
    ):
        self._spec, self._client_states, self._checkpoints = spec, client_states, checkpoints
        self._records, self._stopwatch = records, stopwatch
        self._processes, self._selection, self._ledger = processes, selection, ledger

    def restore(self, initial: ServerState) -> Restored:
        """Goes back to the last checkpoint, or to the start if there is none.

        Args:
            initial: The server's state before the first round.

        Raises:
            CheckpointError: The checkpoint is damaged, or does not fit the run.
        """
        saved = saved_for_all(self._checkpoints, self._tree(initial), self._processes)
        state = initial if saved is None else self._adopt(saved)
        if self._client_states is not None:
            self._restore_client_states(None if saved is None else saved.info.get("kept"))
        done = 0 if saved is None else saved.round
        mark = None if saved is None else saved.info.get(RECORDS)
        return Restored(state, done, self._records.restart(done, mark), saved is not None)

    def save(self, done: int, state: ServerState) -> None:
        """Commits the records, then a private round's release, the client states and the server's state.

        A kill may come between any two of them. In this order everything that a checkpoint refers to exists:
        records and logs of client states may be longer than a checkpoint needs, and are cut on a resume.

        Args:
            done: The number of rounds done.
            state: The server's state after these rounds.
        """
        self._records.commit()
        if self._checkpoints is None or not done:
            return
        if self._ledger is not None:
            # The release is counted before the checkpoint exists, since whoever reads the disk may see the
            # parameters from then on. A kill in between counts a release too many, never one too few.
            self._ledger.release(done)
        best = self._selection.best
        info = {
            "seconds": self._stopwatch.seconds(),
            "best": None if best is None else best.to_info(),
            DIGEST: self._spec.vocabularies,
            RECORDS: self._records.mark,
        }
        if self._spec.settings_from_data:
            info[SETTINGS_FROM_DATA] = dict(self._spec.settings_from_data)
        if self._client_states is not None:
            info["kept"] = self._client_states.commit(done)
        self._checkpoints.save(done, self._tree(state), info)
        if self._client_states is not None:
            # Logs of client states go last, when no checkpoint refers to them any more.
            infos = [self._checkpoints.info(round) for round in self._checkpoints.rounds()]
            marks = [x.get("kept") for x in infos] + [(x.get("best") or {}).get("kept") for x in infos]
            self._client_states.remove_all_but([mark for mark in marks if mark is not None])

    def _adopt(self, saved: Checkpoint) -> ServerState:
        """The server's state of a checkpoint, whose seconds and best evaluation are taken over."""
        tree = jax.tree.map(jnp.asarray, saved.tree)
        self._stopwatch.before = saved.info["seconds"]
        if saved.info["best"] is not None:
            self._selection.restore(saved.info["best"], tree["best"])
        state: ServerState = tree["state"]
        return state

    def _restore_client_states(self, mark: Mapping[str, Any] | None) -> None:
        """Brings the client states back to the mark of a checkpoint; None for the start of the run."""
        assert self._client_states is not None
        held = self._selection.mark
        try:
            share_client_states(self._client_states, [mark, held], self._processes)
            self._client_states.restore(mark)
            self._client_states.hold(held)
        except DataError as error:
            raise CheckpointError(str(error)) from None

    def _tree(self, state: ServerState) -> dict[str, Any]:
        """The arrays of a checkpoint, whose structure is the same with and without a best evaluation."""
        tree: dict[str, Any] = {"state": state}
        if self._spec.selects_best:
            best = self._selection.best
            tree["best"] = state.global_params if best is None else best.global_params
        return tree
