"""The next-word task's data: writers, each with their sentences in order of time, in disjoint sets."""

import os
from collections.abc import Mapping

from fedrecon.data._clients import Clients
from fedrecon.data._holdout import hold_out
from fedrecon.datasets.text._vocabulary import Vocabulary
from fedrecon.errors import DataError, whole_number

FRACTIONS: Mapping[str, float | int] = {"train": 0.8, "validation": 0.1, "test": 0.1}


def arrange(
    texts: Clients,
    *,
    seed: int,
    words: int,
    buckets: int,
    output_buckets: int | None = None,
    fractions: Mapping[str, float | int] = FRACTIONS,
    vocabulary: str | os.PathLike[str] | Vocabulary | None = None,
    held_out: Mapping[str, float] | None = None,
    own_words: bool = False,
) -> tuple[dict[str, Clients], Vocabulary]:
    """Splits clients, counts the words of those in the set `"train"`, and numbers all texts by them.

    Args:
        texts: The clients that `prepare` returned.
        seed: Decides which client is in which set, by the clients' names alone.
        words: Shared words at most: the most frequent of the training clients'.
        buckets: The number of buckets that all other words share.
        output_buckets: The number of output ids of the other words, see `Vocabulary`; None, the default, for
            as many as there are buckets.
        fractions: The name of each set and its share of the clients, in (0, 1], together at most 1; by
            default 0.8 for training, 0.1 for validation and 0.1 for testing.
        vocabulary: A vocabulary to use instead of the most frequent words, or a run folder with one; it must
            have `words` words or fewer, and as many buckets. None by default.
        held_out: The shares of each training client's sentences that `hold_out` will keep from training:
            their words are not counted. None, the default, for none.
        own_words: Whether each client's words outside the vocabulary are numbered, see `Vocabulary.encode`;
            False by default.

    Returns:
        For each set its clients, with the fields of `Vocabulary.encode`; and the vocabulary.

    Raises:
        DataError: A fraction, share or number is out of its range, or the vocabulary cannot be read or has
            more words or another number of buckets.
    """
    words = whole_number("words", words, 0, error=DataError)
    buckets = whole_number("buckets", buckets, 1, error=DataError)
    if output_buckets is not None:
        output_buckets = whole_number("output_buckets", output_buckets, 1, error=DataError)
    sets = texts.split(fractions, seed)
    if vocabulary is None:
        counted = hold_out(sets["train"], held_out or {})["train"]
        shared = Vocabulary.most_frequent(counted, words, buckets, output_buckets)
    else:
        shared = (
            vocabulary
            if isinstance(vocabulary, Vocabulary)
            else Vocabulary.read(vocabulary, buckets, output_buckets)
        )
        if len(shared.words) > words:
            raise DataError(
                f"{vocabulary}: the vocabulary must have at most data.words = {words:,} words, it has "
                f"{len(shared.words):,}"
            )
        given = {"buckets": (buckets, shared.buckets)}
        given["output_buckets"] = buckets if output_buckets is None else output_buckets, shared.output_buckets
        for name, (wanted, has) in given.items():
            if has != wanted:
                raise DataError(f"the vocabulary must have {name} = {wanted:,}, it has {has:,}")
    return {name: shared.encode(clients, own_words) for name, clients in sets.items()}, shared
