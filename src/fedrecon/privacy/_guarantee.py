"""What a private algorithm's guarantee rests on: clipping, noise, and how its releases are accounted for."""

import functools
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, UInt32

from fedrecon.algorithms._base import ServerState
from fedrecon.core._model import Table
from fedrecon.core._tags import tagged
from fedrecon.core._types import Params
from fedrecon.data._sampling import Sampling
from fedrecon.errors import plain
from fedrecon.privacy._accounting import Accounting, Observer, accounting
from fedrecon.privacy._adaptive import AdaptiveClipping
from fedrecon.privacy._clipping import Clipping
from fedrecon.privacy._composition import composed
from fedrecon.privacy._correlated import noising_coefficients
from fedrecon.privacy._ledger import Ledger
from fedrecon.privacy._noise import normals_like
from fedrecon.privacy._row_selection import RowSelection, cut_to

KEY_WORDS = 8
_ROWS_NONCE = 2  # of the noise on counts of rows; that on deltas has 0, that on clients within the bound 1


class PrivacyState(NamedTuple):
    """What the server holds of the ledger.

    Attributes:
        releases: The number of noised sums that were released so far.
        noise_key: The next round's noise key, under correlated noise before those of the rounds before it,
            `[band, 8]`; 0 after it was used, and whenever the state can be seen.
        clip_factor: The clipping bounds of the next round over those of the first, which clients are told;
            `()`, the default, where the bounds stay.
        drawn: The next round's noise on deltas, of a standard deviation of 1, where it was drawn from
            `noise_key` before the round's step; `()`, the default, where the step draws it.
    """

    releases: Int[Array, ""]
    noise_key: UInt32[Array, "*band 8"]
    clip_factor: Any = ()
    drawn: Any = ()


