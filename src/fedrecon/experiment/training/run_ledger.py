"""The ledger of a private run: its secret, its releases, and epsilon so far."""

import json

from fedrecon.errors import RunError
from fedrecon.experiment.storage.checkpoint import Checkpoints
from fedrecon.experiment.storage.metrics_log import EPSILON, TRAINING, Row
from fedrecon.experiment.storage.noise_keys import NoiseKeys
from fedrecon.experiment.storage.run_folder import CHECKPOINTS, RunFolder
from fedrecon.experiment.training.run_spec import RunSpec
from fedrecon.privacy._guarantee import UserLevelDP
from fedrecon.privacy._ledger import Ledger
from fedrecon.privacy._secret import Secret


class RunLedger:
    """Counts the rounds that a run releases.

    Args:
        privacy: The guarantee of the algorithm, with its clipping, noise and accountant.
        spec: The specification of the run.
        folder: The run folder; None for a run that keeps nothing.

    Raises:
        RunError: The record of releases was changed, or a noise key cannot be read or written.
    """

    def __init__(self, privacy: UserLevelDP, spec: RunSpec, folder: RunFolder | None):
        self.privacy = privacy
        done = 0 if folder is None else Checkpoints(folder.path / CHECKPOINTS).latest() or 0
        self._keys = NoiseKeys(folder, done, left=done < privacy.affordable)
        if privacy.noise_bands > 1 and self._keys.was_lost and done < privacy.affordable:
            raise RunError(
                f"{'' if folder is None else folder.path}: the run's noise key is lost, without which rounds "
                f"cannot take back the noise of those before them: start again in another folder, or without "
                f"correlated noise (noise_bands = 1)"
            )
        # The noise depends on all that a run computes with, so that two runs never share it. A run folder
        # refuses a run whose fingerprint differs, anyway.
        self._context = json.dumps(spec.fingerprint(), sort_keys=True).encode()

    @staticmethod
    def of(spec: RunSpec, folder: RunFolder | None) -> "RunLedger | None":
        """The ledger of a run; None where its algorithm is not private."""
        return None if spec.algorithm.privacy is None else RunLedger(spec.algorithm.privacy, spec, folder)

    @property
    def secret(self) -> Secret:
        """The secret from which noise and cohorts are made."""
        return self._keys.secret(self._context)

    def ledger(self, done: int) -> Ledger:
        """The ledger after `done` rounds; a round that was released twice counts twice."""
        return self.privacy.ledger(done + self._keys.repetitions())

    def rows(self, done: int, costly: bool) -> list[Row]:
        """Epsilon after a round as a row of the metrics; none if it was not computed.

        Args:
            done: The number of the round.
            costly: Whether epsilon is computed even where the accountant takes seconds.
        """
        if not costly and self.privacy.accounting.accountant != "gaussian":
            return []
        return [Row(done, "train", TRAINING, "total", EPSILON, self.ledger(done).epsilon)]

    def release(self, done: int) -> None:
        """Records the release of a round on the disk; is called before anyone can see the round."""
        self._keys.record_release(done)

    def finish(self) -> None:
        """Removes the noise key, once no round is left that needs it."""
        self._keys.remove()
