"""User-level differential privacy for any algorithm whose clients send deltas."""

import math
from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any, cast

import jax
import jax.numpy as jnp

from fedrecon._kernels.gathered_rows import are_distinct
from fedrecon.algorithms._base import Algorithm, Broadcast, ServerState, Update
from fedrecon.algorithms._building_blocks import uniform
from fedrecon.core._examples import Examples
from fedrecon.core._mean import Mean
from fedrecon.core._splits import NoSplit
from fedrecon.core._types import Params, PRNGKey
from fedrecon.data._sampling import Passes, Sampling
from fedrecon.errors import of_kind, plain, whole_number
from fedrecon.privacy._accounting import Observer, accounting, calibrate
from fedrecon.privacy._adaptive import AdaptiveClipping
from fedrecon.privacy._clipping import Clipping, dense, without_padding
from fedrecon.privacy._composition import composed
from fedrecon.privacy._correlated import best_bands
from fedrecon.privacy._guarantee import KEY_WORDS, PrivacyState, UserLevelDP
from fedrecon.privacy._ledger import Ledger
from fedrecon.privacy._noise import normals_like
from fedrecon.privacy._row_selection import (
    RowSelection,
    bounded_contributions,
    check_tables,
    counted_tables,
)

_COUNT_NONCE = 1  # of the noise on counts of clients within the bound; that on deltas has 0, on rows' 2
_LEAST_LEFT = 1e-6  # of an epsilon that was spent: what must be left of the one asked for


