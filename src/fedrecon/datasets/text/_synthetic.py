"""A generated corpus whose truth is known: clients with words of their own, whose kinds their text tells."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from fedrecon.data._clients import Clients
from fedrecon.datasets.text._encode import Writer, to_clients
from fedrecon.errors import whole_number

_NONE = -1


class Grammar(NamedTuple):
    """The truth behind a corpus.

    A sentence is a walk over kinds of words. A word of kind k is one of the words that all share, or with
    `private` probability one of the client's own of that kind; the next one's kind is drawn from row k.

    Attributes:
        following: The probabilities of the next kind of word given the kind before, `[kind, kind]`.
        shared: `[kind, word]`, probabilities of the shared words of a kind.
        private: Probability that a word is one of the client's own.
        own_words: Words of its own that a client has of each kind.
    """

    following: Float[np.ndarray, "kind kind"]
    shared: Float[np.ndarray, "kind word"]
    private: float
    own_words: int

    def words(self) -> list[str]:
        """The shared words, the most frequent of each kind first: `"0.3"` is word 3 of kind 0."""
        kinds, words = self.shared.shape
        return [f"{kind}.{word}" for word in range(words) for kind in range(kinds)]

    def cross_entropy(self, knows_own: bool) -> float:
        """Mean of -log p of the next shared word, given that it is shared and the word before, under the best
        predictor.

        Args:
            knows_own: Whether it knows the kind of a client's own words, as well reconstructed local
                parameters do. If not, it learns from such a word only that one was there.
        """
        kinds = len(self.following)
        frequency = np.linalg.matrix_power(self.following.T, 200) @ np.full(kinds, 1 / kinds)
        words = -np.sum(self.shared * np.log(np.maximum(self.shared, 1e-300)), axis=1)

        def entropy(p: np.ndarray) -> float:
            return float(-np.sum(p * np.log(np.maximum(p, 1e-300))) + p @ words)

        known = float(sum(f * entropy(p) for f, p in zip(frequency, self.following, strict=True)))
        unknown = entropy(frequency @ self.following)
        return known if knows_own else (1 - self.private) * known + self.private * unknown


def synthetic(
    num_clients: int = 400,
    *,
    sentences: int = 60,
    kinds: int = 8,
    words: int = 25,
    own_words: int = 1,
    private: float = 0.25,
    length: int = 20,
    seed: int = 0,
) -> tuple[Clients, Grammar]:
    """Generates texts.

    Args:
        num_clients: The number of clients, at least 1; 400 by default.
        sentences: The number of sentences of a client; 60 by default.
        kinds: The number of kinds of words, at least 2; 8 by default.
        words: The number of shared words of each kind; 25 by default.
        own_words: The number of a client's own words of each kind, 1 by default: `~12.3` is client 12's word
            3.
        private: Probability that a word is one of its writer's own, in [0, 1); 0.25 by default.
        length: The largest number of words of a sentence, 20 by default; each sentence has from 4 words to
            this many.
        seed: The seed of all draws; 0 by default.

    Returns:
        Clients `writer 0`, …, as `text.to_clients` makes them, and the truth.

    Raises:
        ValueError: An argument is out of its range.
    """
    num_clients = whole_number("num_clients", num_clients, 1)
    sentences = whole_number("sentences", sentences, 1)
    words, own_words = whole_number("words", words, 1), whole_number("own_words", own_words, 1)
    kinds, length = whole_number("kinds", kinds, 2), whole_number("length", length, 4)
    seed = whole_number("seed", seed, 0)
    if not 0 <= private < 1:
        raise ValueError(f"private must lie in [0, 1), got {private}")
    random = np.random.default_rng(seed)
    often = 1 / np.arange(3, words + 3)
    following = random.dirichlet(np.full(kinds, 0.15), kinds)
    grammar = Grammar(following, np.tile(often / often.sum(), (kinds, 1)), private, own_words)
    writers = (
        Writer(f"writer {i}", _text(random, grammar, i, sentences, length), f"writer {i}")
        for i in range(num_clients)
    )
    return to_clients(writers, str.split, None, length, "the generated corpus"), grammar


def _text(
    random: np.random.Generator, grammar: Grammar, client: int, sentences: int, length: int
) -> list[str]:
    kinds, words = grammar.shared.shape
    following, shared = np.cumsum(grammar.following, 1), np.cumsum(grammar.shared, 1)
    lengths = random.integers(4, length + 1, sentences)
    kind = random.integers(kinds, size=sentences)
    draws = random.random((length, 4, sentences))
    columns = []
    for next_kind, which, own, chosen in draws:
        word = np.minimum((shared[kind] < which[:, None]).sum(1), words - 1)
        mine = np.where(own < grammar.private, (chosen * grammar.own_words).astype(int), _NONE)
        columns.append(
            [f"{k}.{w}" if o == _NONE else f"~{client}.{k * grammar.own_words + o}"
             for k, w, o in zip(kind.tolist(), word.tolist(), mine.tolist(), strict=True)]
        )  # fmt: skip
        kind = np.minimum((following[kind] < next_kind[:, None]).sum(1), kinds - 1)
    return [" ".join(column[i] for column in columns[:n]) for i, n in enumerate(lengths.tolist())]
