"""Metrics of next-word models: losses and accuracies per token."""

import math
from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PyTree, Shaped

from fedrecon.core._mean import Mean
from fedrecon.core._model import Model, Table
from fedrecon.core._model_functions import InitGlobalFn, InitLocalFn
from fedrecon.core._types import Batch, Params, PRNGKey
from fedrecon.datasets.text._vocabulary import END
from fedrecon.models.next_word._output_layer import affine, scored

# The number of sentences that go through the network at a time in an evaluation, and of sentences whose
# scores of all ids are held at a time: the scores of many vectorised clients would otherwise not fit a CPU's
# cache.
CHUNK = 16
SCORED = 2

Logits = Float[Array, "sentence position id"]
Targets = Int[Array, "sentence position"]


@runtime_checkable
class InnerFn(Protocol):
    """Computes the input of a network's output layer."""

    def __call__(
        self, global_params: Params, local_params: Params, batch: Batch, /
    ) -> Float[Array, "sentence position width"]:
        """The input of the output layer, in the dtype of the products' factors.

        Args:
            global_params: The global parameters of the network.
            local_params: The client's local parameters.
            batch: The fields of the batch's sentences, each `[sentence, position]`.
        """


def loss_and_hits(
    kernel: Float[Array, "width id"],
    bias: Float[Array, " id"],
    x: Float[Array, "sentence position width"],
    target: Targets,
) -> tuple[Mean, Mean]:
    """The cross-entropy and the accuracy of each sentence, as sums over its tokens with their number.

    The first is the sum of -log p(target), the second the number of tokens whose id has the highest score; a
    tie counts as a hit.

    Args:
        kernel: The matrix of the output layer, `[width, id]`.
        bias: The bias of the output layer, `[id]`.
        x: The input of the output layer, `[sentence, position, width]`.
        target: The id of the word that followed, `[sentence, position]`; 0 where no word followed.
    """
    losses, hits = scored(kernel, bias, x.reshape(-1, x.shape[-1]), target.reshape(-1))
    real = target > 0
    return tokens(losses.reshape(target.shape), real), tokens(hits.reshape(target.shape), real)


def readings(logits: Logits, target: Targets, bucket: Targets, rows: int) -> dict[str, Mean]:
    """All metrics of next-word models, for each sentence.

    Args:
        logits: The scores of all ids, `[sentence, position, id]`, float32.
        target: The id of the word that followed, `[sentence, position]`; 0 where no word followed.
        bucket: The local row of the input word, `[sentence, position]`; -1 where it has none.
        rows: The first id of a bucket; lower ids are the shared words, padding, begin and end.

    Returns:
        `cross_entropy`, `accuracy` and `top_3_accuracy` over all tokens; `accuracy_no_oov` over those that
        are no bucket; `accuracy_no_oov_no_end` over those that are no end of a sentence either;
        `accuracy_restricted`, `accuracy_restricted_no_end` and `cross_entropy_restricted` over the same,
        with the choice among shared words and the end alone, so that the number of buckets changes
        neither what is asked nor what can be answered; `accuracy_restricted_after_oov` and
        `cross_entropy_restricted_after_oov` over those of these that follow a bucket, where its embedding
        says most; `oov`, the share of tokens that are a bucket.
    """
    real, shared = target > 0, (target > 0) & (target < rows)
    words = shared & (target != END)
    picked = _at(logits, target)
    # The maximum and the sum over all ids are merged from those of the shared words and of the rest, which
    # the restricted metrics need anyway: each score is read once for a maximum and once for a sum.
    known, others = logits[..., END:rows], jnp.concatenate([logits[..., :END], logits[..., rows:]], -1)
    known_most, known_sum = jnp.max(known, -1), jax.nn.logsumexp(known, -1)
    hit = picked >= jnp.maximum(known_most, jnp.max(others, -1))
    log_sum = jnp.logaddexp(known_sum, jax.nn.logsumexp(others, -1))
    above = jnp.sum(~(logits <= picked[..., None]), -1)  # NaN counts as above the target
    return {
        "cross_entropy": tokens(log_sum - picked, real),
        "accuracy": tokens(hit, real),
        "top_3_accuracy": tokens(above < 3, real),
        "accuracy_no_oov": tokens(hit, shared),
        "accuracy_no_oov_no_end": tokens(hit, words),
        "cross_entropy_restricted": tokens(known_sum - picked, shared),
        "accuracy_restricted": tokens(picked >= known_most, shared),
        "accuracy_restricted_no_end": tokens(picked >= known_most, words),
        "cross_entropy_restricted_after_oov": tokens(known_sum - picked, shared & (bucket >= 0)),
        "accuracy_restricted_after_oov": tokens(picked >= known_most, shared & (bucket >= 0)),
        "oov": tokens(target >= rows, real),
    }


