"""The secret of a simulation with a private algorithm, from which cohorts and noise are drawn."""

from concurrent.futures import Future
from typing import Any, NamedTuple

import jax
import numpy as np

from fedrecon.algorithms._base import Algorithm, ServerState
from fedrecon.core._types import Params
from fedrecon.data._clients import Clients
from fedrecon.data._sampling import Sampling
from fedrecon.privacy._guarantee import UserLevelDP
from fedrecon.privacy._secret import Secret
from fedrecon.simulation._block_plan import Plan
from fedrecon.simulation._compilation import engine_options
from fedrecon.simulation._second_thread import SecondThread

_NO_KEY = np.zeros(8, np.uint32)


class Protection(NamedTuple):
    """The secret of a simulation, and the guarantee that rests on it.

    Attributes:
        privacy: The algorithm's guarantee, with its noise and its accounting.
        secret: The secret from which cohorts and noise are drawn.
    """

    privacy: UserLevelDP
    secret: Secret

    @staticmethod
    def of(
        algorithm: Algorithm, clients: Clients, sampling: Sampling, processes: int, secret: Secret | None
    ) -> "Protection | None":
        """The protection of a private algorithm; None for another algorithm.

        Args:
            algorithm: The algorithm that is simulated.
            clients: The training clients.
            sampling: The sampling that draws the cohort of a round.
            processes: The number of processes of the simulation.
            secret: The secret of an earlier run; None for a new one.

        Raises:
            ValueError: The clients or the sampling are not those of the privacy accounting, or there are
                several processes, which would each draw noise of their own.
        """
        if algorithm.privacy is None:
            return None
        algorithm.privacy.check(sampling=sampling, num_clients=len(clients))
        if processes > 1:
            raise ValueError(f"a private algorithm must run in one process, got {processes}")
        if algorithm.privacy.noise_bands > 1 and secret is not None and not secret.context:
            raise ValueError(
                "secret must have a context that no other run shares where noise is correlated over rounds, "
                "got none: equal noise on other sums would show how these differ"
            )
        return Protection(algorithm.privacy, secret or Secret.fresh())

    def check(self, rounds: int) -> None:
        """Checks a number of rounds against the privacy accounting.

        Raises:
            ValueError: There are more rounds than the budget pays for, or than were planned.
        """
        most = self.privacy.affordable
        if rounds > most:
            raise ValueError(
                f"rounds must be at most the {most:,} that {self.privacy!r} accounts for, got {rounds:,}"
            )

    def armed(self, state: ServerState, number: int, cohort: Any, plan: Plan) -> ServerState:
        """The server's state with the key of a round's noise.

        Args:
            state: The server's state before the round.
            number: The number of rounds done before the round.
            cohort: The positions of the round's clients.
            plan: The plan by which the cohort is cut into blocks.
        """
        # The key depends on all that decides what the round releases. A round that is computed again after a
        # kill has the same noise, so that nothing further is released; a round that differs in anything has
        # other noise, since the difference of two releases with the same noise would show the change.
        privacy = self.privacy
        settings: dict[str, Any] = {
            "bounds": privacy.clipping.bounds,
            "noise_multiplier": privacy.noise_multiplier,
        }
        if privacy.adaptive is not None:
            settings |= {"adaptive": repr(privacy.adaptive), "clip_factor": float(state.privacy.clip_factor)}
        if privacy.selection is not None:
            settings["selection"] = repr(privacy.selection)
        if privacy.noise_bands == 1:
            key = self.secret.noise_key(number, cohort, plan.to_json(), settings, state.global_params)
            return privacy.armed(state, key)
        rounds = range(number, number - privacy.noise_bands, -1)
        keys = [self.secret.correlated_noise_key(n, settings) if n >= 0 else _NO_KEY for n in rounds]
        return privacy.armed(state, np.stack(keys))


class NoiseDrawer:
    """Draws a round's noise in a thread of its own, while the clients of the round are computed.

    On a CPU both go on at the same time where a core is free.

    Args:
        protection: The protection of the simulation.
        shapes: The shapes of the global parameters.
    """

    def __init__(self, protection: Protection, shapes: Params):
        self._protection, self._thread = protection, SecondThread()
        # The older emitter, see `engine_options`, takes twice as long for noise.
        self._draw = jax.jit(
            lambda key: protection.privacy.drawn(key, shapes), compiler_options=engine_options(heavy=True)
        )

    def begin(self, state: ServerState, number: int, cohort: Any, plan: Plan) -> "Future[ServerState]":
        """Begins to draw; the result is the state with the key and the noise of the round.

        Args:
            state: The server's state before the round, whose parameters are waited for.
            number: The number of rounds done before the round.
            cohort: The positions of the round's clients.
            plan: The plan by which the cohort is cut into blocks.
        """

        def armed() -> ServerState:
            ready = self._protection.armed(state, number, cohort, plan)
            privacy = ready.privacy._replace(drawn=self._draw(ready.privacy.noise_key))
            return ready._replace(privacy=privacy)

        return self._thread.call(armed)
