"""Federated Reconstruction's Algorithm 1 for matrix factorisation, transcribed in plain NumPy.

Written to be read beside the paper: one function per idea, one client at a time, dense tables. Nothing here
is random: whoever calls gives the cohorts, each client's examples *in the order used*, and its initial local
parameters. Rounds are counted from 0: `round` is the number of rounds done before this one.

References:
    Singhal et al., Federated Reconstruction, NeurIPS 2021, Algorithm 1.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from tests.oracle.factorization import Penalty, Ratings, Reduction, gradients, predict, ridge
from tests.oracle.optimizers import Optimizer, OptimizerState, Params

Split = Callable[[int], tuple[np.ndarray, np.ndarray]]  # number of examples -> (support, query) positions


def alternate_batches(batch_size: int = 5) -> Split:
    """Even-numbered batches are support, odd-numbered ones query; the last may be short."""
    return lambda n: _by(np.arange(n) // batch_size % 2 == 0)


def alternate_examples() -> Split:
    """Examples 0, 2, 4 … are support, 1, 3, 5 … query."""
    return alternate_batches(1)


def first_fraction(support: float = 0.5) -> Split:
    """The first floor(support * n) examples are support, the rest query."""
    return lambda n: _by(np.arange(n) < int(support * n))


def no_split() -> Split:
    """All examples are both."""
    return lambda n: (np.arange(n), np.arange(n))


def _by(is_support: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return np.flatnonzero(is_support), np.flatnonzero(~is_support)


BATCHES_OF_5 = alternate_batches(5)
NO_PENALTY = Penalty()


@dataclass(frozen=True)
class Stage:
    """Mini-batch gradient descent over a set of examples, in their order.

    Attributes:
        optimizer: Its state is fresh in every call.
        batch_size: None takes the whole set as one batch.
        epochs: Passes over the set.
        adaptive_epochs: min(round + 1, epochs) passes instead.
        max_steps: Most steps, over all epochs; None for no limit.
        reduction: Of a batch's loss.
    """

    optimizer: Optimizer
    batch_size: int | None = 5
    epochs: int = 1
    adaptive_epochs: bool = False
    max_steps: int | None = None
    reduction: Reduction = "mean"


@dataclass(frozen=True)
class Ridge:
    """Exact reconstruction: minimises the sum of squared errors + penalty over the support set."""


@dataclass(frozen=True)
class Settings:
    """What the clients and the server do.

    Attributes:
        reconstruct: Fits the local parameters on the support set.
        update: Fits the global ones on the query set.
        server: The server's optimiser; its state lives over all rounds.
        split: Support and query set in training.
        evaluation_split: Support and query set in ReconEval.
        joint: Whether the update stage trains the local parameters too.
        client_weight: "examples": those processed by the update stage, counted again in each epoch;
            "uniform": 1 where there was any.
        penalty: On the local parameters, added to the SUM of a stage's loss.
        offset: A constant added to every prediction (a fixed global bias).
        dtype: In which all is computed; sums of metrics are in float64.
    """

    reconstruct: Stage | Ridge
    update: Stage
    server: Optimizer
    split: Split = BATCHES_OF_5
    evaluation_split: Split = BATCHES_OF_5
    joint: bool = False
    client_weight: Literal["examples", "uniform"] = "examples"
    penalty: Penalty = NO_PENALTY
    offset: float = 0.0
    dtype: type[np.floating] = np.float64


class Totals(NamedTuple):
    """Sums over scored examples."""

    squared_error: float = 0.0
    hits: int = 0  # |error| <= 0.5
    examples: int = 0


class ClientUpdate(NamedTuple):
    """What `client_update` found; only the first three would leave the client."""

    delta: Params  # new minus old global leaves, not weighted
    weight: float
    totals: Totals  # of the update stage, each prediction made before that batch's step
    local: Params  # after reconstruction, and after the update stage where that is joint


def client_update(
    settings: Settings, params: Params, examples: Ratings, round: int, initial_local: Params
) -> ClientUpdate:
    """One client's part of a round: reconstruct on support, update on query.

    Args:
        settings: What to do.
        params: The global leaves (`item_factors`, …; see `factorization`).
        examples: The client's examples, in the order used.
        round: Rounds done before this one; only `adaptive_epochs` asks for it.
        initial_local: The local leaves that reconstruction starts from (`user_factors`, …).
    """
    params = cast(settings, params)
    support, query = parts(settings, settings.split, examples)
    local = reconstruct(settings, params, support, round, cast(settings, initial_local))
    trained = [*params, *local] if settings.joint else list(params)
    new, totals = descend(settings, settings.update, {**params, **local}, trained, query, round)
    delta = {name: new[name] - old for name, old in params.items()}
    weight = totals.examples if settings.client_weight == "examples" else totals.examples > 0
    return ClientUpdate(delta, float(weight), totals, {name: new[name] for name in local})


def parts(settings: Settings, split: Split, examples: Ratings) -> tuple[Ratings, Ratings]:
    """Support and query set, the ratings in the settings' type."""
    support, query = split(len(examples.items))
    examples = examples._replace(ratings=examples.ratings.astype(settings.dtype))
    return examples.take(support), examples.take(query)