def user_level_dp(
    algorithm: Algorithm,
    *,
    clip: float | Mapping[str, float] | Clipping,
    rounds: int,
    sampling: Sampling,
    num_clients: int,
    delta: float | None = None,
    epsilon: float | None = None,
    noise_multiplier: float | None = None,
    budget: float | None = None,
    observer: str = "model",
    public_inputs: Mapping[str, str] = MappingProxyType({}),
    noise_bands: int | None = None,
    earlier: Ledger | None = None,
    clip_quantile: float | None = None,
    unprotected_metrics: bool = False,
    select_rows: RowSelection | None = None,
) -> Algorithm:
    """An algorithm whose released parameters are (epsilon, delta)-differentially private for each client.

    A client's delta is clipped, and nothing else leaves it: no rows, no metrics, a weight that is the same
    for all. The server adds Gaussian noise to every entry of the sum of the deltas and divides it by a public
    number. What a client gets is computed on its own device from these parameters and its own examples, so
    that nothing else that others see depends on them (joint differential privacy).

    Noise needs a secret key that the experiment's seed does not determine: `Simulation` and `train` draw or
    read one. Noise in single precision is not the ideal Gaussian noise of the proof (Mironov, 2012).

    Args:
        algorithm: The algorithm to protect; its clients must weigh the same.
        clip: Bound on the Euclidean norm of a client's delta; or one for each group of leaves, by the path
            of a leaf or of what leaves lie below. Several bounds are joint: their squares add up.
        rounds: The number of planned rounds, at least 1; no more may be run.
        sampling: The sampling that draws the cohort of each round.
        num_clients: The number of clients of the population, a public number.
        delta: The delta of the guarantee, above 0 and below 1 / `num_clients`; it must be given.
        epsilon: The epsilon within which all planned rounds stay; the noise is calibrated for it. None, the
            default, where `noise_multiplier` is given.
        noise_multiplier: The standard deviation of the noise on the sum of deltas, in units of the joint
            clipping bound. None, the default, where `epsilon` is given.
        budget: The epsilon before which training stops, given with `noise_multiplier`; None, the default, for
            no such end.
        observer: The observer against whom the guarantee holds: `"model"`, the default, sees the released
            parameters but not who took part; `"server"` knows who takes part, so that sampling amplifies
            nothing.
        public_inputs: The inputs other than the clients' deltas that the parameters depend on, such as the
            items, each with the public source that it comes from; by default none.
        noise_bands: Rounds over which noise is correlated, so that rounds take back noise of those before
            them; only under `Passes(..., order="fixed")`. None, the default, for the number of 1, 2, 4, 8 and
            16 with the least noise in sums over rounds, and 1 under other samplings and beside
            `clip_quantile` and `select_rows`, whose counts have no such noise. A round draws its noise as
            many times.
        earlier: The ledger of the private run whose parameters this one starts from: epsilon, delta and
            budget are then of the releases of both. None, the default, for none.
        clip_quantile: The share of clients whose deltas are to be within the bounds, which then change by the
            round from `clip` on, all by the same factor. The counts that this takes are noised, and in the
            ledger. None, the default, for bounds that stay.
        unprotected_metrics: Whether simulations record the clients' training metrics, which no client sends
            and epsilon does not cover: in a run folder in `metrics_unprotected.csv`, which must stay secret.
            False by default.
        select_rows: How the rows of the model's tables are selected that a round has deltas of, by noised
            counts that the ledger covers: for tables of which a cohort touches few rows. All other rows get
            a delta of 0; a server optimiser with momentum may move them all the same. None, the default, for
            all rows.

    Returns:
        The algorithm, whose `privacy` says what the guarantee rests on.

    Raises:
        TypeError: A global parameter does not hold floating-point numbers.
        ValueError: A number is out of its range, or the algorithm or sampling cannot be accounted for.
        ModuleNotFoundError: The accountant's package is not installed.

    References:
        McMahan, Ramage, Talwar and Zhang, Learning Differentially Private Recurrent Language Models, ICLR
        2018; Kearns, Pai, Roth and Ullman, Mechanism Design in Large Games: Incentives and Privacy, ITCS
        2014, for joint differential privacy.
    """
    of_kind(Algorithm, algorithm=algorithm)
    if algorithm.privacy is not None:
        raise ValueError(f"algorithm must not be private before, got one with {algorithm.privacy!r}")
    if algorithm.exchanges != "parameters":
        raise ValueError(
            f"algorithm must be one whose clients send deltas, but {algorithm.name} exchanges "
            f"{algorithm.exchanges}"
        )
    if algorithm.takes_each:
        raise ValueError(
            f"algorithm must be one whose server takes the sum of deltas, since noise is calibrated for a "
            f"sum; robust aggregation needs each delta, got {algorithm!r}"
        )
    if "min_contributors" in algorithm.hyperparameters:
        raise ValueError(
            f"algorithm must not be one with min_contributors: a count without noise is no guarantee, and "
            f"not in the ledger; give select_rows in its place, got {algorithm!r}"
        )
    weight = algorithm.hyperparameters.get("client_weight", uniform)
    if weight is not uniform:
        raise ValueError(
            f"client_weight must be uniform under differential privacy, got "
            f"{getattr(weight, '__name__', weight)!r}: weights by examples tell how many a client has"
        )
    rounds = whole_number("rounds", rounds, 1)
    num_clients = whole_number("num_clients", num_clients, 1)
    _check_numbers(num_clients, delta, epsilon, noise_multiplier, budget)
    if observer not in ("model", "server"):
        raise ValueError(f"observer must be 'model' or 'server', got {observer!r}")
    sampling.check(num_clients)
    clipping = Clipping.of(clip)
    public_inputs = MappingProxyType(dict(sorted(public_inputs.items())))
    shapes = jax.eval_shape(algorithm.model.init_global, jax.random.key(0))
    clipping.check(shapes)
    against = cast(Observer, observer)
    if noise_bands is None:
        noise_bands, counts = 1, clip_quantile is not None or select_rows is not None
        if isinstance(sampling, Passes) and sampling.order == "fixed" and not counts:
            noise_bands = best_bands(rounds, sampling.rounds_of_pass(num_clients))
    noise_bands = whole_number("noise_bands", noise_bands, 1)
    rule = accounting(sampling, num_clients, against, rounds, noise_bands)
    delta = float(delta or 0)
    if earlier is not None:
        rule = composed(rule, earlier)
        spent = rule.epsilon(1.0, 0, delta)
        for name, value in (("epsilon", epsilon), ("budget", budget)):
            if value is not None and value <= spent * (1 + _LEAST_LEFT):
                raise ValueError(
                    f"{name} must be above the {spent:.4g} that the run before has spent, got {value!r}"
                )
    if noise_multiplier is None:
        noise_multiplier = rule.sensitivity * calibrate(rule, float(epsilon or 0), delta, rounds)
    adaptive = None
    for name, counted in (("clip_quantile", clip_quantile), ("select_rows", select_rows)):
        if counted is not None and noise_bands > 1:
            raise ValueError(
                f"{name} must be None under correlated noise, which is not drawn for counts, got "
                f"{counted!r} with {noise_bands} bands"
            )
    if select_rows is not None:
        of_kind(RowSelection, select_rows=select_rows)
        check_tables("select_rows", algorithm)
        if clip_quantile is not None:
            raise ValueError(f"select_rows must be None beside clip_quantile, got {select_rows!r}")
    if clip_quantile is not None:
        adaptive = AdaptiveClipping.of(clip_quantile, noise_multiplier, rule)
    privacy = UserLevelDP(
        clipping,
        noise_multiplier,
        delta,
        rounds,
        sampling,
        num_clients,
        against,
        budget,
        public_inputs,
        noise_bands,
        earlier,
        adaptive,
        select_rows,
    )
    if privacy.affordable < 1:
        raise ValueError(
            f"budget must pay for a round, but one with noise_multiplier {noise_multiplier:g} takes epsilon "
            f"{privacy.epsilon(1):.4g}, got {plain(budget)}"
        )
    return _private(algorithm, privacy, unprotected_metrics)


