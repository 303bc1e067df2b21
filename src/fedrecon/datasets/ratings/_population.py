"""A generated federation of any size, made client by client: what a large product's data look like."""

from collections.abc import Iterator

import numpy as np
from jaxtyping import Float, Int

from fedrecon.data._clients import Clients
from fedrecon.data._columns import offsets_of
from fedrecon.datasets.ratings._synthetic import draw_counts, draw_items, draw_popularity
from fedrecon.errors import plain, whole_number

_PER_PIECE = 8192  # clients whose ratings are drawn together
_LEAST, _SPREAD = 20, 1.14  # as in `synthetic`: of the ratings per client
_MEAN, _NOISE, _FACTORS = 3.6, 0.7, 3
_USER, _BIAS, _ITEM = 0.6, 0.4, 0.5  # deviations of products of factors, of users' and of items' biases
# Clients that rate a larger share of the items are drawn by comparing all items, the others by repetition.
_LARGE_SHARE = 1 / 16


def population(
    num_clients: int, num_items: int, *, mean_ratings: float | int = 100, seed: int = 0
) -> Iterator[Clients]:
    """Generates ratings of 1 to 5 stars with the law of `synthetic`, a piece of the clients at a time.

    Time and memory grow with the ratings and not with clients times items. The first clients are the same
    whatever their number.

    Args:
        num_clients: The number of clients, at least 1.
        num_items: The number of items, at least 2.
        mean_ratings: The mean number of ratings of a client, above 20, as far as the number of items allows
            it; 100 by default.
        seed: The seed of all draws; 0 by default.

    Yields:
        Clients 0 to num_clients - 1 in order, with the fields `item` (int32) and `rating` (float32).

    Raises:
        ValueError: An argument is out of its range.
    """
    num_clients = whole_number("num_clients", num_clients, 1)
    num_items = whole_number("num_items", num_items, 2)
    if not _LEAST < mean_ratings < np.inf:
        raise ValueError(f"mean_ratings must be more than {_LEAST} per client, got {plain(mean_ratings)}")
    seed = whole_number("seed", seed, 0)
    median = _LEAST + (mean_ratings - _LEAST) / np.exp(_SPREAD**2 / 2)  # of a lognormal law
    random = np.random.default_rng([seed, 0])
    popularity = draw_popularity(random, num_items)
    factors = random.standard_normal((num_items, _FACTORS), np.float32)
    biases = random.normal(0, _ITEM, num_items).astype(np.float32)
    for number, start in enumerate(range(0, num_clients, _PER_PIECE)):
        random = np.random.default_rng([seed, 1, number])
        size = min(_PER_PIECE, num_clients - start)
        # All of a full piece, so that a shorter one is its beginning.
        counts = draw_counts(random, _PER_PIECE, num_items, median)
        users = random.normal(0, _USER / np.sqrt(_FACTORS), (_PER_PIECE, _FACTORS)).astype(np.float32)
        levels = random.normal(0, _BIAS, _PER_PIECE).astype(np.float32)
        items = distinct_items(random, counts, popularity)
        owners = np.repeat(np.arange(_PER_PIECE), counts)
        score = _MEAN + levels[owners] + biases[items]
        for k in range(_FACTORS):
            score += users[owners, k] * factors[items, k]
        stars = np.clip(np.rint(score + random.normal(0, _NOISE, len(score))), 1, 5).astype(np.float32)
        ends = offsets_of(counts[:size])
        columns = {"item": items[: ends[-1]], "rating": stars[: ends[-1]]}
        names = {"item": np.arange(num_items)}
        yield Clients.from_columns(np.arange(start, start + size), ends, columns, names)


def distinct_items(
    random: np.random.Generator, counts: Int[np.ndarray, "client"], popularity: Float[np.ndarray, "item"]
) -> Int[np.ndarray, "rating"]:
    """As `draw_items`, in time that does not grow with the number of items.

    Of items that are drawn with replacement the first ones that differ are a draw without replacement.
    """
    num_items = len(popularity)
    chosen = np.empty(int(counts.sum()), np.int64)
    client = np.repeat(np.arange(len(counts)), counts)
    large = counts > _LARGE_SHARE * num_items
    chosen[large[client]] = draw_items(random, counts[large], popularity)
    small, wanted = np.flatnonzero(~large), counts[~large]
    shares = np.cumsum(np.exp(popularity - popularity.max()))
    owner, item = np.zeros(0, np.int64), np.zeros(0, np.int64)
    short = np.arange(len(small))
    while short.size:
        more = np.repeat(short, wanted[short] // 4 + (wanted[short] if not owner.size else 0) + 8)
        drawn = np.searchsorted(shares, random.random(len(more)) * shares[-1], side="right")
        owner, item = np.concatenate([owner, more]), np.concatenate([item, np.minimum(drawn, num_items - 1)])
        order = np.argsort(owner * num_items + item, kind="stable")
        pairs = (owner * num_items + item)[order]
        again = order[1:][pairs[1:] == pairs[:-1]]
        owner, item = np.delete(owner, again), np.delete(item, again)
        short = np.flatnonzero(np.bincount(owner, minlength=len(small)) < wanted)
    order = np.argsort(owner, kind="stable")  # the draws of a client in the order in which they came
    owner, item = owner[order], item[order]
    starts = np.searchsorted(owner, np.arange(len(small)))
    first = np.arange(len(owner)) - starts[owner] < wanted[owner]
    owner, item = owner[first], item[first]
    chosen[~large[client]] = item[np.argsort(owner + random.random(len(owner)))]
    return chosen