def predicts_words(init_global: InitGlobalFn, init_local: InitLocalFn, inner: InnerFn, rows: int) -> Model:
    """Makes a next-word model from a network without its output layer.

    Args:
        init_global: Draws the global parameters. Their leaf `embedding` is the table of the shared words; the
            leaves `output/kernel`, `[width, id]`, and `output/bias`, `[id]`, are the output layer.
        init_local: Draws a client's local parameters.
        inner: Computes the input of the output layer, `(global_params, local_params, batch) -> [sentence,
            position, width]`, in the dtype of the products' factors.
        rows: The number of rows of the table of the shared words.

    Returns:
        A model with the metrics of `readings`; training reports `accuracy` only.
    """

    def output_layer(g: Params, x: Params, batch: Batch) -> tuple[Any, Any, Any]:
        return inner(g, x, batch), g["output"]["kernel"], g["output"]["bias"]

    def predict(g: Params, x: Params, batch: Batch) -> Logits:
        inputs, kernel, bias = output_layer(g, x, batch)
        return affine(kernel, bias, inputs)

    def loss_and_metrics(
        g: Params, x: Params, batch: Batch, key: PRNGKey | None
    ) -> tuple[Mean, dict[str, Mean]]:
        layer = g["output"]["kernel"], g["output"]["bias"]
        losses, hits = loss_and_hits(*layer, inner(g, x, batch), batch["target"])
        return losses, {"accuracy": hits}

    def loss(g: Params, x: Params, batch: Batch, key: PRNGKey | None) -> Mean:
        return loss_and_metrics(g, x, batch, key)[0]

    def metrics(g: Params, x: Params, batch: Batch) -> dict[str, Mean]:
        layer = g["output"]["kernel"], g["output"]["bias"]

        def scores(part: Batch) -> dict[str, Mean]:
            return readings(affine(*layer, part["inner"]), part["target"], part["bucket"], rows)

        def through(part: Batch) -> dict[str, Mean]:
            read = {name: part[name] for name in ("target", "bucket")}
            return in_chunks(scores, {"inner": inner(g, x, part), **read}, SCORED)

        fields = {name: batch[name] for name in ("word", "bucket", "target")}
        return in_chunks(through, fields, CHUNK)

    return Model(
        init_global=init_global,
        init_local=init_local,
        loss=loss,
        metrics=metrics,
        predict=predict,
        tables=(Table("embedding", ("word",)),),
        loss_and_metrics=loss_and_metrics,
        output_layer=output_layer,
    )


def in_chunks(fn: Callable[[PyTree], PyTree], batch: Batch, most: int) -> Any:
    """Applies a function to a few sentences of a batch at a time, since all scores may not fit in memory.

    Args:
        fn: The function, from a pytree of arrays `[sentence, ...]` to another one.
        batch: The argument of `fn`, a pytree of arrays `[sentence, ...]`.
        most: The largest number of sentences that go through `fn` at a time.
    """
    size = jax.tree.leaves(batch)[0].shape[0]
    chunks = math.ceil(size / most)
    if chunks <= 1:
        return fn(batch)
    spare = chunks * most - size
    padded = jax.tree.map(lambda x: jnp.pad(x, [(0, spare)] + [(0, 0)] * (x.ndim - 1)), batch)
    parts = jax.tree.map(lambda x: x.reshape(chunks, most, *x.shape[1:]), padded)
    results = jax.lax.map(fn, parts)
    return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:])[:size], results)


def _at(logits: Logits, target: Targets) -> Any:
    return jnp.take_along_axis(logits, target[..., None], -1)[..., 0]


def tokens(values: Shaped[Array, "sentence position"], count: Bool[Array, "sentence position"]) -> Mean:
    """The sums of some values over the tokens of each sentence that count, with the number of these."""
    weight = count.astype(jnp.float32)
    return Mean(jnp.sum(jnp.where(count, values, 0), -1).astype(jnp.float32), jnp.sum(weight, -1))
