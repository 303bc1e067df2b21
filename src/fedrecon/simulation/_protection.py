"""What a simulation does for a private algorithm: it draws cohorts and noise from a secret."""

from typing import Any, NamedTuple

from fedrecon.algorithms._base import Algorithm, ServerState
from fedrecon.data._clients import Clients
from fedrecon.data._sampling import Sampling
from fedrecon.privacy._secret import Secret
from fedrecon.privacy._user_level import UserLevelDP
from fedrecon.simulation._block_plan import Plan


class Protection(NamedTuple):
    """The secret of a simulation, and what it protects.

    Attributes:
        privacy: The guarantee.
        secret: From which cohorts and noise are made.
    """

    privacy: UserLevelDP
    secret: Secret

    @staticmethod
    def of(
        algorithm: Algorithm, clients: Clients, sampling: Sampling, processes: int, secret: Secret | None
    ) -> "Protection | None":
        """The protection of a private algorithm; None of another.

        Raises:
            ValueError: The clients or the sampling are not those that are accounted for, or there are several
                processes, which would each draw noise of their own.
        """
        if algorithm.privacy is None:
            return None
        algorithm.privacy.check(sampling=sampling, num_clients=len(clients))
        if processes > 1:
            raise ValueError(f"a private algorithm must run in one process, got {processes}")
        return Protection(algorithm.privacy, secret or Secret.fresh())

    def check(self, rounds: int) -> None:
        """Refuses more rounds than are accounted for.

        Raises:
            ValueError: There are more.
        """
        most = self.privacy.affordable
        if rounds > most:
            raise ValueError(
                f"rounds must be at most the {most:,} that {self.privacy!r} accounts for, got {rounds:,}"
            )

    def armed(self, state: ServerState, number: int, cohort: Any, plan: Plan) -> ServerState:
        """The state with the key of a round's noise."""
        privacy = self.privacy
        settings = {"bounds": privacy.clipping.bounds, "noise_multiplier": privacy.noise_multiplier}
        key = self.secret.noise_key(number, cohort, plan.to_json(), settings, state.global_params)
        return privacy.armed(state, key)
