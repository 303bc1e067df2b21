"""Completion of a prompt for a new user, with and without the user's local parameters."""

from collections import Counter
from collections.abc import Sequence
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

STOP, OTHER = "(end of sentence)", "(another word)"


class Completion(NamedTuple):
    """The most probable next words after a prompt, the most probable first.

    Attributes:
        general: Words and their probabilities by the initial local parameters, which know no user's words.
            All buckets together are shown as "(another word)".
        personal: Words and their probabilities by the local parameters that were reconstructed from the
            user's text. A bucket is shown as the user's most frequent word in it, if there is one; all other
            buckets together are shown as "(another word)".
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
    encoded = vocabulary.encode(texts)["user"]
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
        return jax.nn.softmax(scores.at[jnp.array([PADDING, BEGIN])].set(-jnp.inf))

    def likeliest(local: Params, batch: Batch, names: list[str]) -> list[tuple[str, float]]:
        p = np.asarray(probabilities(local, batch))
        nobodys = np.array([i >= vocabulary.rows and name is OTHER for i, name in enumerate(names)])
        # All buckets without a name are one choice together; padding and begin cannot follow a word.
        choices = [(names[i], float(p[i])) for i in np.flatnonzero(~nobodys) if i >= END]
        if nobodys.any():
            choices.append((OTHER, float(p[nobodys].sum())))
        return sorted(choices, key=lambda choice: -choice[1])[:most]

    names, count = _names(vocabulary), len(encoded["word"])
    named = _with_own(names, vocabulary, texts)
    # Without its text the user has the parameters of somebody of whom nothing is known.
    nobody, user = (reconstruct(np.arange(count) < support_size) for support_size in (0, count))
    batches = [_prompt(vocabulary, tokenize(prompt), length) for prompt in prompts]
    return [Completion(likeliest(nobody, x, names), likeliest(user, x, named)) for x in batches]


def _prompt(vocabulary: Vocabulary, words: list[str], length: int) -> dict[str, Any]:
    inputs = [(BEGIN, -1), *((vocabulary.row_of(word), vocabulary.local_row_of(word)) for word in words)]
    rows, buckets = np.array(inputs[-length:], np.int32).T
    return {"word": rows[None], "bucket": buckets[None]}


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
