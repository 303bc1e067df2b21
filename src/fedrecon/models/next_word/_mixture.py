"""The distribution of next words by a model and a client's cache, and its metrics."""

from typing import Any, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from fedrecon.core._mean import Mean
from fedrecon.core._types import Batch
from fedrecon.datasets.text._vocabulary import END
from fedrecon.models.next_word._client_cache import FOLLOWERS, TINY, Cache, shifted
from fedrecon.models.next_word._metrics import Logits, tokens


class Mixture(NamedTuple):
    """The distribution of the word after each of some words; p(id) of a shared word or bucket is
    `to_shared * power + to_frequency * u` or `to_bucket * power`, plus what the cache's pairs add.

    Attributes:
        powers: Powers of the model's scores, proportional to its probabilities, from the end's on, `[*, id]`.
        to_shared: The factor of the powers of shared words and the end, `[*]`.
        to_frequency: The factor of the client's frequencies of shared words, `[*]`.
        to_bucket: The factor of the powers of buckets, `[*]`.
        to_own: The factor of the frequencies of the client's own words, `[*]`.
        weight: The weight of what followed the word before in the client's text, `[*]`.
        word: The words that followed it, `[*, follower]`; 0 in free places.
        id: Their ids, `[*, follower]`; 0 in free places.
        share: Their probabilities by the cache, `[*, follower]`.
        id_share: The probabilities of their ids by the cache, `[*, follower]`; 0 where an id came before.
        frequency: The client's frequencies of those that are its own words, `[*, follower]`.
        shared: The probability of all shared words and the end together, `[*]`.
        outside: The probability of all other words together, `[*]`.
    """

    powers: Any
    to_shared: Any
    to_frequency: Any
    to_bucket: Any
    to_own: Any
    weight: Any
    word: Any
    id: Any
    share: Any
    id_share: Any
    frequency: Any
    shared: Any
    outside: Any


def before_of(batch: Batch, rows: int) -> Any:
    """The client's numbers of the inputs, `[sentence, position]`."""
    own = batch["own_word"]
    return jnp.where(own > 0, rows - 1 + own, batch["word"])


def target_of(batch: Batch, rows: int) -> Any:
    """The client's numbers of the words that follow, `[sentence, position]`; 0 where none does."""
    own = batch["own_target"]
    return jnp.where(own > 0, rows - 1 + own, batch["target"])


def mixture(logits: Logits, cache: Cache, before: Int[Array, "sentence position"], rows: int) -> Mixture:
    """The distribution of the next word.

    Args:
        logits: The model's scores of all ids, `[sentence, position, id]`.
        cache: The cache of the client.
        before: The client's numbers of the inputs, `[sentence, position]`.
        rows: The first id of a bucket.
    """
    scores = logits[..., END:]
    powers = jnp.exp(scores - jnp.max(scores, -1, keepdims=True))
    cut = rows - END
    inside, beyond = jnp.sum(powers[..., :cut], -1), jnp.sum(powers[..., cut:], -1)
    unigram, sigma, after_shared, after_own, shift = cache.weights
    shared, outside = shifted(inside / (inside + beyond), beyond / (inside + beyond), shift)

    first, end = (
        jnp.searchsorted(cache.before, before.astype(jnp.float32), side=side) for side in ("left", "right")
    )
    places = first[..., None] + jnp.arange(FOLLOWERS)
    there = jnp.arange(FOLLOWERS) < (end - first)[..., None]
    columns = jnp.stack([cache.word, cache.id, cache.share, cache.id_share, cache.seen, cache.frequency], -1)
    follow = jnp.take(columns, jnp.where(there, places, len(columns)), 0, mode="fill", fill_value=0)
    word, id, share, id_share, seen, frequency = jnp.moveaxis(follow, -1, 0)
    seen = seen[..., 0]
    weight = jnp.where(before >= rows, after_own, after_shared) * seen / (seen + 1)
    rest = 1 - weight
    known = jnp.sum(jnp.where(word >= rows, 0, share), -1)
    return Mixture(
        powers=powers,
        to_shared=rest * (1 - unigram) * shared / jnp.maximum(inside, TINY),
        to_frequency=rest * unigram * shared,
        to_bucket=rest * outside / jnp.maximum(beyond, TINY),
        to_own=rest * sigma * outside,
        weight=weight,
        word=word,
        id=id.astype(jnp.int32),
        share=share,
        id_share=id_share,
        frequency=frequency,
        shared=rest * shared + weight * known,
        outside=rest * outside + weight * (jnp.sum(share, -1) - known),
    )


def frequencies(cache: Cache, rows: int) -> Any:
    """u, the client's frequencies of the end and the shared words, `[rows - 2]`; 0 for words it lacks."""
    places = cache.shared_word.astype(jnp.int32) - END
    return jnp.zeros(rows - END).at[jnp.where(places < 0, rows, places)].add(cache.shared_share, mode="drop")


