"""What follows a client's own words: a change of the output layer's input after each of them.

A network reads the words outside the vocabulary by few embeddings, so that it knows little of what follows
one of a client's own, and counts of what followed learn slowly: they say nothing of words that are alike.
Here each own word p has a vector v_p, which is added to the input of the output layer where p came before. It
is made by two steps, from 0, towards the maximum of the likelihood of what followed p in the client's text,
less a ridge κ h |v_p|² / 2; each step is

    (n_p H + κ h I)^-1 (Σ_j g_j - κ h v_p),     g_j = e(y_j) - Σ_y q_j(y) e(y),

with j the n_p places after p, y_j the word there, q_j the distribution there with v_p, e(y) the column of the
output layer's matrix that belongs to y, H the covariance of e under the mean of all q_j without vectors, and
h the mean of H's diagonal. Words that are alike have columns that are alike, so that what followed raises
them, too. The ridge κ is the client's, as the weights of its cache are: of a few, and of v = 0, the one under
which the words after its own words are likeliest after one step, each under the vectors of all other places.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from fedrecon.core._types import Number
from fedrecon.datasets.text._vocabulary import END
from fedrecon.models.next_word._client_cache import TINY, Tokens, TokenScores, last
from fedrecon.models.next_word._output_layer import affine

PLACES = 128  # the number of places after own words that are remembered, the last ones
_RIDGES = 1.0, 8.0  # κ, in places that count as much as the belief that v is 0
_MARGIN = 1.0  # by how much the logarithm of a likelihood must be above that of v = 0
_STEPS = 8  # of conjugate gradients
_NO_WORD = 2**30


class OutputLayer(NamedTuple):
    """An output layer and what it is given.

    Attributes:
        inputs: The inputs of the layer, `[*token, width]`.
        kernel: Its matrix, `[width, id]`.
        bias: Its bias, `[id]`.
    """

    inputs: Any
    kernel: Any
    bias: Any

    def scores(self) -> Any:
        """The scores of all ids, `[*token, id]`."""
        return affine(self.kernel, self.bias, self.inputs)


class ContextShift(NamedTuple):
    """The vectors of a client's own words, in float32.

    Attributes:
        before: The client's number of the word before, `[place]`; the same word may come several times.
        vector: What is added to the output layer's input after it, `[place, width]`.
    """

    before: Any
    vector: Any


def no_shift(width: int) -> ContextShift:
    """The vectors of a client without text; `width` is the number of the output layer's inputs."""
    return ContextShift(jnp.full(PLACES, float(_NO_WORD)), jnp.zeros((PLACES, width)))


def shifted_inputs(
    layer: OutputLayer, shift: ContextShift, before: Int[Array, "sentence position"]
) -> OutputLayer:
    """The output layer with the inputs after each of a client's own words changed.

    Args:
        layer: The output layer, with inputs `[sentence, position, width]`.
        shift: The client's vectors.
        before: The client's numbers of the words before.
    """
    same = before[..., None] == shift.before
    vector = jnp.where(jnp.any(same, -1)[..., None], shift.vector[jnp.argmax(same, -1)], 0)
    return layer._replace(inputs=layer.inputs + vector.astype(layer.inputs.dtype))


def token_scores(scores: Float[Array, "*token id"], id: Int[Array, "*token"], rows: int) -> TokenScores:
    """What scores of all ids say of tokens.

    Args:
        scores: The scores, of which those of padding and begin are not read.
        id: The ids of the tokens.
        rows: The first id of a bucket.
    """
    p = jax.nn.softmax(scores[..., END:], -1)
    shared = jnp.sum(p[..., : rows - END], -1)
    target = jnp.take_along_axis(p, jnp.maximum(id - END, 0)[..., None], -1)[..., 0]
    return TokenScores(target, shared, 1 - shared)


