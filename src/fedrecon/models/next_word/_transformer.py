"""A small next-word Transformer, with low-rank local changes of its attention matrices."""

from typing import Any, Literal

import jax
import jax.numpy as jnp
from jaxtyping import Float

from fedrecon.core._model import Model
from fedrecon.core._random import normal
from fedrecon.core._types import Batch, Params, PRNGKey
from fedrecon.datasets.text._vocabulary import FIRST_WORD
from fedrecon.errors import whole_number
from fedrecon.models.next_word._metrics import predicts_words

_PARTS = ("query", "key", "value", "output")


def next_word_transformer(
    words: int,
    buckets: int,
    output_buckets: int | None = None,
    *,
    embedding: int = 64,
    heads: int = 4,
    layers: int = 2,
    rank: int = 4,
    precision: Literal["float32", "bfloat16"] = "float32",
) -> Model:
    """A causal Transformer of pre-normalised layers, whose output layer shares no weights with the embedding.

    Global are all parameters of the Transformer, with an embedding for each bucket. Local is, for each of a
    layer's four attention matrices W, a change A B of low rank: x W + (x A) B. A starts at random and B at
    zero, so that a fresh client has the global model. Positions are encoded by sines, for any length.

    Args:
        words: The number of shared words, which have global rows.
        buckets: The number of embeddings that all other words share.
        output_buckets: The number of output ids of the other words; None, the default, for as many as
            `buckets`.
        embedding: The length of an embedding, even and a multiple of `heads`; 64 by default.
        heads: The number of attention heads; 4 by default.
        layers: The number of layers, at least 1; 2 by default.
        rank: The rank of the local changes of the matrices; 4 by default.
        precision: The type of the factors of products with parameters, `"float32"` by default; products
            within the attention are float32 in any case.

    Returns:
        A model with the batch fields, metrics and `predict` of `next_word_lstm`.

    Raises:
        ValueError: `embedding` is not a multiple of `heads`, or is odd; or a number is not a whole number, or
            is out of its range.

    References:
        Vaswani et al., Attention Is All You Need, 2017; Hu et al., LoRA, 2021.
    """
    words, buckets = whole_number("words", words, 0), whole_number("buckets", buckets, 1)
    outputs = buckets if output_buckets is None else whole_number("output_buckets", output_buckets, 1)
    embedding, heads = whole_number("embedding", embedding, 1), whole_number("heads", heads, 1)
    layers, rank = whole_number("layers", layers, 1), whole_number("rank", rank, 1)
    if embedding % heads or embedding % 2:
        raise ValueError(f"embedding must be even and a multiple of heads = {heads}, got {embedding}")
    rows = words + FIRST_WORD
    classes = rows + outputs
    dtype = jnp.dtype(precision)
    glorot = jax.nn.initializers.glorot_uniform()

    def init_global(key: PRNGKey) -> Any:
        k_rows, k_buckets, k_out, *k_layers = jax.random.split(key, 3 + layers)

        def layer(key: PRNGKey) -> Any:
            keys = jax.random.split(key, 6)
            made = {part: glorot(k, (embedding, embedding)) for part, k in zip(_PARTS, keys[:4], strict=True)}
            made |= {
                "up": glorot(keys[4], (embedding, 4 * embedding)),
                "down": glorot(keys[5], (4 * embedding, embedding)),
            }
            return made | {"scale": jnp.ones((2, embedding))}

        normal = jax.nn.initializers.normal(0.1)
        return {
            "embedding": normal(k_rows, (rows, embedding)),
            "bucket": normal(k_buckets, (buckets, embedding)),
            "layers": [layer(k) for k in k_layers],
            "scale": jnp.ones(embedding),
            "output": {"kernel": glorot(k_out, (embedding, classes)), "bias": jnp.zeros(classes)},
        }

    def init_local(global_params: Params, key: PRNGKey) -> Any:
        starts = normal(key, (layers, len(_PARTS), embedding, rank)) / jnp.sqrt(embedding)
        zeros = jnp.zeros((rank, embedding))
        return [
            {part: {"a": a, "b": zeros} for part, a in zip(_PARTS, layer, strict=True)} for layer in starts
        ]

    def product(x: Float[Any, "..."], matrix: Float[Any, "inner outer"]) -> Any:
        return jnp.matmul(x.astype(dtype), matrix.astype(dtype), preferred_element_type=jnp.float32)

    def attend(layer: Params, own: Params, x: Float[Any, "..."]) -> Any:
        def project(part: str, x: Float[Any, "..."]) -> Any:
            return product(x, layer[part]) + product(product(x, own[part]["a"]), own[part]["b"])

        def split(x: Float[Any, "..."]) -> Any:
            return x.reshape(*x.shape[:-1], heads, -1)

        query, key, value = (split(project(part, x)) for part in _PARTS[:3])
        scores = jnp.einsum("sqhd,skhd->shqk", query, key) / jnp.sqrt(query.shape[-1])
        seen = jnp.tril(jnp.ones(scores.shape[-2:], bool))
        weights = jax.nn.softmax(jnp.where(seen, scores, -jnp.inf), -1)
        mixed = jnp.einsum("shqk,skhd->sqhd", weights, value).reshape(x.shape)
        return project("output", mixed)

    def inner(g: Params, x: Params, batch: Batch) -> Any:
        bucket = batch["bucket"]
        own = g["bucket"][jnp.maximum(bucket, 0)]
        h = jnp.where(bucket[..., None] >= 0, own, g["embedding"][batch["word"]])
        h = h + _positions(h.shape[1], embedding)
        for layer, low_rank in zip(g["layers"], x, strict=True):
            h = h + attend(layer, low_rank, _normalise(h) * layer["scale"][0])
            h = h + product(
                jax.nn.gelu(product(_normalise(h) * layer["scale"][1], layer["up"])), layer["down"]
            )
        return (_normalise(h) * g["scale"]).astype(dtype)

    return predicts_words(init_global, init_local, inner, rows)


def _normalise(x: Float[Any, "..."]) -> Any:
    return x * jax.lax.rsqrt(jnp.mean(x * x, -1, keepdims=True) + 1e-6)


def _positions(length: int, size: int) -> Any:
    """Sines and cosines of the positions, `[position, size]`, scaled by 0.1 to the size of the embeddings."""
    angles = jnp.arange(length)[:, None] / 10_000 ** (jnp.arange(size // 2) * 2 / size)
    return 0.1 * jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], -1)