def log_probabilities(mixed: Mixture, frequency: Float[Array, "word"]) -> Any:
    """The logarithms of all ids' probabilities, `[sentence, position, id]`; -inf for padding and begin."""
    cut = frequency.size
    shared = mixed.to_shared[..., None] * mixed.powers[..., :cut] + mixed.to_frequency[..., None] * frequency
    buckets = mixed.to_bucket[..., None] * mixed.powers[..., cut:]
    p = jnp.concatenate([jnp.zeros((*shared.shape[:-1], END)), shared, buckets], -1)
    followed = jnp.arange(p.shape[-1]) == mixed.id[..., None]
    more = jnp.sum(jnp.where(followed, mixed.id_share[..., None], 0), -2)
    return jnp.log(p + mixed.weight[..., None] * more)


def own_log_probabilities(mixed: Mixture, cache: Cache) -> Any:
    """The logarithms of the probabilities of the cache's own words, `[sentence, position, entry]`."""
    same = (mixed.word[..., None] == cache.own_word) & (cache.own_word > 0)
    pairs = jnp.sum(jnp.where(same, mixed.share[..., None], 0), -2)
    return jnp.log(mixed.to_own[..., None] * cache.own_share + mixed.weight[..., None] * pairs)


def mixed_readings(
    mixed: Mixture, cache: Cache, frequency: Float[Array, "word"], batch: Batch, rows: int
) -> dict[str, Mean]:
    """All metrics of next-word models under a mixture, for each sentence.

    Args:
        mixed: The distribution after each input.
        cache: The cache of the client.
        frequency: The client's frequencies of the end and the shared words, `[rows - 2]`.
        batch: The fields of the sentences.
        rows: The first id of a bucket.

    Returns:
        The metrics of `readings`, and `accuracy_own_word` over the tokens outside the vocabulary: whether the
        words outside it together are likelier than every shared word and the end, and of the client's own
        words the token's is the likeliest.
    """
    target, word = batch["target"], target_of(batch, rows)
    cut, own = rows - END, word >= rows

    # The maximum over shared words is that without what the pairs add, or one of the words that they name.
    plain = mixed.to_shared[..., None] * mixed.powers[..., :cut] + mixed.to_frequency[..., None] * frequency
    buckets = mixed.to_bucket[..., None] * mixed.powers[..., cut:]
    named = mixed.id >= END
    place = jnp.maximum(jnp.concatenate([mixed.id, target[..., None]], -1) - END, 0)
    in_shared = place < cut
    power = jnp.take_along_axis(mixed.powers, place, -1)
    common = mixed.to_frequency[..., None] * jnp.take(frequency, place, mode="fill", fill_value=0)
    alone = jnp.where(in_shared, mixed.to_shared[..., None], mixed.to_bucket[..., None]) * power + common
    alone, at_target = alone[..., :-1], alone[..., -1]
    added = mixed.weight[..., None] * mixed.id_share
    with_pairs = jnp.where(named, alone + added, -1.0)
    at_target = at_target + jnp.sum(jnp.where(mixed.id == target[..., None], added, 0), -1)
    pair_shared = in_shared[..., :-1]
    shared_most = jnp.maximum(jnp.max(plain, -1), jnp.max(jnp.where(pair_shared, with_pairs, -1.0), -1))
    others_most = jnp.maximum(jnp.max(buckets, -1), jnp.max(jnp.where(pair_shared, -1.0, with_pairs), -1))
    least = at_target[..., None]
    above = jnp.sum(~(plain <= least), -1) + jnp.sum(~(buckets <= least), -1)
    risen = (added > 0) & (with_pairs > least) & (alone <= least)
    above = above + jnp.sum(risen, -1)

    # The likeliest of the client's own words: its most frequent one, or one that the pairs name.
    usual = mixed.to_own * cache.own_share[0]
    is_own = mixed.word >= rows
    by_pair = jnp.where(
        is_own, mixed.to_own[..., None] * mixed.frequency + mixed.weight[..., None] * mixed.share, -1.0
    )
    best = jnp.argmax(by_pair, -1)[..., None]
    chosen = jnp.where(
        jnp.take_along_axis(by_pair, best, -1)[..., 0] >= usual,
        jnp.take_along_axis(mixed.word, best, -1)[..., 0],
        cache.own_word[0],
    )

    real, shared = target > 0, (target > 0) & (target < rows)
    words, after = shared & (target != END), shared & (batch["bucket"] >= 0)
    loss = -jnp.log(jnp.maximum(at_target, TINY))
    restricted = loss + jnp.log(jnp.maximum(mixed.shared, TINY))
    hit, restricted_hit = at_target >= jnp.maximum(shared_most, others_most), at_target >= shared_most
    return {
        "cross_entropy": tokens(loss, real),
        "accuracy": tokens(hit, real),
        "top_3_accuracy": tokens(above < 3, real),
        "accuracy_no_oov": tokens(hit, shared),
        "accuracy_no_oov_no_end": tokens(hit, words),
        "cross_entropy_restricted": tokens(restricted, shared),
        "accuracy_restricted": tokens(restricted_hit, shared),
        "accuracy_restricted_no_end": tokens(restricted_hit, words),
        "cross_entropy_restricted_after_oov": tokens(restricted, after),
        "accuracy_restricted_after_oov": tokens(restricted_hit, after),
        "oov": tokens(target >= rows, real),
        "accuracy_own_word": tokens((chosen == word) & (mixed.outside >= shared_most), own),
    }