def _private(algorithm: Algorithm, privacy: UserLevelDP, unprotected_metrics: bool) -> Algorithm:
    tables = algorithm.model.tables
    by_rows = privacy.selection is None and _gives_examples_once(algorithm)

    def init(key: PRNGKey, global_params: Params | None = None, /) -> ServerState:
        shape = (KEY_WORDS,) if privacy.noise_bands == 1 else (privacy.noise_bands, KEY_WORDS)
        factor = () if privacy.adaptive is None else jnp.ones(())
        zero = PrivacyState(jnp.zeros((), jnp.int32), jnp.zeros(shape, jnp.uint32), factor)
        return algorithm.init(key, global_params)._replace(privacy=zero)

    def unprotected_update(
        broadcast: Broadcast, client_state: Any, examples: Examples, key: Any
    ) -> tuple[Update, Any]:
        update, client_state = algorithm.client_update(broadcast, client_state, examples, key)
        if jax.tree.leaves(update.statistics):
            raise ValueError(
                f"an Update's statistics must be empty under user_level_dp, which protects the delta alone, "
                f"got {jax.tree.map(jnp.shape, update.statistics)}"
            )
        # A client without weight, since it has no query example or was dropped, adds 0 and counts as 1.
        delta, rows = _summable(update.delta.value(), update.rows, broadcast.global_params, by_rows)
        if privacy.adaptive is None:
            mean = Mean(privacy.clipping(delta), jnp.ones(()))
        else:  # the weight, which is summed but divides nothing here, is the count
            mean = Mean(*privacy.adaptive.clip(privacy.clipping, delta, broadcast.extra))
        counts = () if privacy.selection is None else bounded_contributions(tables, mean.total)
        return Update(mean, rows, update.metrics, counts), client_state

    def client_update(
        broadcast: Broadcast, client_state: Any, examples: Examples, key: Any
    ) -> tuple[Update, Any]:
        update, client_state = unprotected_update(broadcast, client_state, examples, key)
        return update._replace(metrics={}), client_state

    def server_update(state: ServerState, update: Update) -> ServerState:
        before = state.privacy
        factor: Any = before.clip_factor
        noised = privacy.noised(update.delta.total, before.noise_key, factor, before.drawn)
        if privacy.selection is not None:
            noised = privacy.cut_to_selected(noised, update.statistics, before.noise_key, tables)
        if privacy.adaptive is not None:
            noise = normals_like(before.noise_key, _COUNT_NONCE, factor)
            # Without a key there is no noise, and the bound must not follow the bare count.
            noise = jnp.where(jnp.any(before.noise_key != 0), noise, jnp.nan)
            factor = privacy.adaptive.next_factor(
                factor, update.delta.weight, noise, privacy.accounting.divisor
            )
        divisor = jnp.asarray(privacy.accounting.divisor, jnp.float32)
        new = algorithm.server_update(state, Update(Mean(noised, divisor), {}, {}))
        used = PrivacyState(before.releases + 1, jnp.zeros_like(before.noise_key), factor)
        return new._replace(privacy=used)

    return replace(
        algorithm,
        init=init,
        client_update=client_update,
        server_update=server_update,
        privacy=privacy,
        announce=None if privacy.adaptive is None else lambda state: state.privacy.clip_factor,
        unprotected_update=unprotected_update if unprotected_metrics else None,
        row_counts=() if privacy.selection is None else counted_tables(tables),
        hyperparameters={**algorithm.hyperparameters, "privacy": privacy},
    )


