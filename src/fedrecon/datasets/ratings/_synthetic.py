"""A generated federation of ratings whose truth is known, shaped like MovieLens 1M."""

from collections.abc import Iterator
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Float32, Int

from fedrecon.data._clients import Clients
from fedrecon.data._columns import offsets_of
from fedrecon.errors import whole_number

# MovieLens 1M: its users rate at least 20 items, at the median 96, on average 166, at most 62% of all; the
# top 10, 20 and 50% of its items have 44, 65 and 92% of the ratings. At its size these give 44, 65 and 91%.
_LEAST, _MEDIAN, _SPREAD, _MOST = 20, 96, 1.14, 0.62
_POPULARITY_RANGE, _POPULARITY_SPREAD = 4.5, 0.9
_MEAN = 3.6
STARS = (1.0, 5.0)


class Planted(NamedTuple):
    """The truth behind generated ratings.

    The stars of user u for item i are `mean + user bias + item bias + <user factors, item factors> + noise`,
    rounded and cut to 1 to 5.

    Attributes:
        item_factors: `[item, factor]`; the variance of each is 1.
        item_biases: The bias of each item, `[item]`.
        mean: The number that is added to every rating.
        factor_deviation: Standard deviation of each of a user's factors.
        bias_deviation: Standard deviation of a user's bias.
        noise: Standard deviation of the noise, before rounding.
        effective_noise: Root mean squared difference of the stars from the ratings without noise, cut to 1
            to 5 but not rounded: the RMSE of a predictor that knows all of the above and the users'
            parameters, which an unseen user cannot reach.
    """

    item_factors: Float32[np.ndarray, "item factor"]
    item_biases: Float32[np.ndarray, "item"]
    mean: float
    factor_deviation: float
    bias_deviation: float
    noise: float
    effective_noise: float


def synthetic(
    num_clients: int = 2_000,
    num_items: int = 1_000,
    *,
    num_factors: int = 3,
    noise: float = 0.7,
    factor_deviation: float = 0.6,
    bias_deviation: float = 0.4,
    item_deviation: float = 0.5,
    seed: int = 0,
) -> tuple[Clients, Planted]:
    """Generates ratings of 1 to 5 stars.

    How many items a user rates, and how popular an item is, have the long tails of MovieLens 1M. A user's
    items are distinct, drawn by popularity, in random order.

    Args:
        num_clients: The number of clients, at least 1; 2000 by default.
        num_items: The number of items, at least 2; 1000 by default.
        num_factors: The length of the factor vectors of users and items, at least 1; 3 by default.
        noise: Standard deviation of the noise, before rounding, in stars; positive; 0.7 by default.
        factor_deviation: Standard deviation of the product of a user's and an item's factors, in stars;
            positive; 0.6 by default.
        bias_deviation: Standard deviation of the users' biases, in stars; positive; 0.4 by default.
        item_deviation: Standard deviation of the items' biases, in stars; positive; 0.5 by default.
        seed: The seed of all draws; 0 by default.

    Returns:
        Clients 0 to num_clients - 1 with the fields `item` (int32) and `rating` (float32), and the truth.

    Raises:
        ValueError: An argument is out of its range.
    """
    num_clients = whole_number("num_clients", num_clients, 1)
    num_items = whole_number("num_items", num_items, 2)
    num_factors = whole_number("num_factors", num_factors, 1)
    seed = whole_number("seed", seed, 0)
    for name, size in (
        ("noise", noise),
        ("factor_deviation", factor_deviation),
        ("bias_deviation", bias_deviation),
        ("item_deviation", item_deviation),
    ):
        if not 0 < size < np.inf:
            raise ValueError(f"{name} must be positive and finite, got {size}")
    random = np.random.default_rng(seed)
    counts = draw_counts(random, num_clients, num_items)
    items = draw_items(random, counts, draw_popularity(random, num_items))
    owners = np.repeat(np.arange(num_clients), counts)

    item_factors = random.standard_normal((num_items, num_factors), np.float32)
    item_biases = random.normal(0, item_deviation, num_items).astype(np.float32)
    each = factor_deviation / np.sqrt(num_factors)
    user_factors = random.normal(0, each, (num_clients, num_factors)).astype(np.float32)
    user_biases = random.normal(0, bias_deviation, num_clients).astype(np.float32)
    score = _MEAN + user_biases[owners] + item_biases[items]
    score += np.einsum("rk,rk->r", user_factors[owners], item_factors[items])
    stars = np.clip(np.rint(score + random.normal(0, noise, len(score))), *STARS).astype(np.float32)

    off = stars - np.clip(score, *STARS)
    planted = Planted(
        item_factors,
        item_biases,
        _MEAN,
        each,
        bias_deviation,
        noise,
        float(np.sqrt(np.mean(off**2, dtype=np.float64))),
    )
    names = {"item": np.arange(num_items)}
    return Clients.from_columns(
        np.arange(num_clients), offsets_of(counts), {"item": items, "rating": stars}, names
    ), planted