def reconstruct(settings: Settings, params: Params, support: Ratings, round: int, local: Params) -> Params:
    """The local leaves fitted on the support set, the global ones frozen."""
    both = {**params, **local}
    if isinstance(settings.reconstruct, Ridge):
        return ridge(both, support, settings.penalty, settings.offset)
    fitted, _ = descend(settings, settings.reconstruct, both, list(local), support, round)
    return {name: fitted[name] for name in local}


def descend(
    settings: Settings, stage: Stage, params: Params, trained: list[str], examples: Ratings, round: int
) -> tuple[Params, Totals]:
    """Steps on the leaves named in `trained`; each batch is scored before its step."""
    state = stage.optimizer.start({name: params[name] for name in trained})
    totals = Totals()
    for batch in steps(stage, examples, round):
        totals = add(totals, score(settings, params, batch))
        slopes = gradients(
            params, batch, len(examples.items), stage.reduction, settings.penalty, settings.offset
        )
        updates, state = stage.optimizer.step({name: slopes[name] for name in trained}, state)
        params = {**params, **{name: params[name] + update for name, update in updates.items()}}
    return params, totals


def steps(stage: Stage, examples: Ratings, round: int) -> Iterator[Ratings]:
    """Step t uses batch t mod the number of batches; the last batch of an epoch may be short."""
    n = len(examples.items)
    size = stage.batch_size or max(n, 1)
    starts = range(0, n, size)
    epochs = min(round + 1, stage.epochs) if stage.adaptive_epochs else stage.epochs
    count = epochs * len(starts)
    for t in range(count if stage.max_steps is None else min(count, stage.max_steps)):
        start = starts[t % len(starts)]
        yield examples.take(slice(start, start + size))


def score(settings: Settings, params: Params, examples: Ratings) -> Totals:
    """Squared error and hits of the current parameters."""
    errors = predict(params, examples.items, settings.offset) - examples.ratings
    return Totals(float(np.sum(errors**2, dtype=np.float64)), int(np.sum(np.abs(errors) <= 0.5)), len(errors))


def server_update(
    settings: Settings, params: Params, state: OptimizerState, updates: Sequence[ClientUpdate]
) -> tuple[Params, OptimizerState]:
    """A step along the weighted mean delta; without any weight, parameters and state stay as they were."""
    weight = sum(update.weight for update in updates)
    if weight == 0:
        return params, state
    slopes = {}
    for name, leaf in params.items():
        slopes[name] = -sum((u.weight * u.delta[name] for u in updates), np.zeros_like(leaf)) / weight
    moves, state = settings.server.step(slopes, state)
    return {name: params[name] + moves[name] for name in params}, state


def run(
    settings: Settings,
    initial: Params,
    cohorts: Iterable[Sequence[int]],
    clients: Sequence[Ratings],
    initial_local: Callable[[int, int], Params],
) -> tuple[Params, list[dict[str, float]]]:
    """Trains for one round per cohort.

    Args:
        settings: What to do.
        initial: The global leaves before the first round.
        cohorts: Per round, the clients in it: positions in `clients`.
        clients: Each client's examples, in the order used in every round.
        initial_local: (round, position of the client) -> the local leaves that reconstruction starts from.

    Returns:
        The global leaves after the last round, and each round's `mse`, `accuracy`, `examples` (see `pooled`),
        `empty` (clients of weight 0) and `dropped` (clients whose delta is not finite: neither their delta
        nor their weight nor their metrics count).
    """
    params = cast(settings, initial)
    state, history = settings.server.start(params), []
    for round, cohort in enumerate(cohorts):
        found = [client_update(settings, params, clients[c], round, initial_local(round, c)) for c in cohort]
        finite = [u for u in found if all(np.isfinite(leaf).all() for leaf in u.delta.values())]
        params, state = server_update(settings, params, state, finite)
        counts = {"empty": sum(u.weight == 0 for u in finite), "dropped": len(found) - len(finite)}
        history.append({**pooled(u.totals for u in finite), **counts})
    return params, history


def evaluate(
    settings: Settings, params: Params, examples: Ratings, round: int, initial_local: Params
) -> Totals:
    """ReconEval of one client: reconstruct on the support set, score all of the query set.

    Arguments as for `client_update`. The reconstruction's step limit holds, the update stage's does not.
    """
    params = cast(settings, params)
    support, query = parts(settings, settings.evaluation_split, examples)
    local = reconstruct(settings, params, support, round, cast(settings, initial_local))
    return score(settings, {**params, **local}, query)


def pooled(totals: Iterable[Totals]) -> dict[str, float]:
    """Means over all examples of all clients (0 where there are none), and how many examples they are."""
    result = Totals()
    for one in totals:
        result = add(result, one)
    n = max(result.examples, 1)
    return {"mse": result.squared_error / n, "accuracy": result.hits / n, "examples": result.examples}


def add(a: Totals, b: Totals) -> Totals:
    """Sums of both."""
    return Totals(a.squared_error + b.squared_error, a.hits + b.hits, a.examples + b.examples)


def cast(settings: Settings, params: Params) -> Params:
    """The same leaves in the settings' type."""
    return {name: np.asarray(leaf, settings.dtype) for name, leaf in params.items()}