@tagged("privacy/user_level_dp", later=("noise_bands", "earlier", "adaptive", "selection"))
@dataclass(frozen=True)
class UserLevelDP:
    """What a private algorithm's guarantee rests on; the attribute `privacy` of what `user_level_dp` returns.

    Attributes:
        clipping: Bounds on the norm of a client's delta.
        noise_multiplier: The standard deviation of the noise on the sum of deltas, in units of the joint
            clipping bound.
        delta: The delta of the guarantee, a probability.
        rounds: The number of planned rounds; no more may be run.
        sampling: The sampling that draws the cohort of each round.
        num_clients: The number of clients of the population, which is public.
        observer: The observer against whom the guarantee holds: `"model"`, the default, or `"server"`, as for
            `user_level_dp`.
        budget: The epsilon before which training stops; None, the default, where the noise was calibrated for
            all planned rounds.
        public_inputs: The inputs other than the clients' deltas that the parameters depend on, each with the
            public source that it comes from; by default none.
        noise_bands: The number of rounds over which noise is correlated; 1, the default, for independent
            noise in every round.
        earlier: The ledger of the private run whose parameters this one starts from, which it takes over;
            None, the default, for one that starts from nothing private.
        adaptive: The rule by which the bounds follow the clients' norms; None, the default, for bounds that
            stay.
        selection: The rule by which rows of tables are selected; None, the default, for all rows.
    """

    clipping: Clipping
    noise_multiplier: float
    delta: float
    rounds: int
    sampling: Sampling
    num_clients: int
    observer: Observer = "model"
    budget: float | None = None
    public_inputs: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    noise_bands: int = 1
    earlier: Ledger | None = None
    adaptive: AdaptiveClipping | None = None
    selection: RowSelection | None = None

    @functools.cached_property
    def accounting(self) -> Accounting:
        """How its releases are accounted for."""
        rule = accounting(self.sampling, self.num_clients, self.observer, self.rounds, self.noise_bands)
        return rule if self.earlier is None else composed(rule, self.earlier)

    def epsilon(self, releases: int) -> float:
        """Epsilon of so many releases, and of those before them in the ledger that was taken over."""
        relative = self.noise_multiplier / self.accounting.sensitivity
        return self.accounting.epsilon(relative, releases, self.delta)

    @functools.cached_property
    def affordable(self) -> int:
        """Rounds that the budget pays for, at most the planned ones."""
        if self.budget is None or self.epsilon(self.rounds) <= self.budget:
            return self.rounds
        low, high = 0, self.rounds
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if self.epsilon(middle) <= self.budget else (low, middle)
        return low

    def ledger(self, releases: int) -> Ledger:
        """The ledger after so many releases."""
        rule = self.accounting
        return Ledger(
            epsilon=self.epsilon(releases),
            delta=self.delta,
            unit="client",
            relation=rule.relation,
            observer=self.observer,
            mechanism=self._mechanism,
            accountant=rule.accountant,
            noise_multiplier=self.noise_multiplier,
            sensitivity=rule.sensitivity * self.clipping.bound,
            clip=self.clipping.bound,
            sampling=repr(self.sampling),
            releases=releases + (0 if self.earlier is None else self.earlier.releases),
            public_inputs=self.public_inputs,
            delta_noise_multiplier=self._delta_multiplier,
        )

    @property
    def _mechanism(self) -> str:
        name = "sum of clipped deltas with Gaussian noise"
        if self.noise_bands > 1:
            matrix = f"matrix mechanism, banded inverse square root of {self.noise_bands} bands"
            name = f"sum of clipped deltas with correlated Gaussian noise ({matrix})"
        if self.adaptive is not None:
            deviation, quantile = self.adaptive.count_deviation, self.adaptive.quantile
            name += (
                f", and as many counts of deltas within the bound with noise of {deviation:.4g}, by which "
                f"the bound follows their quantile {quantile:g} from {self.clipping.bound:g} on"
            )
        if self.selection is not None:
            deviation = self.selection.count_deviation(self.noise_multiplier)
            name += (
                f", cut to rows whose count of contributors, with noise of {deviation:.4g}, is at least "
                f"{self.selection.threshold:g} times that noise"
            )
        if self.earlier is None:
            return name
        return f"{name}, after {self.earlier.releases:,} releases of the run before: {self.earlier.mechanism}"

    def check(
        self, *, sampling: Any = None, rounds: int | None = None, num_clients: int | None = None
    ) -> None:
        """Refuses a run that is not the one which the guarantee was computed for.

        Raises:
            ValueError: Naming what differs.
        """
        given = {"sampling": sampling, "rounds": rounds, "num_clients": num_clients}
        for name, value in given.items():
            planned = getattr(self, name)
            if value is not None and value != planned:
                raise ValueError(
                    f"{name} must be what user_level_dp accounts for, {planned!r}, got {plain(value)}"
                )

    def armed(self, state: ServerState, noise_key: UInt32[np.ndarray, "*band 8"]) -> ServerState:
        """A state with the key of the next round's noise; without one, the round's parameters are NaN."""
        return state._replace(privacy=state.privacy._replace(noise_key=jnp.asarray(noise_key)))

    def drawn(self, noise_key: UInt32[Array, "*band 8"], like: Params) -> Params:
        """The noise on a sum of deltas, in units of the deviation of what a round adds anew.

        Args:
            noise_key: The round's key; under correlated noise `[band, 8]`, before those of the rounds before
                it, which are zeros where there was no such round.
            like: The sum of deltas, or its shapes.
        """
        if self.noise_bands == 1:
            return normals_like(noise_key, 0, like)
        return self._correlated(normals_like(noise_key[0], 0, like), noise_key[1:])

    def noised(
        self, total: Params, noise_key: UInt32[Array, "*band 8"], clip_factor: Any = 1.0, drawn: Any = ()
    ) -> Params:
        """A sum of clipped deltas with noise on every entry of every leaf; NaN for a key of zeros.

        Args:
            total: The sum of the cohort's clipped deltas.
            noise_key: The round's key; under correlated noise `[band, 8]`, before those of the rounds before
                it, which are zeros where there was no such round.
            clip_factor: The round's clipping bounds over those of the first round; 1.0 by default.
            drawn: What `drawn` gives for the key; `()`, the default, to draw it here.
        """
        key = noise_key if self.noise_bands == 1 else noise_key[0]
        scale = jnp.where(jnp.any(key != 0), self._delta_multiplier * self.clipping.bound, jnp.nan)
        if self.adaptive is not None:
            scale = scale * clip_factor
        noise = drawn if jax.tree.leaves(drawn) else self.drawn(noise_key, total)
        return jax.tree.map(lambda x, z: x + (scale * z).astype(x.dtype), total, noise)

    def cut_to_selected(
        self,
        noised: Params,
        counts: Mapping[str, Float[Array, "row"]],
        noise_key: UInt32[Array, "8"],
        tables: tuple[Table, ...],
    ) -> Params:
        """A noised sum of deltas that is 0 in the rows that are not selected, where there is a selection.

        Args:
            noised: The sum of deltas as `noised` returns it.
            counts: The sums of the clients' contributions to rows, by the path of a table.
            noise_key: The round's key; with a key of zeros all rows are selected.
            tables: The tables of the model.
        """
        assert self.selection is not None
        noise = normals_like(noise_key, _ROWS_NONCE, counts)
        armed = jnp.any(noise_key != 0)
        noise = jax.tree.map(lambda z: jnp.where(armed, z, jnp.nan), noise)
        return cut_to(self.selection.selected(counts, noise, self.noise_multiplier), tables, noised)

    def noise_deviation(self, releases: int, clip_factor: float = 1.0) -> float:
        """The standard deviation of the noise on every entry of the next sum.

        Args:
            releases: The number of noised sums before it, whose noise it takes back in part under correlated
                noise.
            clip_factor: The round's clipping bounds over those of the first round; 1 by default.
        """
        coefficients = noising_coefficients(min(self.noise_bands, releases + 1))
        independent = self._delta_multiplier * self.clipping.bound * clip_factor
        return independent * float(np.linalg.norm(coefficients))

    @property
    def _delta_multiplier(self) -> float:
        """The standard deviation of the noise on deltas over the joint bound; counts may have some, too."""
        if self.selection is not None:
            return self.selection.delta_noise_multiplier(self.noise_multiplier)
        return self.noise_multiplier if self.adaptive is None else self.adaptive.delta_noise_multiplier

    def _correlated(self, noise: Params, earlier: UInt32[Array, "band 8"]) -> Params:
        """The noise of a round and, weighted by the noising matrix, that of the rounds before it."""
        weights = jnp.asarray(noising_coefficients(self.noise_bands)[1:], jnp.float32)
        weights = weights * jnp.any(earlier != 0, axis=1)

        def add_round(total: Params, round: tuple[Array, Array]) -> tuple[Params, None]:
            weight, key = round
            again = normals_like(key, 0, noise)
            return jax.tree.map(lambda x, z: x + weight * z, total, again), None

        return jax.lax.scan(add_round, noise, (weights, earlier))[0]