def ridge_rmse(planted: Planted, clients: Clients, batch_size: int = 5) -> float:
    """The RMSE on query examples when each user is reconstructed from support examples under the true items.

    A user's factors u and bias b minimise, over the support set, the sum of
    `(rating - mean - item bias - b - <u, item factors>)^2`, plus `|u|^2 s^2 / factor_deviation^2` and
    `b^2 s^2 / bias_deviation^2` where s is the effective noise: the posterior mean, but for what rounding and
    cutting to 1 to 5 stars do. A model that must learn the items cannot expect less on unseen users.

    Args:
        planted: The parameters from which the ratings were drawn.
        clients: Some of the generated clients, or all.
        batch_size: The examples of a client are cut into batches of this size; those at even places are
            support, those at odd places query; 5 by default.

    Returns:
        The root of the mean squared error over all query examples; nan if there are none.

    Raises:
        ValueError: `batch_size` is below 1.
    """
    batch_size = whole_number("batch_size", batch_size, 1)
    strength = planted.effective_noise**2 / np.array(
        [planted.factor_deviation**2] * planted.item_factors.shape[1] + [planted.bias_deviation**2]
    )
    total, count = 0.0, 0
    for design, target in _problems(planted, clients):
        query = np.arange(len(target)) // batch_size % 2 == 1
        x, y = design[~query], target[~query]
        user = np.linalg.solve(x.T @ x + np.diag(strength), x.T @ y)
        total += float(np.sum((target[query] - design[query] @ user) ** 2))
        count += int(query.sum())
    return float(np.sqrt(total / count)) if count else float("nan")


def draw_counts(
    random: np.random.Generator, num_clients: int, num_items: int, median: float = _MEDIAN
) -> Int[np.ndarray, "client"]:
    """How many items each client rates: at least 20, at the median so many."""
    beyond = random.lognormal(np.log(median - _LEAST), _SPREAD, num_clients)
    most = max(1, int(_MOST * num_items))
    return np.minimum(_LEAST + beyond.astype(np.int64), most)


def draw_popularity(random: np.random.Generator, num_items: int) -> Float[np.ndarray, "item"]:
    """The logarithm of each item's weight in the draws."""
    uniform = random.uniform(0, _POPULARITY_RANGE, num_items)
    return uniform + random.normal(0, _POPULARITY_SPREAD, num_items)


def draw_items(
    random: np.random.Generator, counts: Int[np.ndarray, "client"], popularity: Float[np.ndarray, "item"]
) -> Int[np.ndarray, "rating"]:
    """For each client so many different items by popularity, one client after the other, in random order."""
    num_items, chosen = len(popularity), [np.zeros(0, np.int64)]
    rows = max(1, (1 << 22) // num_items)  # at a time, to bound the memory
    for start in range(0, len(counts), rows):
        count = counts[start : start + rows]
        # The largest of log weight + Gumbel noise are a draw without replacement by weight.
        keys = popularity + random.gumbel(size=(len(count), num_items))
        least = np.sort(keys, axis=1)[np.arange(len(count)), num_items - count]
        owner, item = np.nonzero(keys >= least[:, None])
        chosen.append(item[np.argsort(owner + random.random(len(owner)))])
    return np.concatenate(chosen)


def _problems(
    planted: Planted, clients: Clients
) -> Iterator[tuple[Float[np.ndarray, "rating column"], Float[np.ndarray, "rating"]]]:
    """Each client's regression: the items' factors and a 1; what is left for the user to explain."""
    items, ratings = clients.column("item"), clients.column("rating").astype(np.float64)
    for start, end in pairwise(clients.offsets):
        item = items[start:end]
        design = np.concatenate([planted.item_factors[item], np.ones((len(item), 1))], axis=1)
        yield design.astype(np.float64), ratings[start:end] - planted.mean - planted.item_biases[item]
