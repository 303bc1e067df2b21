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
from fedrecon.datasets.text._vocabulary import FIRST_WORD, OWN_FIELDS
from fedrecon.errors import whole_number
from fedrecon.models.next_word._client_cache import Tokens, TokenScores, empty, last, remember
from fedrecon.models.next_word._context_shift import (
    OutputLayer,
    fit_shift,
    no_shift,
    shifted_inputs,
    token_scores,
)
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

    Where the model has an `output_layer`, each of the client's own words also changes the layer's inputs
    after it, by a vector that is fitted to what followed the word; so what is like that becomes likelier,
    too.

    The clients must have the fields of `Vocabulary.encode(clients, own_words=True)`. Local parameters are the
    algorithm's own, the memory, and these vectors. `predict` returns the logarithms of the probabilities of
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

        text = jax.tree.map(lambda x: x.reshape(-1), _tokens_of(fields, support.mask, rows))
        places = last(text, tokens)

        def there(x: Any) -> Any:
            return jnp.take(x, places, axis=0, mode="fill", fill_value=0)

        text = jax.tree.map(there, text)
        if model.output_layer is None:

            def scores(part: Batch) -> TokenScores:
                return token_scores(predict(broadcast.global_params, local, part), part["target"], rows)

            said = jax.tree.map(lambda x: there(x.reshape(-1)), in_chunks(scores, fields, CHUNK))
            return local, remember(text, said, rows), ()
        layer = _inputs(model, broadcast.global_params, local, fields)
        layer = layer._replace(inputs=there(layer.inputs.reshape(-1, layer.inputs.shape[-1])))
        shift, said = fit_shift(text, layer, token_scores(layer.scores(), text.id, rows), rows)
        return local, remember(text, said, rows), shift

    return replace(
        algorithm,
        personal_model=_view(model, rows, tokens),
        personalize=personalize,
        hyperparameters={**algorithm.hyperparameters, "own_words": tokens},
    )


def _inputs(model: Model, g: Params, local: Params, fields: Batch) -> OutputLayer:
    """The output layer, with its inputs made for a few sentences at a time."""
    assert model.output_layer is not None
    output_layer = model.output_layer
    inputs = in_chunks(lambda part: output_layer(g, local, part)[0], fields, CHUNK)
    blank = {name: x[:1] for name, x in fields.items()}
    _, kernel, bias = output_layer(g, local, blank)  # the compiler drops what makes this one's inputs
    return OutputLayer(inputs, kernel, bias)


def _tokens_of(fields: Batch, mask: Any, rows: int) -> Tokens:
    word = jnp.where(mask[:, None], target_of(fields, rows), 0)
    return Tokens(before_of(fields, rows), word, fields["target"])


def _view(model: Model, rows: int, tokens: int) -> Model:
    predict: Any = model.predict

    def scores(g: Params, x: Params, features: Batch) -> Any:
        local, _, shift = x
        if model.output_layer is None:
            return predict(g, local, features)
        layer = OutputLayer(*model.output_layer(g, local, features))
        return shifted_inputs(layer, shift, before_of(features, rows)).scores()

    def init_local(g: Params, key: PRNGKey) -> Params:
        local = model.init_local(g, key)
        if model.output_layer is None:
            return local, empty(tokens), ()
        blank = {name: jnp.zeros((1, 1), jnp.int32) for name in _FIELDS}
        kernel = jax.eval_shape(model.output_layer, g, local, blank)[1]
        return local, empty(tokens), no_shift(kernel.shape[0])

    def mixed_predict(g: Params, x: Params, features: Batch) -> Any:
        cache = x[1]
        mixed = mixture(scores(g, x, features), cache, before_of(features, rows), rows)
        ids = log_probabilities(mixed, frequencies(cache, rows))
        return jnp.concatenate([ids, own_log_probabilities(mixed, cache)], -1)

    def metrics(g: Params, x: Params, batch: Batch) -> dict[str, Mean]:
        cache = x[1]
        frequency = frequencies(cache, rows)

        def scored(part: Batch) -> dict[str, Mean]:
            mixed = mixture(scores(g, x, part), cache, before_of(part, rows), rows)
            return mixed_readings(mixed, cache, frequency, part, rows)

        return in_chunks(scored, {name: batch[name] for name in _FIELDS}, CHUNK)

    view = replace(
        model,
        init_local=init_local,
        loss=lambda g, x, batch, key: model.loss(g, x[0], batch, key),
        metrics=metrics,
        predict=mixed_predict,
        penalty=lambda g, x: model.penalty(g, x[0]),
        local_tables=tuple(replace(table, leaf=f"0/{table.leaf}") for table in model.local_tables),
        loss_and_metrics=None,
        output_layer=None,
    )
    return view_of(model, view)
