"""Completion of a prompt for a new user, with and without the user's local parameters."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool

from fedrecon.algorithms._base import Algorithm, Broadcast
from fedrecon.core._examples import Examples
from fedrecon.core._types import Batch, Params
from fedrecon.data._clients import Clients
from fedrecon.datasets.text._encode import Writer, to_clients
from fedrecon.datasets.text._tokenizers import Tokenizer
from fedrecon.datasets.text._vocabulary import BEGIN, END, PADDING, Vocabulary
from fedrecon.errors import whole_number
from fedrecon.models.next_word._client_cache import own_numbers

STOP, OTHER = "(end of sentence)", "(another word)"


class Completion(NamedTuple):
    """The most probable next words after a prompt, the most probable first.

    Attributes:
        general: Words and their probabilities by the initial local parameters, which know no user's words.
            All buckets together are shown as "(another word)".
        personal: Words and their probabilities by the local parameters that were reconstructed from the
            user's text. A bucket is shown as the user's most frequent word in it, if there is one; all other
            buckets together are shown as "(another word)". An algorithm of `with_own_words` shows the user's
            own words one by one, and all that is outside the vocabulary and none of them as "(another word)".
    """

    general: list[tuple[str, float]]
    personal: list[tuple[str, float]]


def complete(
    algorithm: Algorithm,
    global_params: Params,
    round: int,
    vocabulary: Vocabulary,
    history: Sequence[str],
    prompts: Sequence[str],
    *,
    tokenize: Tokenizer,
    length: int,
    most: int = 5,
    seed: int = 0,
) -> list[Completion]:
    """Reconstructs a user from its text and predicts what follows each of some prompts.

    Args:
        algorithm: The algorithm that trained the parameters.
        global_params: The global parameters of the server.
        round: The number of rounds after which the parameters were taken.
        vocabulary: The vocabulary of the run.
        history: The user's sentences, which are the support set.
        prompts: The beginnings of sentences; of a longer one only the last `length` words count.
        tokenize: The tokenizer of the run.
        length: The number of words to which a sentence is cut.
        most: The largest number of words to return; 5 by default.
        seed: The seed of the client's draws; 0 by default.

    Returns:
        What follows each prompt, in their order.

    Raises:
        DataError: `history` contains no word.
        ValueError: A number is not a whole number, or is out of its range.
    """
    length, most = whole_number("length", length, 1), whole_number("most", most, 1)
    round, seed = whole_number("round", round, 0), whole_number("seed", seed)
    texts = to_clients([Writer("user", history, "the history")], tokenize, None, length, "the history")
    # Whether the user's own words are predicted one by one, and not by their buckets alone.
    by_word = "own_words" in algorithm.hyperparameters
    encoded = vocabulary.encode(texts, by_word)["user"]
    key = jax.random.key(seed)
    global_params = jax.tree.map(jnp.asarray, global_params)
    kept = algorithm.init_client_state(global_params, key)

    @jax.jit
    def reconstruct(mask: Bool[Any, "example"]) -> Params:
        broadcast = Broadcast(global_params, jnp.int32(round))
        return algorithm.personalize(broadcast, kept, Examples(jax.tree.map(jnp.asarray, encoded), mask), key)

    @jax.jit
    def probabilities(local: Params, batch: Batch) -> Any:
        assert algorithm.personal_model.predict is not None
        scores = algorithm.personal_model.predict(global_params, local, batch)[0, -1]
        if by_word:
            return jnp.exp(scores)
        return jax.nn.softmax(scores.at[jnp.array([PADDING, BEGIN])].set(-jnp.inf))

    def likeliest(local: Params, batch: Batch, names: list[str]) -> list[tuple[str, float]]:
        p = np.asarray(probabilities(local, batch))
        nobodys = np.array([i >= vocabulary.rows and name is OTHER for i, name in enumerate(names)])
        # All buckets without a name are one choice together; padding and begin cannot follow a word.
        choices = [(names[i], float(p[i])) for i in np.flatnonzero(~nobodys) if i >= END]
        if nobodys.any():
            choices.append((OTHER, float(p[nobodys].sum())))
        return sorted(choices, key=lambda choice: -choice[1])[:most]

    def likeliest_words(local: Params, batch: Batch) -> list[tuple[str, float]]:
        p = np.asarray(probabilities(local, batch))
        shared, outside, by_name = np.split(p, [vocabulary.rows, vocabulary.classes])
        choices = [(names[i], float(shared[i])) for i in range(END, vocabulary.rows)]
        for number, probability in zip(own_numbers(local[1], vocabulary.rows), by_name, strict=True):
            if number:
                choices.append((own_words[number - 1], float(probability)))
        # The words of the user are among those that are outside the vocabulary.
        choices.append((OTHER, max(float(outside.sum() - by_name.sum()), 0.0)))
        return sorted(choices, key=lambda choice: -choice[1])[:most]

    own_words = [word for word in texts.vocabularies["token"][1:] if not vocabulary.row_of(word)]
    names, count = _names(vocabulary), len(encoded["word"])
    named = _with_own(names, vocabulary, texts)
    # Without its text the user has the parameters of somebody of whom nothing is known.
    nobody, user = (reconstruct(np.arange(count) < support_size) for support_size in (0, count))
    numbers = {word: number for number, word in enumerate(own_words, 1)}
    batches = [_prompt(vocabulary, tokenize(prompt), length, numbers) for prompt in prompts]
    if by_word:
        return [Completion(likeliest_words(nobody, x), likeliest_words(user, x)) for x in batches]
    return [Completion(likeliest(nobody, x, names), likeliest(user, x, named)) for x in batches]


def _prompt(
    vocabulary: Vocabulary, words: list[str], length: int, numbers: Mapping[str, int]
) -> dict[str, Any]:
    """A prompt as a batch of one sentence.

    Args:
        vocabulary: The vocabulary of the run.
        words: The words of the prompt.
        length: The largest number of inputs, of which the last ones count.
        numbers: The numbers of the user's own words.
    """
    inputs = [(BEGIN, -1, 0)]
    for word in words:
        # A word that the user never used has a number that none of its words has.
        own = 0 if vocabulary.row_of(word) else numbers.get(word, len(numbers) + 1)
        inputs.append((vocabulary.row_of(word), vocabulary.local_row_of(word), own))
    rows, buckets, own_words = np.array(inputs[-length:], np.int32).T
    return {"word": rows[None], "bucket": buckets[None], "own_word": own_words[None]}


def _names(vocabulary: Vocabulary) -> list[str]:
    """The text by which each id is shown, without a user's words."""
    names = [*vocabulary.named().tolist(), *[OTHER] * vocabulary.output_buckets]
    names[END] = STOP
    return names


def _with_own(names: Sequence[str], vocabulary: Vocabulary, texts: Clients) -> list[str]:
    """The texts of all ids, each bucket named by the user's most frequent word in it, if there is one."""
    names = list(names)
    lexicon = texts.vocabularies["token"]
    used = Counter(lexicon[i] for i in texts.column("token").reshape(-1).tolist() if i)
    for word, _ in reversed(used.most_common()):
        if not vocabulary.row_of(word):
            names[vocabulary.id_of(word)] = word
    return names