def _gives_examples_once(algorithm: Algorithm) -> bool:
    """Whether the algorithm and its split are the library's own, which give no example to a solver twice.

    Others should not either, see `Examples`, but a bound on what clients send cannot rest on that.
    """
    own = __name__.partition(".")[0]
    parts = algorithm.client_update, type(algorithm.hyperparameters.get("split", NoSplit()))
    is_wrapped = "compression" in algorithm.hyperparameters  # then the first is the library's in any case
    return not is_wrapped and all(part.__module__.partition(".")[0] == own for part in parts)


def _summable(
    delta: Params, rows: dict[str, Any], like: Params, by_rows: bool
) -> tuple[Params, dict[str, Any]]:
    """A delta in which no row of a table comes twice, and the numbers of its rows: `{}` for whole tables.

    In a simulation the rows of a client are known to be distinct, and the norm over them is that over the
    table. Everywhere else an update is of whole tables, since its rows would tell the client's examples.

    Args:
        delta: The delta of every leaf; for a table that `rows` names, the delta of these rows.
        rows: The numbers of the rows of each table.
        like: The global parameters.
        by_rows: Whether rows may stay where they are known to be distinct.
    """
    if by_rows and all(are_distinct(ids) for ids in rows.values()):
        return without_padding(delta, rows, like), rows
    return dense(delta, rows, like), {}


def _check_numbers(num_clients: int, delta: Any, epsilon: Any, noise_multiplier: Any, budget: Any) -> None:
    if delta is None:
        raise ValueError("delta must be given, since epsilon alone promises nothing for Gaussian noise")
    if not 0 < delta < 1 / num_clients:
        raise ValueError(
            f"delta must be above 0 and below 1 / num_clients = {1 / num_clients:.3g}, got {plain(delta)}: "
            f"with more, publishing one client's data would be allowed"
        )
    if (epsilon is None) == (noise_multiplier is None):
        both = "neither" if epsilon is None else "both"
        raise ValueError(f"either epsilon or noise_multiplier must be given, got {both}")
    if epsilon is not None and budget is not None:
        raise ValueError("either epsilon or budget must be given, got both: epsilon is a budget already")
    for name, value in (("epsilon", epsilon), ("noise_multiplier", noise_multiplier), ("budget", budget)):
        if value is not None and not 0 < value < math.inf:
            raise ValueError(f"{name} must be a finite number above 0, got {plain(value)}")
