"""How much attacks found out, against what is true."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from fedrecon.privacy.attacks._deltas import RecoveredUser

_SAME_RATING = 1e-3  # of two ratings, which are multiples of a larger unit


class Findings(NamedTuple):
    """How much an attack found out, against what is true.

    Attributes:
        clients_summed: The number of clients in the sum that was attacked.
        item_precision: The share of the items found that their client rated; where a sum's clients cannot be
            told apart, all items of the sum are ascribed to each of them.
        item_recall: The share of the clients' items that were found.
        vector_cosine: The mean cosine of recovered and true user vectors, 0 for a client that was not found;
            None where no vectors were attacked.
        users_ratings_exact: The share of clients of whom all query ratings were found exactly; None where no
            ratings were attacked.
    """

    clients_summed: int
    item_precision: float
    item_recall: float
    vector_cosine: float | None
    users_ratings_exact: float | None


def findings(
    recovered: Sequence[RecoveredUser],
    items: Sequence[Int[np.ndarray, "rated"]],
    ratings: Sequence[Float[np.ndarray, "rated"]] | None,
    vectors: Sequence[Float[np.ndarray, "factor"]] | None,
    clients_summed: int = 1,
) -> Findings:
    """Compares what was recovered of each client with the truth.

    Args:
        recovered: The items, vector and ratings that an attack recovered of each client.
        items: The rows of each client's query items, none twice.
        ratings: The ratings of these items; None if they were not attacked.
        vectors: The clients' true factors; None if they were not attacked.
        clients_summed: The number of clients in the sum that was attacked; 1 by default.
    """
    hits = sum(len(np.intersect1d(guess.items, rows)) for guess, rows in zip(recovered, items, strict=True))
    guessed, true = sum(len(guess.items) for guess in recovered), sum(map(len, items))
    cosine, exact = None, None
    if vectors is not None:
        pairs = zip(recovered, vectors, strict=True)
        cosine = float(np.mean([_cosine(guess.vector, vector) for guess, vector in pairs]))
    if ratings is not None:
        triples = zip(recovered, items, ratings, strict=True)
        exact = float(np.mean([_all_exact(*triple) for triple in triples]))
    return Findings(clients_summed, hits / max(guessed, 1), hits / max(true, 1), cosine, exact)


def best_matches(
    candidates: Sequence[RecoveredUser], items: Sequence[Int[np.ndarray, "rated"]]
) -> list[RecoveredUser | None]:
    """The candidate for each client whose items agree best with the client's; None where none does.

    An attacker does not know which client a part of a sum belongs to; who holds the truth against it does.

    Args:
        candidates: The items, vectors and ratings that an attack recovered of clients that it cannot name.
        items: The rows of each client's items.
    """
    matches: list[RecoveredUser | None] = []
    for rows in items:
        agreements = [len(np.intersect1d(x.items, rows)) / len(x.items) for x in candidates]
        best = int(np.argmax(agreements)) if agreements else -1
        matches.append(candidates[best] if agreements and agreements[best] > 0.5 else None)
    return matches


def _cosine(a: Float[np.ndarray, "factor"], b: Float[np.ndarray, "factor"]) -> float:
    length = np.linalg.norm(a) * np.linalg.norm(b)
    return float(a @ b / length) if length else 0.0


def _all_exact(
    guess: RecoveredUser, rows: Int[np.ndarray, "rated"], ratings: Float[np.ndarray, "rated"]
) -> bool:
    guessed = dict(zip(guess.items.tolist(), guess.ratings.tolist(), strict=True))
    truth = zip(rows.tolist(), ratings.tolist(), strict=True)
    return all(abs(guessed.get(row, np.inf) - value) < _SAME_RATING for row, value in truth)


def pure_share(items: Sequence[Int[np.ndarray, "rated"]], clients_summed: int, seed: int = 0) -> float:
    """The share of (client, item) pairs whose row no other client of the same sum moved.

    Args:
        items: The rows of each client's items.
        clients_summed: The number of clients in a sum; clients are grouped at random, and a rest is left out.
        seed: The seed of the grouping; 0 by default.
    """
    order = np.random.default_rng(seed).permutation(len(items))
    pure = total = 0
    for start in range(0, len(items) - clients_summed + 1, clients_summed):
        rows = np.concatenate([np.unique(items[i]) for i in order[start : start + clients_summed]])
        counts = np.unique(rows, return_counts=True)[1]
        pure, total = pure + int(np.sum(counts == 1)), total + len(rows)
    return pure / max(total, 1)


def membership_auc(scores: Float[np.ndarray, "pair"], member: Bool[np.ndarray, "pair"]) -> float:
    """Area under the ROC curve of scores that should be higher for members; ties count as half.

    Args:
        scores: The score of each pair, for instance of a client and an item, `[pair]`.
        member: Whether the client of each pair has its item, `[pair]`.

    Raises:
        ValueError: All pairs are members, or none is.
    """
    if member.all() or not member.any():
        raise ValueError(f"member must hold both kinds, got {int(member.sum())} of {len(member)}")
    _, inverse, counts = np.unique(scores, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    ranks = (ends - (counts - 1) / 2)[inverse]
    members = int(member.sum())
    above = ranks[member].sum() - members * (members + 1) / 2
    return float(above / (members * (len(member) - members)))
