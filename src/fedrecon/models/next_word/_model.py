"""The paper's next-word LSTM, with the embeddings of words outside of the shared vocabulary local."""

from typing import Any, Literal

import jax
import jax.numpy as jnp

from fedrecon.core._model import Model
from fedrecon.core._random import uniform
from fedrecon.core._types import Batch, Params, PRNGKey
from fedrecon.datasets.text._vocabulary import FIRST_WORD
from fedrecon.errors import whole_number
from fedrecon.models.next_word._lstm import lstm
from fedrecon.models.next_word._metrics import predicts_words
from fedrecon.models.next_word._output_layer import affine


def next_word_lstm(
    words: int,
    buckets: int,
    output_buckets: int | None = None,
    *,
    embedding: int = 96,
    hidden: int = 670,
    precision: Literal["float32", "bfloat16"] = "float32",
) -> Model:
    """A network of an embedding, an LSTM, a dense layer and a dense output layer to all ids.

    Global are the embeddings of padding, begin, end and the shared words, the LSTM and both dense layers
    (the outputs for the buckets included); local are the embeddings of the buckets. An example is a sentence;
    losses and metrics are sums over its tokens, so that a client's weight is its number of tokens.

    Batches have the fields `word`, `bucket` and `target`, int `[position]`: see `Vocabulary.encode`. The
    embedding of an input is the local row where there is one, and else the global one.

    Args:
        words: The number of shared words, which have global rows.
        buckets: The number of local rows, which all other words share.
        output_buckets: The number of output ids of the other words; None, the default, for as many as
            `buckets`.
        embedding: The length of an embedding and the width of the first dense layer; 96, the paper's, by
            default.
        hidden: The number of units of the LSTM; 670, the paper's, by default.
        precision: The type of the factors of matrix products, `"float32"` by default; sums, states and
            parameters are float32 in any case.

    Returns:
        A model with the metrics of `readings`, of which training reports `accuracy` only. `predict` takes
        `word` and `bucket` and returns scores, `[sentence, position, id]`.

    Raises:
        ValueError: A number is not a whole number, or is out of its range.

    References:
        Singhal et al., Federated Reconstruction, NeurIPS 2021, section 5.1, and Reddi et al., Adaptive
        Federated Optimization, 2021, for the network; initial parameters are those of Keras' layers.
    """
    words, buckets = whole_number("words", words, 0), whole_number("buckets", buckets, 1)
    embedding, hidden = whole_number("embedding", embedding, 1), whole_number("hidden", hidden, 1)
    outputs = buckets if output_buckets is None else whole_number("output_buckets", output_buckets, 1)
    rows = words + FIRST_WORD
    classes = rows + outputs
    dtype = jnp.dtype(precision)

    def init_global(key: PRNGKey) -> Any:
        keys = jax.random.split(key, 5)
        glorot, orthogonal = jax.nn.initializers.glorot_uniform(), jax.nn.initializers.orthogonal()
        # The bias of the forget gate starts at 1, so that the cell keeps its content at first.
        bias = jnp.zeros(4 * hidden).at[hidden : 2 * hidden].set(1.0)
        return {
            "embedding": _uniform(keys[0], (rows, embedding)),
            "lstm": {
                "kernel": glorot(keys[1], (embedding, 4 * hidden)),
                "recurrent": orthogonal(keys[2], (hidden, 4 * hidden)),
                "bias": bias,
            },
            "dense": {"kernel": glorot(keys[3], (hidden, embedding)), "bias": jnp.zeros(embedding)},
            "output": {"kernel": glorot(keys[4], (embedding, classes)), "bias": jnp.zeros(classes)},
        }

    def init_local(global_params: Params, key: PRNGKey) -> Any:
        return {"embedding": _uniform(key, (buckets, embedding))}

    def inner(g: Params, x: Params, batch: Batch) -> Any:
        shared = g["embedding"][batch["word"]]
        own = x["embedding"][jnp.maximum(batch["bucket"], 0)]
        inputs = jnp.where(batch["bucket"][..., None] >= 0, own, shared).astype(dtype)
        weights = g["lstm"]
        h = lstm(weights["kernel"], weights["recurrent"], weights["bias"], jnp.swapaxes(inputs, 0, 1))
        dense = affine(g["dense"]["kernel"], g["dense"]["bias"], h.astype(dtype))
        return jnp.swapaxes(dense.astype(dtype), 0, 1)

    return predicts_words(init_global, init_local, inner, rows)


def _uniform(key: PRNGKey, shape: tuple[int, ...]) -> Any:
    """The initial values of Keras' embedding layer, U(-0.05, 0.05)."""
    return uniform(key, shape, -0.05, 0.05)