def fit_shift(
    tokens: Tokens, layer: OutputLayer, scores: TokenScores, rows: int
) -> tuple[ContextShift, TokenScores]:
    """The vectors of a client's own words, and what the network says of the tokens with them.

    Args:
        tokens: The client's tokens, `[entry]`.
        layer: The output layer with the inputs before each of them, `[entry, width]`.
        scores: What the network says of them without the vectors, `[entry]`.
        rows: The first id of a bucket.

    Returns:
        The vectors; and the scores, in which each token after an own word has the vector of the other places.
    """
    after_own = Tokens(tokens.before, jnp.where(tokens.before >= rows, tokens.word, 0), tokens.id)
    places = last(after_own, PLACES)
    here = jax.tree.map(lambda x: jnp.take(x, places, axis=0, mode="fill", fill_value=0), after_own)
    plain = jax.tree.map(lambda x: jnp.take(x, places, axis=0, mode="fill", fill_value=0), scores)
    x = jnp.take(layer.inputs, places, axis=0, mode="fill", fill_value=0).astype(jnp.float32)
    real = here.word > 0
    columns = layer.kernel[:, END:].T.astype(jnp.float32)

    def distribution(inputs: Float[Array, "place width"]) -> Any:
        return jax.nn.softmax(affine(layer.kernel, layer.bias, inputs)[..., END:], -1)

    def gradients(inputs: Float[Array, "place width"]) -> Any:
        expected = distribution(inputs) @ columns
        return jnp.where(real[:, None], columns[jnp.maximum(here.id - END, 0)] - expected, 0)

    q, gradient = distribution(x), gradients(x)
    mean = jnp.sum(jnp.where(real[:, None], q, 0), 0) / jnp.maximum(jnp.sum(real), 1)
    center = mean @ columns
    covariance = (columns * mean[:, None]).T @ columns - jnp.outer(center, center)
    unit = jnp.maximum(jnp.trace(covariance) / center.size, TINY)
    same = (here.before[:, None] == here.before) & real[:, None] & real
    total, count = same.astype(jnp.float32) @ gradient, jnp.sum(same, 1).astype(jnp.float32)

    def without_itself(ridge: Float[Array, ""]) -> TokenScores:
        vector = _solve(covariance, jnp.maximum(count - 1, 0), ridge * unit, total - gradient)
        return token_scores(affine(layer.kernel, layer.bias, x + vector), here.id, rows)

    ridges = jnp.array(_RIDGES)
    tried = jax.vmap(without_itself)(ridges)
    likelihood = _likelihood(tried.target, real) - _likelihood(plain.target, real) - _MARGIN
    best = jnp.argmax(likelihood)
    helps, ridge = likelihood[best] > 0, ridges[best] * unit
    vector = _solve(covariance, count, ridge, total)
    moved = gradients(x + vector)
    vector += _solve(covariance, count, ridge, same.astype(jnp.float32) @ moved - ridge * vector)
    # Near the maximum, leaving out a place moves the vector by a step along the place's gradient.
    others = vector - _solve(covariance, jnp.maximum(count - 1, 0), ridge, moved)
    others = jnp.where(count[:, None] > 1, others, 0)
    left_out = token_scores(affine(layer.kernel, layer.bias, x + others), here.id, rows)
    vector = jnp.where(helps, vector, 0)
    better = jax.tree.map(lambda a, b: jnp.where(helps, a, b), left_out, plain)
    known = jnp.where(real, here.before, _NO_WORD).astype(jnp.float32)
    everywhere = jax.tree.map(lambda a, b: a.at[places].set(b, mode="drop"), scores, better)
    return ContextShift(known, vector), everywhere


def _likelihood(target: Float[Array, "*ridge place"], real: Bool[Array, "place"]) -> Any:
    return jnp.sum(jnp.where(real, jnp.log(jnp.maximum(target, TINY)), 0), -1)


def _solve(
    covariance: Float[Array, "width width"],
    count: Float[Array, "place"],
    ridge: Float[Array, ""],
    right: Float[Array, "place width"],
) -> Any:
    """The solutions v of (count · covariance + ridge · I) v = right, by some steps of conjugate gradients.

    Too few steps leave v shorter than it would be, as a larger ridge does.
    """

    def step(_: Number, carry: tuple[Any, Any, Any, Any]) -> tuple[Any, Any, Any, Any]:
        v, rest, way, square = carry
        image = count[:, None] * (way @ covariance) + ridge * way
        length = square / jnp.maximum(jnp.sum(way * image, -1), TINY)
        v, rest = v + length[:, None] * way, rest - length[:, None] * image
        new = jnp.sum(rest * rest, -1)
        return v, rest, rest + (new / jnp.maximum(square, TINY))[:, None] * way, new

    start = jnp.zeros_like(right), right, right, jnp.sum(right * right, -1)
    return jax.lax.fori_loop(0, _STEPS, step, start)[0]
