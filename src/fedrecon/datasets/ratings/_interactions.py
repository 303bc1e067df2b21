"""Ratings as interactions: which items a user has, in the order of time, and what is held out of them."""

import numpy as np

from fedrecon.data._clients import Clients
from fedrecon.data._hashing import Purpose, keyed
from fedrecon.data._holdout import HELD_OUT
from fedrecon.datasets.ratings._validation import quoted
from fedrecon.errors import DataError, whole_number


def interactions(ratings: Clients, *, least_rating: float = 0.0, least_items: int = 1) -> Clients:
    """Clients with the field `item` alone: what they rated, by time.

    Args:
        ratings: Clients with ratings, as `prepare` returns them. Of equal times the order of the source
            decides, and where it has no times that alone. Where there are items without ratings, all are
            interactions.
        least_rating: The least rating that counts as an interaction; 0 by default.
        least_items: The number of interactions below which a client is left out; 0 leaves out nobody. The
            default is 1.

    Raises:
        DataError: There are no items, nobody is left, or `least_items` is not a whole number of at least 0.
    """
    least_items = whole_number("least_items", least_items, 0, error=DataError)
    if "item" not in ratings.fields:
        raise DataError(f"interactions must have the field 'item', the clients have {list(ratings.fields)}")
    if "time" in ratings.fields:
        ratings = ratings.sorted_by("time")
    keep = np.ones(int(ratings.num_examples.sum()), bool)
    if "rating" in ratings.fields:
        keep = ratings.column("rating") >= least_rating
    interactions = ratings.select("item").filter_examples(keep)
    kept = np.flatnonzero(interactions.num_examples >= least_items)
    if least_items and not kept.size:
        raise DataError(
            f"users must have at least {least_items} ratings of at least {least_rating:g}, none has; the "
            "settings data.least_items and data.least_rating set other numbers"
        )
    return interactions.take(kept)


def each_once(ratings: Clients, duplicates: str, where: str) -> Clients:
    """Clients that have no item twice: one that is held out of them is then in no other place.

    Args:
        ratings: Clients with the field `item` and its vocabulary.
        duplicates: "error" refuses clients that have an item twice; "last" keeps what comes last of it in
            the order of the source, as in rating files.
        where: The name of the source in messages.

    Raises:
        DataError: There are no items, they are no numbers, or a client has one twice and must not.
    """
    if "item" not in ratings.fields or "item" not in ratings.vocabularies:
        raise DataError(
            f"{where}: the clients must name the original ids of the field 'item', they have the fields "
            f"{list(ratings.fields)} and the ids of {sorted(ratings.vocabularies)}"
        )
    like = ratings.blank("item", 0)
    if like.ndim != 1 or like.dtype.kind not in "iu":
        raise DataError(
            f"{where}: the field 'item' must hold one whole number per example, got {like.dtype} of shape "
            f"{like.shape[1:]}"
        )
    if ratings.distinct("item"):
        return ratings
    kept = []
    for piece in ratings.pieces():
        owner = piece.owners()
        item = piece.column("item")
        order = np.lexsort((item, owner))  # stable
        before, after = order[:-1], order[1:]
        again = (owner[before] == owner[after]) & (item[before] == item[after])
        if duplicates == "error" and again.any():
            first = int(before[again].min())
            raise DataError(
                f"{where}: client {quoted(piece.ids[[owner[first]]].tolist()[0])} must rate item "
                f"{quoted(ratings.vocabularies['item'][[item[first]]].tolist()[0])} once, but did more often "
                '(duplicates="last", the setting data.duplicates, keeps the last rating)'
            )
        keep = np.ones(len(item), bool)
        keep[before[again]] = False
        kept.append(keep)
    return ratings.filter_examples(np.concatenate(kept))


def leave_one_out(clients: Clients, back: int = 1) -> dict[str, Clients]:
    """Holds one interaction of every client out.

    Args:
        clients: Clients with their interactions in order of time, no item twice.
        back: The interaction to hold out, counted from the end: 1, the default, for the latest, 2 for the one
            before it, to tune on; the latest is then not used.

    Returns:
        `"train"`: the interactions before the held-out one. `"held_out"`: the same clients with these and
        that one, which a field `held_out` marks. A client with nothing to train on is in neither.

    Raises:
        DataError: Nobody is left, or `back` is not a whole number of at least 1.
    """
    back = whole_number("back", back, 1, error=DataError)
    clients = clients.take(np.flatnonzero(clients.num_examples > back))
    if not len(clients):
        raise DataError(f"clients must have more than {back} interactions to hold one out, none has")
    left = clients.num_examples - back
    position, owner = clients.positions(), clients.owners()
    sets = {}
    for name, most in (("train", left), ("held_out", left + 1)):
        within = position < most[owner]
        sets[name] = clients.filter_examples(within)
        if name == HELD_OUT:
            marks = (position == left[owner])[within].astype(np.int8)
            sets[name] = sets[name].with_columns(**{HELD_OUT: marks})
    return sets


def with_recency(clients: Clients, extra: float, items: float) -> Clients:
    """Clients with a field `weight`: how much an interaction counts, the more the later it was.

    The latest counts 1 + extra, one that is followed by n others 1 + extra exp(-n / items). A held-out
    interaction is not counted among these, and weighs 1. Of examples that a split holds out only later
    nothing is known here: they would be counted.

    Args:
        clients: Clients with their interactions in order of time.
        extra: The additional weight of the latest interaction, at least 0.
        items: The number of later interactions after which the additional weight has fallen to 1 / e of its
            start; positive.

    Raises:
        DataError: An argument is out of its range.
    """
    if not (0 <= extra < np.inf and 0 < items < np.inf):
        raise DataError(f"extra must not be negative and items be positive, got {extra} and {items}")
    position, owner = clients.positions(), clients.owners()
    counts = clients.num_examples.copy()
    trained = np.ones(len(owner), bool)
    if HELD_OUT in clients.fields:
        trained = clients.column(HELD_OUT) == 0
        counts = np.bincount(owner[trained], minlength=len(clients))
    later = np.maximum(counts[owner] - 1 - position, 0)
    weight = np.where(trained, 1 + extra * np.exp(-later / items), 1)
    return clients.with_columns(weight=weight.astype(np.float32))


def with_negatives(clients: Clients, count: int, num_items: int, seed: int) -> Clients:
    """Clients with a field `negatives`, `[example, negative]`: items drawn for the losses that compare.

    Uniform over the whole catalogue, the client's own items not left out: what is drawn says nothing about
    what a client has, held-out items included. They stay the same in all rounds.

    Args:
        clients: The clients to which the field is added.
        count: The number of items drawn for each example, at least 1.
        num_items: The number of items in the catalogue.
        seed: The seed that decides, with the client's name and the example's place, which items are drawn.

    Raises:
        DataError: An argument is out of its range.
    """
    count = whole_number("count", count, 1, error=DataError)
    num_items = whole_number("num_items", num_items, 1, error=DataError)
    seed = whole_number("seed", seed, error=DataError)
    position, owner = clients.positions(), clients.owners()
    with np.errstate(over="ignore"):
        places = (position.astype(np.uint64) * np.uint64(count))[:, None] + np.arange(count, dtype=np.uint64)
        own = keyed(seed, Purpose.NEGATIVE_ITEMS, clients.keys)[owner][:, None] + places
    negatives = (keyed(seed, Purpose.NEGATIVE_ITEMS, own) % num_items).astype(np.int32)
    return clients.with_columns(negatives=negatives)
