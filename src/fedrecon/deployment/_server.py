"""The server of a deployment: cohorts, sums, steps and checkpoints."""

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fedrecon._files import write_atomically
from fedrecon.algorithms._base import Algorithm, Broadcast, ServerState, Update
from fedrecon.core._mean import Mean
from fedrecon.core._model import leaves_of, with_leaves
from fedrecon.core._types import Params
from fedrecon.data._devices.staleness import discounts
from fedrecon.data._sampling import Sampling
from fedrecon.deployment._messages import Address, state_from, state_message
from fedrecon.deployment._refusals import Refusal, RefusedError
from fedrecon.deployment._sums import Sums
from fedrecon.deployment._wire import decode, encode
from fedrecon.errors import DataError, of_kind, whole_number
from fedrecon.privacy._guarantee import UserLevelDP
from fedrecon.privacy._secret import Secret
from fedrecon.simulation._client_step import first_state
from fedrecon.simulation._trained_state import TrainedState

NOISE_KEY_BYTES = 32


class Outcome(NamedTuple):
    """The result of an attempt at a round.

    Attributes:
        round: Number of rounds done before this one.
        attempt: Number of earlier attempts at the round.
        released: Whether the sum of the updates was applied to the global parameters.
        asked: Number of clients in the cohort.
        answered: Number of clients whose updates were counted.
        late: Number of answers to an earlier round or attempt, those of `stale` included.
        refused: Number of updates that were not counted, by the name of the reason.
        metrics: Means of the training metrics over the clients that answered.
        clients: Names of the clients that answered, in the order of the cohort.
        stale: Updates of earlier rounds that were counted, as pairs of a client's name and its round; none by
            default.
    """

    round: int
    attempt: int
    released: bool
    asked: int
    answered: int
    late: int
    refused: Mapping[str, int]
    metrics: Mapping[str, Mean]
    clients: Sequence[Any]
    stale: Sequence[tuple[Any, int]] = ()


