"""A client's own words: the next-word model of any algorithm, mixed with a cache over the client's text."""

from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp

from fedrecon.algorithms._base import Algorithm, Broadcast
from fedrecon.core._examples import Examples
from fedrecon.core._mean import Mean
from fedrecon.core._model import Model, view_of
from fedrecon.core._types import Batch, ClientState, Params, PRNGKey
from fedrecon.datasets.text._vocabulary import END, FIRST_WORD, OWN_FIELDS
from fedrecon.errors import whole_number
from fedrecon.models.next_word._client_cache import Tokens, TokenScores, empty, last, remember
from fedrecon.models.next_word._metrics import CHUNK, in_chunks
from fedrecon.models.next_word._mixture import (
    before_of,
    frequencies,
    log_probabilities,
    mixed_readings,
    mixture,
    own_log_probabilities,
    target_of,
)

_FIELDS = ("word", "bucket", "target", *OWN_FIELDS)


def with_own_words(algorithm: Algorithm, words: int, *, tokens: int = 512) -> Algorithm:
    """The same training, with clients that are served by the model and by what their own text says.

    A client remembers the last tokens of its support set, and how often it used which words and pairs of
    words. What it predicts is a mixture of the model's distribution with these frequencies, among them those
    of the client's own words outside the vocabulary, which no output of the model can name. The weights of
    the mixture are local parameters as the memory is: they are fitted to the support set, so that each of
    its tokens is likely by the others. Nothing of it leaves the client or is kept between rounds, and
    training is the same to the bit.

    The clients must have the fields of `Vocabulary.encode(clients, own_words=True)`. Local parameters are a
    pair of the algorithm's own and of the memory. `predict` returns the logarithms of the probabilities of
    all ids and then of the client's own words, `[sentence, position, id + tokens]`; those of a bucket's words
    are also in the bucket's. There is one more metric, `accuracy_own_word`, over tokens outside the
    vocabulary: whether such words together are likelier than every shared word and the end, and the token's
    is the likeliest of the client's own words.

    Args:
        algorithm: The algorithm to serve by. Its `personal_model` is one of this package's, or a model of the
            same fields and ids with `predict`.
        words: The number of shared words.
        tokens: The number of tokens that a client remembers, the last ones of its support set; 512 by
            default.

    Returns:
        An algorithm with another `personalize` and `personal_model`.

    Raises:
        ValueError: A number is not a whole number, or is out of its range; or the model has no `predict`.

    References:
        Kuhn and De Mori, A Cache-Based Natural Language Model for Speech Recognition, 1990.
    """
    rows = whole_number("words", words, 0) + FIRST_WORD
    tokens = whole_number("tokens", tokens, 1)
    model = algorithm.personal_model
    if model.predict is None:
        raise ValueError("own words are mixed with what a model predicts, but this model's predict is None")
    predict: Any = model.predict

    def personalize(
        broadcast: Broadcast, client_state: ClientState, support: Examples, key: PRNGKey
    ) -> Params:
        local = algorithm.personalize(broadcast, client_state, support, key)
        fields = {name: support.data[name] for name in _FIELDS}

        def scores(part: Batch) -> TokenScores:
            p = jax.nn.softmax(predict(broadcast.global_params, local, part)[..., END:], -1)
            at = jnp.maximum(part["target"] - END, 0)[..., None]
            shared = jnp.sum(p[..., : rows - END], -1)
            return TokenScores(jnp.take_along_axis(p, at, -1)[..., 0], shared, 1 - shared)

        every = _tokens_of(fields, support.mask, rows), in_chunks(scores, fields, CHUNK)
        text, said = jax.tree.map(lambda x: x.reshape(-1), every)
        places = last(text, tokens)
        text, said = jax.tree.map(lambda x: jnp.take(x, places, mode="fill", fill_value=0), (text, said))
        return local, remember(text, said, rows)

    return replace(
        algorithm,
        personal_model=_view(model, rows, tokens),
        personalize=personalize,
        hyperparameters={**algorithm.hyperparameters, "own_words": tokens},
    )


def _tokens_of(fields: Batch, mask: Any, rows: int) -> Tokens:
    word = jnp.where(mask[:, None], target_of(fields, rows), 0)
    return Tokens(before_of(fields, rows), word, fields["target"])


def _view(model: Model, rows: int, tokens: int) -> Model:
    predict: Any = model.predict

    def mixed_predict(g: Params, x: Params, features: Batch) -> Any:
        local, cache = x
        mixed = mixture(predict(g, local, features), cache, before_of(features, rows), rows)
        ids = log_probabilities(mixed, frequencies(cache, rows))
        return jnp.concatenate([ids, own_log_probabilities(mixed, cache)], -1)

    def metrics(g: Params, x: Params, batch: Batch) -> dict[str, Mean]:
        local, cache = x
        frequency = frequencies(cache, rows)

        def scored(part: Batch) -> dict[str, Mean]:
            mixed = mixture(predict(g, local, part), cache, before_of(part, rows), rows)
            return mixed_readings(mixed, cache, frequency, part, rows)

        return in_chunks(scored, {name: batch[name] for name in _FIELDS}, CHUNK)

    view = replace(
        model,
        init_local=lambda g, key: (model.init_local(g, key), empty(tokens)),
        loss=lambda g, x, batch, key: model.loss(g, x[0], batch, key),
        metrics=metrics,
        predict=mixed_predict,
        penalty=lambda g, x: model.penalty(g, x[0]),
        local_tables=tuple(replace(table, leaf=f"0/{table.leaf}") for table in model.local_tables),
        loss_and_metrics=None,
    )
    return view_of(model, view)
