"""How well peers that see all data rank, on the splits, held-out items and drawn items of our experiments."""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.options import Options, Row
from fedrecon import Clients
from fedrecon.core import HeldOut, Mean, RandomFraction, Split
from fedrecon.datasets.ratings import interactions, leave_one_out, prepare, with_recency
from fedrecon.evaluation import Ranking
from fedrecon.evaluation._evaluate import evaluation_keys
from fedrecon.evaluation._evaluation import Evaluation
from fedrecon.simulation._batches import examples_of, key_of
from fedrecon.simulation._block_plan import plan_evaluation

SEED = 0
RECENCY = (30.0, 5.0)  # of experiments/ranking.toml
FRACTIONS = {"train": 0.8, "validation": 0.1, "test": 0.1}

# Of what a client has, weighted, `[client, item]`, the scores of all items.
Scores = Callable[[np.ndarray], np.ndarray]


def run(options: Options) -> list[Row]:
    if options.data is None:
        return [Row("ranking by peers", None, "", "needs --data")]
    ratings = prepare(options.data)
    latest = seen(interactions(ratings, least_items=5))
    return [*latest, *unseen(interactions(ratings, least_rating=4.0, least_items=5))]


class Peer(NamedTuple):
    """A way to score items, fitted to a matrix of who has what.

    Attributes:
        fit: `(users and items, **settings) -> Scores`; None where its package is not installed.
        grid: The settings that are tried.
    """

    fit: Callable[..., Scores] | None
    grid: Sequence[Mapping[str, Any]]


def peers(largest: int) -> dict[str, Peer]:
    """By name; the number of factors is at most `largest`."""
    als = [
        {"factors": min(factors, largest), "alpha": 10.0, "ridge": ridge}
        for factors, ridge in ((64, 10.0), (128, 10.0), (128, 50.0))
    ]
    return {
        "popularity": Peer(popularity, [{}]),
        "EASE": Peer(ease, [{"ridge": ridge} for ridge in (200.0, 500.0, 1000.0, 2000.0)]),
        "implicit's ALS": Peer(als_peer(), als),
    }


def popularity(have: np.ndarray) -> Scores:
    """Everybody gets what most have."""
    counts = have.sum(0)
    return lambda support: np.broadcast_to(counts, support.shape)


def ease(have: np.ndarray, ridge: float) -> Scores:
    """Item-item ridge regression without a diagonal (Steck, WWW 2019)."""
    gram = (have.T @ have).astype(np.float64)
    inverse = np.linalg.inv(gram + ridge * np.eye(len(gram)))
    weights = -inverse / np.diag(inverse)
    np.fill_diagonal(weights, 0)
    weights = weights.astype(np.float32)
    return lambda support: support @ weights


def als_peer() -> Callable[..., Scores] | None:
    """Alternating least squares of the package `implicit`, users recalculated from their support sets."""
    try:
        from implicit.cpu.als import AlternatingLeastSquares
        from threadpoolctl import threadpool_limits  # which it needs itself
    except ImportError:
        return None
    from scipy.sparse import csr_matrix

    def fit(have: np.ndarray, factors: int, alpha: float, ridge: float) -> Scores:
        settings = {"regularization": ridge, "alpha": alpha, "random_state": SEED, "num_threads": 2}
        with threadpool_limits(1, "blas"):  # its threads and those of the BLAS are in each other's way
            model = AlternatingLeastSquares(factors, **settings)
            model.fit(csr_matrix(have), show_progress=False)

        def scores(support: np.ndarray) -> np.ndarray:
            users = model.recalculate_user(np.arange(len(support)), csr_matrix(support))
            return np.asarray(users @ model.item_factors.T)

        return scores

    return fit


def seen(everyone: Clients) -> list[Row]:
    """Leave one out: tuned on the interaction before the latest, fitted again for the latest."""
    size = len(everyone.vocabularies["item"])
    ranking = Ranking(size, negatives=min(99, size - 1))
    tuning, testing = leave_one_out(everyone, 2), leave_one_out(everyone, 1)
    rows = []
    for name, peer in peers(size).items():
        if peer.fit is None:
            rows.append(Row(f"leave one out: {name}", None, "", "the package implicit is not installed"))
            continue

        def score(settings: Any, fit: Any = peer.fit) -> float:
            found = fit(matrix(tuning["train"]), **settings)
            return evaluated(found, tuning["held_out"], HeldOut(), ranking).over_clients()["sampled_ndcg@10"]

        best = _best(peer.grid, score)
        found, held = peer.fit(matrix(testing["train"]), **best), testing["held_out"]
        rows += _rows(f"leave one out: {name}", evaluated(found, held, HeldOut(), ranking), best)
        if name != "popularity":
            recent = evaluated(found, with_recency(held, *RECENCY), HeldOut(), ranking)
            rows += _rows(f"leave one out: {name}, late interactions weighted", recent, best)
    return rows