class Server:
    """Runs an algorithm's rounds over clients in other processes.

    It draws each round's cohort, makes the broadcasts, adds up the updates, and applies the sum. The caller
    decides when a round ends: after a deadline, or with the last answer.

    Attributes:
        algorithm: The algorithm that is trained.
        clients: The names of all clients, in the order in which `sampling` numbers them.
        state: The server's state, whose arrays must not be changed in place. It knows `vocabularies`, so that
            `evaluate` and `Personalization` number clients by them.
        attempt: Number of earlier attempts at the present round.
        run: Name of the run, which messages carry.
        statistics: Shapes and types of the updates' `statistics`.
        vocabularies: For each field that the run numbers, the original id of each number; None if unknown.

    Args:
        algorithm: The algorithm that is trained.
        clients: Names of all clients, or a mapping from their names to their numbers of examples, which some
            samplings need.
        sampling: Draws the clients of each round's cohort.
        seed: Seed of the cohorts and of the initial parameters; 0 by default.
        run: Name of the run, which messages carry; `"run"` by default.
        global_params: The global parameters at the start; by default those with which the simulator starts
            from `seed`.
        min_answers: The least number of counted updates of a round, or the whole cohort where it is smaller;
            with fewer, the round is attempted again; 1 by default.
        max_weight: The largest weight of a client's update; an update with a larger one is refused; no limit
            by default.
        statistics: Shapes and types of the updates' `statistics`; by default updates have none.
        vocabularies: For each field that the run numbers, the original id of each number; None, the default,
            if they are unknown.
        secret: Secret that draws the cohorts of a private algorithm in place of `seed`, since its accounting
            rests on cohorts that nobody knows; a new one by default.
        max_staleness: The largest number of rounds by which an update may be late and still be counted, by
            the round in which it arrives; 0, the default, to refuse late updates.
        staleness_exponent: The weight of an update that is s rounds late is multiplied by
            `(1 + s) ** -staleness_exponent`; 0.5 by default.

    Raises:
        TypeError: `algorithm` is not an `Algorithm`.
        ValueError: There are fewer clients than `sampling` draws, two have the same name, the clients or the
            sampling are not those of the privacy accounting, its noise is one that a deployment lacks, or
            late updates are to be counted under it.
    """

    def __init__(
        self,
        algorithm: Algorithm,
        clients: Sequence[Any] | Mapping[Any, int],
        sampling: Sampling,
        *,
        seed: int = 0,
        run: str = "run",
        global_params: Params | None = None,
        min_answers: int = 1,
        max_weight: float = float("inf"),
        statistics: Any = (),
        vocabularies: Mapping[str, Any] | None = None,
        secret: Secret | None = None,
        max_staleness: int = 0,
        staleness_exponent: float = 0.5,
    ):
        of_kind(Algorithm, algorithm=algorithm)
        min_answers = whole_number("min_answers", min_answers, 0)
        self.algorithm, self.clients, self.run = algorithm, list(clients), run
        if len(set(self.clients)) < len(self.clients):
            raise ValueError("clients must have different names, two have the same")
        sampling.check(len(self.clients))
        counts = clients.values() if isinstance(clients, Mapping) else np.ones(len(self.clients), np.int64)
        self._num_examples = np.array([*counts], np.int64)
        self._sampling, self._min_answers = sampling, min_answers
        self._cohort_seed = seed
        if algorithm.takes_each:
            raise ValueError(f"algorithm must be one whose server takes the sum of deltas, got {algorithm!r}")
        if algorithm.row_counts and not statistics:
            raise ValueError(
                f"algorithm must not count rows, which a deployment cannot yet, got {algorithm!r}"
            )
        self._discounts = discounts(max_staleness, staleness_exponent)
        if algorithm.privacy is not None:
            check_noise(algorithm.privacy)
            if (
                max_staleness
            ):  # a round could hold two updates of a client, and more clients than a cohort has
                raise ValueError(f"max_staleness must be 0 for a private algorithm, got {max_staleness}")
            algorithm.privacy.check(sampling=sampling, num_clients=len(self.clients))
            self._cohort_seed = (secret or Secret.fresh()).cohort_seed
        self._state: ServerState = first_state(algorithm, seed, global_params)[0]
        self.vocabularies = vocabularies
        self.attempt, self.statistics = 0, statistics
        shapes = jax.eval_shape(lambda: self._state.global_params)
        self._tables = {t.leaf: leaves_of(shapes)[t.leaf].shape[0] for t in algorithm.model.tables}
        self._sums = Sums(shapes, frozenset(self._tables), statistics, max_weight)
        self._step = jax.jit(algorithm.server_update)
        self._places = {name: i for i, name in enumerate(self.clients)}
        self._counted = np.full(len(self.clients), -1, np.int32)
        self._begin()

    @property
    def state(self) -> TrainedState:
        return TrainedState.of(self._state, self.vocabularies)

    @property
    def round(self) -> int:
        """Number of rounds done."""
        return self._round

    @property
    def answered(self) -> frozenset[Any]:
        """Names of the clients whose updates of this round were counted."""
        return frozenset(self._answered)

    def cohort(self) -> list[Any]:
        """Names of the clients in the present round's cohort; the same at every call in one round."""
        return list(self._cohort)

    def last_counted(self, client: Any) -> int:
        """The last round that counted an update of the client; -1 if there is none.

        The client's state after that round is the one to continue from: its state after a later round belongs
        to an update that was never applied.
        """
        return int(self._counted[self._places[client]])

    def address(self, client: Any = "") -> Address:
        """Run, round, attempt and client for messages of the present round."""
        return Address(self.run, self._round, self.attempt, str(client))

    def broadcast(self, rows: Mapping[str, Any] | None = None) -> Broadcast:
        """The broadcast of the present round.

        Args:
            rows: The rows of each table that the client requested, by the leaf's path; None, the default, for
                whole tables.

        Raises:
            RefusedError: A row does not exist, or a leaf is not a table.
        """
        params = self._state.global_params
        if rows is not None:
            self.check_rows(rows)
            leaves = leaves_of(params)
            small = {leaf: np.asarray(leaves[leaf])[np.asarray(ids)] for leaf, ids in rows.items()}
            params = with_leaves(params, small)
        return self.algorithm.broadcast(self._state)._replace(global_params=params)

    def check_rows(self, rows: Mapping[str, Any]) -> None:
        """Checks the rows that a client requests.

        Args:
            rows: The row numbers of each table, by the leaf's path.

        Raises:
            RefusedError: A row is out of range, the rows are not a list of whole numbers, or a leaf is not a
                table.
        """
        for leaf, ids in rows.items():
            self._check_ids(leaf, np.asarray(ids))

    def _check_ids(self, leaf: str, ids: np.ndarray) -> None:
        if leaf not in self._tables:
            tables = sorted(self._tables)
            raise RefusedError(Refusal.WRONG_LEAF, f"rows can be asked of {tables}, got {leaf[:80]!r}")
        size = self._tables[leaf]
        if ids.dtype.kind not in "iu" or ids.ndim != 1:
            raise RefusedError(Refusal.WRONG_DTYPE, f"rows of {leaf!r} must be a list of whole numbers")
        if ids.size and not 0 <= ids.min() <= ids.max() < size:
            raise RefusedError(Refusal.ROW_RANGE, f"rows of {leaf!r} must lie from 0 to {size - 1}")

    def add(
        self, client: Any, update: Update, *, round: int | None = None, attempt: int | None = None
    ) -> Refusal | None:
        """Adds a client's update to the present round's sum.

        An update of an earlier round is counted where `max_staleness` allows it, the client was in that
        round's cohort, and no update of the client for that round or a later one has been applied.

        Args:
            client: Name of the client.
            update: The client's update.
            round: The round that the client answered; None, the default, for the present one.
            attempt: The attempt at the round that the client answered; None, the default, for the present
                one.

        Returns:
            None for an update that was counted; else the reason why it was not, and nothing but the number of
            refusals has changed.
        """
        try:
            staleness = self._staleness(client, round, attempt)
            self._sums.add(update, float(self._discounts[staleness]))
        except RefusedError as error:
            return self.refuse(error.reason)
        if staleness:
            self._stale[client, self._round - staleness] = None
        else:
            self._answered.add(client)
        return None

    def refuse(self, reason: Refusal) -> Refusal:
        """Counts a message that cannot be used under its reason, and returns the reason."""
        self._refused[reason.value] += 1
        return reason

    def _staleness(self, client: Any, round: int | None, attempt: int | None) -> int:
        """By how many rounds an update is late, after a check that it may be counted.

        Raises:
            RefusedError: The update answers another round or attempt, the client was not asked, or it has
                answered.
        """
        round = self._round if round is None else round
        attempt = self.attempt if attempt is None else attempt
        members, staleness = self._members, 0
        if (round, attempt) != (self._round, self.attempt):
            self._late += (round, attempt) < (self._round, self.attempt)
            staleness = self._round - round
            if not 0 < staleness < len(self._discounts) or round < 0:
                raise RefusedError(
                    Refusal.WRONG_ROUND,
                    f"this is round {self._round}, attempt {self.attempt}; got {round}, {attempt}",
                )
            members = set(self._cohort_of(round))
        if client not in members:
            raise RefusedError(Refusal.NOT_ASKED, f"the client {client!r} is not in the round's cohort")
        if staleness and self._counted[self._places[client]] > round:
            raise RefusedError(Refusal.WRONG_ROUND, f"a later update of {client!r} than {round} was counted")
        answered = (client, round) in self._stale or self._counted[self._places[client]] == round
        if answered if staleness else client in self._answered:
            raise RefusedError(Refusal.DUPLICATE, f"the client {client!r} has answered this round")
        return staleness

    def step(self) -> Outcome:
        """Ends the attempt: applies the sum of the updates, or begins the round again after too few."""
        answers = len(self._answered) + len(self._stale)
        enough = answers >= min(self._min_answers, len(self._cohort))
        state = self._step(self._armed(), self._sums.update()) if enough else self._state
        # Each update is finite, but their sum may overflow float32, which would destroy the parameters.
        released = enough and _is_finite(state.global_params)
        metrics = {name: Mean(*pair) for name, pair in self._sums.metrics.items()}
        counts = len(self._cohort), len(self._answered), self._late, dict(self._refused)
        clients = [name for name in self._cohort if name in self._answered]
        outcome = Outcome(self._round, self.attempt, released, *counts, metrics, clients, list(self._stale))
        if released:
            self._state, self.attempt = state, 0
            for name, number in [*self._stale, *((name, outcome.round) for name in self._answered)]:
                place = self._places[name]
                self._counted[place] = max(self._counted[place], number)
        else:
            self.attempt += 1
        self._begin()
        return outcome

    def _armed(self) -> ServerState:
        """The state with the key of the round's noise, where the algorithm is private.

        Raises:
            ValueError: The privacy accounting allows no further round.
        """
        privacy = self.algorithm.privacy
        if privacy is None:
            return self._state
        if self._round >= privacy.affordable:
            raise ValueError(
                f"rounds must be at most the {privacy.affordable:,} that {privacy!r} accounts for"
            )
        # A new key at every attempt. A sum that is computed again after a kill may be of other answers, and
        # the same noise on two sums would cancel in their difference; the first one was seen by nobody, since
        # the state is on the disk before a broadcast has it.
        return privacy.armed(self._state, np.frombuffer(os.urandom(NOISE_KEY_BYTES), np.uint32))

    def _begin(self) -> None:
        self._round = int(self._state.round)
        self._cohort = self._cohort_of(self._round)
        self._members, self._answered = set(self._cohort), set[Any]()
        self._late, self._refused = 0, Counter[str]()
        self._stale = dict[tuple[Any, int], None]()  # a dictionary keeps the order of arrival
        self._sums.clear()

    def _cohort_of(self, round: int) -> list[Any]:
        positions = self._sampling.indices(round, self._num_examples, self._cohort_seed)
        return [self.clients[i] for i in positions]

    def checkpoint(self, path: Path) -> None:
        """Writes the state between rounds to a file atomically; answers of the present round are not in it.

        Args:
            path: The file; one that exists is replaced.

        Raises:
            OSError: The file cannot be written; an earlier one of that name is then unchanged.
        """
        message = state_message(self.address(), (self._state, self._counted), {})
        write_atomically(Path(path), encode(message))

    def restore(self, path: Path) -> None:
        """Restores a state that `checkpoint` wrote, and begins its round.

        The round counts as another attempt, so that late answers to the earlier process are not taken for
        answers to this one.

        Args:
            path: The file that `checkpoint` wrote.

        Raises:
            DataError: The file is damaged, or of another run or algorithm.
        """
        try:
            message = decode(Path(path).read_bytes(), max_bytes=2**63)
            state, counted = state_from(message, (self._state, self._counted))
        except RefusedError as error:
            raise DataError(f"{path}: this checkpoint cannot be used: {error}") from None
        if message.run != self.run:
            raise DataError(f"{path}: a checkpoint must be of the run {self.run!r}, got {message.run!r}")
        self._state, self.attempt = state, message.attempt + 1
        self._counted = np.array(counted)
        self._begin()


def check_noise(privacy: UserLevelDP) -> None:
    """Refuses what a server of a deployment cannot do yet.

    Raises:
        ValueError: The noise is correlated over rounds, the clipping bound adapts, or rows are selected.
    """
    # Correlated noise needs the keys of earlier rounds, which no file of a deployment holds; an adaptive
    # bound needs weights that are summed as counts, and clients that are told the bound.
    if privacy.noise_bands > 1 or privacy.adaptive is not None:
        quantile = "none" if privacy.adaptive is None else privacy.adaptive.quantile
        raise ValueError(
            f"a deployment has neither correlated noise nor an adaptive clipping bound yet: set "
            f"privacy.noise_bands = 1 and privacy.clip_quantile = 'none', got {privacy.noise_bands} and "
            f"{quantile!r}"
        )
    if privacy.selection is not None:
        raise ValueError(
            f"a deployment cannot select rows yet: set privacy.row_selection = 'none', got "
            f"{privacy.selection!r}"
        )


def _is_finite(params: Params) -> bool:
    return all(bool(jnp.all(jnp.isfinite(x))) for x in jax.tree.leaves(params))
