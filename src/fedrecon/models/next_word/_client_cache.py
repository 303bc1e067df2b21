"""A cache over a client's own text: counts of words and of pairs of words, and weights that are fitted to it.

The words of a client are numbered: a shared word by its id, its n-th word outside the vocabulary by
`rows - 1 + n`. With p the word before, y a word, B the model's probability that a word is outside the
vocabulary, and c the counts of the client's text, the distribution is

    p(y) = (1 - λ_p) a(y) + λ_p c(p, y) / c(p),         λ_p = λ c(p) / (c(p) + 1),
    a(y) = (1 - w) model(y) + w (1 - B) u(y)            for a shared word,
    a(y) = σ B u'(y)                                    for a word of the client's own,

where u and u' are the frequencies of shared words and of the client's own words among their kind, and σ
leaves room for words that the client has not used yet. There are two λ: a model knows what follows a shared
word, and hardly what follows one of the client's own. Before B is used, its logit is moved by β, since some
clients use more words outside the vocabulary than others. The weights w, σ, both λ and β are the client's.

References:
    Kuhn and De Mori, A Cache-Based Natural Language Model for Speech Recognition, 1990, for a cache of
    unigrams; Jelinek and Mercer, Interpolated Estimation of Markov Source Parameters, 1980, for weights of a
    mixture that are fitted by expectation maximisation to counts from which a text itself is left out.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Num

from fedrecon.core._types import Number

# What is believed of a weight before a client's text is seen: the mean of a Beta distribution is the weight
# of a client without text, the sum is the number of tokens that count as much as the belief.
_UNIGRAM = 2.0, 48.0
_OWN = 2.0, 8.0
_AFTER_SHARED = 2.0, 38.0
_AFTER_OWN = 2.0, 8.0
_TOKENS_OF_SHIFT = 10.0  # the same number for β, whose belief is the normal distribution of mean 0
_STEPS = 12  # of expectation maximisation
_NEWTON = 4  # steps that fit β
FOLLOWERS = 16  # different words that are remembered after one word, the most frequent ones
TINY = 1e-30
_NO_WORD = 2**30  # the number of the word before in free places, which come last; float32 holds it exactly


class Tokens(NamedTuple):
    """Tokens of a text, in one axis.

    Attributes:
        before: The client's number of the word before, `[token]`.
        word: The client's number of the word, `[token]`; 0 for a place without a token.
        id: The id of the word, `[token]`: for a word outside the vocabulary that of its bucket.
    """

    before: Int[Array, "*token"]
    word: Int[Array, "*token"]
    id: Int[Array, "*token"]


class TokenScores(NamedTuple):
    """What a model says of tokens.

    Attributes:
        target: The probability of the token's id, `[token]`.
        shared: The probability of all shared words and the end together, `[token]`.
        outside: The probability of all buckets together, `[token]`.
    """

    target: Float[Array, "*token"]
    shared: Float[Array, "*token"]
    outside: Float[Array, "*token"]


class Cache(NamedTuple):
    """All that a client's text tells its predictions, in float32, as all local parameters are.

    Attributes:
        before: The words before, ascending: of each remembered pair of words the first, `[entry]`.
        word: The second word of the pair, `[entry]`, more frequent ones first where the first is the same.
        id: The id of the second word, `[entry]`.
        share: The share c(p, y) / c(p) of the pair among those that begin alike, `[entry]`; 0 in free places.
        id_share: The same of all words of this id together, in the first entry of each id, `[entry]`; 0 in
            the others.
        seen: c(p), the number of tokens of the pairs that begin alike, `[entry]`.
        frequency: u' of the second word, `[entry]`; 0 for a shared one.
        own_word: The client's own words, the most frequent first, and of two as frequent ones the one that
            was used last, `[entry]`; 0 in free places.
        own_share: u', their frequencies, `[entry]`.
        shared_word: Ids of the shared words of the text, `[entry]`; 0 in free places.
        shared_share: The frequency of one token of the text among those of shared words, `[entry]`; 0 in free
            places. That of a word, u, is the sum over its places.
        weights: w, σ, λ after a shared word, λ after an own word, and β, `[5]`.
    """

    before: Any
    word: Any
    id: Any
    share: Any
    id_share: Any
    seen: Any
    frequency: Any
    own_word: Any
    own_share: Any
    shared_word: Any
    shared_share: Any
    weights: Any


def empty(entries: int) -> Cache:
    """The cache of a client without text.

    Args:
        entries: The number of tokens that a cache has room for.
    """
    nothing = jnp.zeros(entries)
    weights = jnp.append(_prior().at[0].set(0.0), 0.0)
    return Cache._make([nothing + _NO_WORD, *[nothing] * 10, weights])


def _prior() -> Any:
    pairs = jnp.array([_UNIGRAM, _OWN, _AFTER_SHARED, _AFTER_OWN])
    return pairs[:, 0] / pairs.sum(1)


def last(tokens: Tokens, entries: int) -> Any:
    """The places of the last tokens of a text, in the text's order.

    Args:
        tokens: The tokens of the text, `[token]`.
        entries: The number of places to return.

    Returns:
        Places `[entry]`; free ones hold the number of tokens and come first.
    """
    size = tokens.word.size
    places = jnp.sort(jnp.where(tokens.word > 0, jnp.arange(size), -1))
    places = jnp.where(places < 0, size, places)[max(size - entries, 0) :]
    return jnp.concatenate([jnp.full(entries - places.size, size), places])


def remember(tokens: Tokens, scores: TokenScores, rows: int) -> Cache:
    """The cache of some tokens, with weights under which each token is likely given the others.

    Args:
        tokens: The tokens to remember, `[entry]`.
        scores: What the model says of them, `[entry]`.
        rows: The first id of a bucket.
    """
    real, own = tokens.word > 0, tokens.word >= rows
    size, index = real.size, jnp.arange(real.size)
    by_word = _groups(jnp.where(real, tokens.word, _NO_WORD))
    by_before = _groups(jnp.where(real, tokens.before, _NO_WORD))
    # Places in sorted order take the place of the numbers, whose product might need more than 32 bits.
    by_pair = _groups(jnp.where(real, by_before.first * size + by_word.first, size * size))
    weights = _fit(tokens, scores, by_before.count, by_pair.count, by_word.count, rows)
    # Without a shared word there is no frequency to mix with.
    weights = weights.at[0].multiply(jnp.any(real & ~own))

    # Of equal pairs the last one stands for all. Pairs are ordered by their first word, then by their number,
    # and then, by a stable sort of the reversed text, the last one first.
    first = jnp.where(real & by_pair.is_last, by_before.first, size)
    order = index[::-1][jnp.argsort((first * (size + 1) + size - by_pair.count)[::-1], stable=True)]
    begin = _groups(first[order])
    here = (first[order] < size) & (index - begin.first < FOLLOWERS)
    counts = jnp.where(here, by_pair.count[order], 0)
    sums = jnp.concatenate([jnp.zeros(1, counts.dtype), jnp.cumsum(counts)])
    seen = sums[begin.first + begin.count] - sums[begin.first]
    word, id = tokens.word[order], tokens.id[order]
    share = counts / jnp.maximum(seen, 1)
    id_share = _by_id(jnp.where(here, first[order], size + index), id, share)
    own_total = jnp.maximum(jnp.sum(own), 1)
    frequency = jnp.where(own, by_word.count, 0)[order] / own_total
    # What was dropped after a frequent word leaves gaps, which go to the end.
    tidy = jnp.argsort(jnp.where(here, first[order], size), stable=True)

    named = own & by_word.is_last
    by_use = index[::-1][jnp.argsort(jnp.where(named, -by_word.count, 1)[::-1], stable=True)]
    shared = real & ~own

    def ordered(x: Num[Array, "entry"]) -> Any:
        return jnp.where(here, x, 0)[tidy]

    cache = Cache(
        before=jnp.where(here, tokens.before[order], _NO_WORD)[tidy],
        word=ordered(word),
        id=ordered(id),
        share=ordered(share),
        id_share=ordered(id_share),
        seen=ordered(seen),
        frequency=ordered(frequency),
        own_word=jnp.where(named, tokens.word, 0)[by_use],
        own_share=jnp.where(named, by_word.count, 0)[by_use] / own_total,
        shared_word=jnp.where(shared, tokens.word, 0),
        shared_share=shared / jnp.maximum(jnp.sum(shared), 1),
        weights=weights,
    )
    return jax.tree.map(lambda x: x.astype(jnp.float32), cache)


class _Groups(NamedTuple):
    """Equal numbers of an array.

    Attributes:
        first: The place of the first equal number in sorted order, `[entry]`.
        count: The number of equal numbers, `[entry]`.
        is_last: Whether no equal number comes after, `[entry]`.
    """

    first: Any
    count: Any
    is_last: Any


def _groups(numbers: Int[Array, "entry"]) -> _Groups:
    """Equal numbers, found by sorting: to compare all pairs takes several times as long."""
    order = jnp.argsort(numbers, stable=True)
    first, end = (jnp.searchsorted(numbers[order], numbers, side=side) for side in ("left", "right"))
    return _Groups(first, end - first, order[end - 1] == jnp.arange(numbers.size))


def _by_id(first: Int[Array, "entry"], id: Int[Array, "entry"], share: Float[Array, "entry"]) -> Any:
    """The shares of all pairs with the same first word and id, in the first of them; 0 in the others.

    Args:
        first: A number for each first word, equal ones side by side, at most `FOLLOWERS` of them.
        id: The ids of the second words.
        share: The shares of the pairs.
    """
    total, is_first = share, jnp.ones(share.size, bool)
    for distance in range(1, min(FOLLOWERS, share.size)):
        same = (first[distance:] == first[:-distance]) & (id[distance:] == id[:-distance])
        total = total.at[:-distance].add(jnp.where(same, share[distance:], 0))
        is_first = is_first.at[distance:].set(is_first[distance:] & ~same)
    return jnp.where(is_first, total, 0)


def _fit(
    tokens: Tokens,
    scores: TokenScores,
    begin: Int[Array, "entry"],
    pair: Int[Array, "entry"],
    word: Int[Array, "entry"],
    rows: int,
) -> Any:
    """The weights of a cache, by expectation maximisation.

    A token does not count for itself: the weights would else trust what they have memorised.

    Args:
        tokens: The tokens to remember, `[entry]`.
        scores: What the model says of them, `[entry]`.
        begin: The number of tokens after the same word, `[entry]`.
        pair: The number of those that are the same word, `[entry]`.
        word: The number of tokens that are the same word, `[entry]`.
        rows: The first id of a bucket.
    """
    real, own = tokens.word > 0, tokens.word >= rows
    before, pairs, words = (x.astype(jnp.float32) - 1 for x in (begin, pair, word))
    of_kind = jnp.where(own, jnp.sum(own), jnp.sum(real & ~own)) - 1
    unigram, bigram = words / jnp.maximum(of_kind, 1), pairs / jnp.maximum(before, 1)
    trust = before / (before + 1)
    after_own = tokens.before >= rows
    shift = _shift(own, real, scores)
    shared, outside = shifted(scores.shared, scores.outside, shift)
    model = scores.target * shared / jnp.maximum(scores.shared, TINY)

    def posterior(prior: tuple[float, float], yes: Any, no: Any, where: Any) -> Any:
        for_it, against = (jnp.sum(jnp.where(where & real, x, 0)) for x in (yes, no))
        return (for_it + prior[0]) / (for_it + against + sum(prior))

    def step(weights: Float[Array, "weight"], _: None) -> tuple[Any, None]:
        w, sigma, after_shared_word, after_own_word = weights
        weight = jnp.where(after_own, after_own_word, after_shared_word)
        new_word = jnp.where(words > 0, 0, (1 - sigma) * outside)
        by_model = jnp.where(own, new_word, (1 - w) * model)
        by_unigram = jnp.where(own, sigma * outside, w * shared) * unigram
        base = by_model + by_unigram
        total = jnp.maximum((1 - weight * trust) * base + weight * trust * bigram, TINY)
        in_base = (1 - weight * trust) * base / total
        used = in_base * by_unigram / jnp.maximum(base, TINY)
        # λ decides where the word before is trusted, which it is with probability `trust`.
        by_pair, no_pair = weight * trust * bigram / total, (1 - weight) * trust * base / total
        new = [
            posterior(_UNIGRAM, used, in_base - used, ~own),
            posterior(_OWN, used, in_base - used, own),
            posterior(_AFTER_SHARED, by_pair, no_pair, ~after_own),
            posterior(_AFTER_OWN, by_pair, no_pair, after_own),
        ]
        return jnp.stack(new), None

    weights, _ = jax.lax.scan(step, _prior(), None, length=_STEPS)
    return jnp.append(weights, shift)


def _shift(own: Bool[Array, "entry"], real: Bool[Array, "entry"], scores: TokenScores) -> Any:
    """β, by Newton's method on the likelihood of which tokens are outside the vocabulary."""
    logit = jnp.log(jnp.maximum(scores.outside, TINY)) - jnp.log(jnp.maximum(scores.shared, TINY))
    # A token of probability one half tells as much as a normal belief of precision 1/4.
    belief = _TOKENS_OF_SHIFT / 4

    def step(_: Number, shift: Float[Array, ""]) -> Any:
        p = jax.nn.sigmoid(logit + shift)
        slope = jnp.sum(jnp.where(real, own - p, 0)) - belief * shift
        return shift + slope / (jnp.sum(jnp.where(real, p * (1 - p), 0)) + belief)

    return jax.lax.fori_loop(0, _NEWTON, step, jnp.zeros(()))


def shifted(shared: Num[Array, "*token"], outside: Num[Array, "*token"], shift: Float[Array, ""]) -> Any:
    """The probabilities of shared words and of all others, after a shift of the logit of the latter."""
    moved = outside * jnp.exp(shift)
    scale = (shared + outside) / jnp.maximum(shared + moved, TINY)
    return shared * scale, moved * scale


def own_numbers(cache: Cache, rows: int) -> list[int]:
    """The numbers of a client's own words in a cache, from 1, in its order; 0 for a free place.

    Args:
        cache: The cache of one client.
        rows: The first id of a bucket.
    """
    return [int(word) - rows + 1 if word else 0 for word in np.asarray(cache.own_word).tolist()]