def unseen(everyone: Clients) -> list[Row]:
    """Users that were not trained on: four fifths of what they have is given, the rest is asked for."""
    size = len(everyone.vocabularies["item"])
    ranking = Ranking(size, (("recall_min", 20), ("recall_min", 50), ("ndcg", 100)))
    sets, rows = everyone.split(FRACTIONS, SEED), []
    for name, peer in peers(size).items():
        if peer.fit is None:
            rows.append(Row(f"unseen users: {name}", None, "", "the package implicit is not installed"))
            continue
        fitted = [(settings, peer.fit(matrix(sets["train"]), **settings)) for settings in peer.grid]

        def score(found: Any, clients: Clients) -> Evaluation:
            return evaluated(found, clients, RandomFraction(0.8), ranking)

        best = _best(fitted, lambda pair: score(pair[1], sets["validation"]).over_clients()["ndcg@100"])
        rows += _rows(f"unseen users: {name}", score(best[1], sets["test"]), best[0])
    return rows


def matrix(clients: Clients) -> np.ndarray:
    """Who has what, `[client, item]`."""
    have = np.zeros((len(clients), len(clients.vocabularies["item"])), np.float32)
    have[clients.owners(), clients.column("item")] = 1
    return have


def evaluated(scores: Scores, clients: Clients, split: Split, ranking: Ranking) -> Evaluation:
    """What `fedrecon.evaluate` would find with these scores: the same splits and drawn items."""
    keys, parts, order = evaluation_keys(SEED, clients), [], []
    for slot, chosen in plan_evaluation(clients.num_examples).fitting(clients.num_examples):
        for start in range(0, len(chosen), slot.clients):
            block = chosen[start : start + slot.clients]
            data = {f: clients.padded(f, block, slot.length) for f in clients.fields}
            given = (data, clients.num_examples[block].astype(np.int32), keys[block])
            found = np.asarray(scores(np.asarray(_support(split, ranking, *given))), np.float32)
            parts.append(_measured(split, ranking, *given, jnp.asarray(found)))
            order.append(block)
    places = np.argsort(np.concatenate(order))

    def joined(name: str, which: int) -> Any:
        return np.concatenate([np.asarray(part[name][which], np.float64) for part in parts])[places]

    return Evaluation(clients.ids, {name: Mean(joined(name, 0), joined(name, 1)) for name in parts[0]})


def _cut(split: Split, data: Any, count: Any, key: Any) -> Any:
    size = next(iter(data.values())).shape[0]
    return split(examples_of(data, count, size), jax.random.fold_in(key_of(key), 0))


@functools.partial(jax.jit, static_argnums=(0, 1))
def _support(split: Split, ranking: Ranking, data: Any, count: Any, key: Any) -> Any:
    """What clients have in their support sets, weighted, `[client, item]`."""

    def one(data: Any, count: Any, key: Any) -> Any:
        support, _ = _cut(split, data, count, key)
        weight = support.data.get("weight", jnp.ones(support.size))
        none = jnp.zeros(ranking.num_items)
        return none.at[support.data["item"]].max(jnp.where(support.mask, weight, 0))

    return jax.vmap(one)(data, count, key)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _measured(split: Split, ranking: Ranking, data: Any, count: Any, key: Any, scores: Any) -> Any:
    def one(data: Any, count: Any, key: Any, scores: Any) -> Any:
        support, query = _cut(split, data, count, key)
        return ranking.of_scores(scores, support, query, key_of(key))

    return jax.vmap(one)(data, count, key, scores)


def _best(candidates: Sequence[Any], value: Callable[[Any], float]) -> Any:
    return candidates[0] if len(candidates) == 1 else max(candidates, key=value)


def _rows(what: str, found: Evaluation, settings: Mapping[str, Any]) -> list[Row]:
    note = ", ".join(f"{name} {value:g}" for name, value in settings.items())
    return [Row(f"{what}: {name}", 100 * x, "%", note) for name, x in found.over_clients().items()]
