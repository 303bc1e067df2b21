"""What follows a client's own words: a change of the output layer's input after each of them.

A network reads the words outside the vocabulary by few embeddings, so that it knows little of what follows
one of a client's own, and counts of what followed learn slowly: they say nothing of words that are alike.
Here each own word p has a vector v_p, which is added to the input of the output layer where p came before. It
is the step of Newton's method from 0 towards the largest probability of what followed p in the client's text:

    v_p = (n_p H + κ S^-1)^-1 Σ_j (e(y_j) - Σ_y q_j(y) e(y)),

with j the n_p places after p, y_j the word there, q_j the network's distribution there, e(y) the column of
the output layer's matrix that belongs to y, and H the covariance of e under the mean of all q_j. The belief
before the text is seen is that v_p is normal with covariance S/κ, where S is that of the layer's inputs after
shared words: what follows an own word differs from what follows others as these do among themselves. So words
that are alike rise together. κ is the client's, as the weights of its cache are: of a few, and of v = 0, the
one under which the words after its own words are likeliest, each under the vectors of all other places.
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
_STRENGTHS = 1.0, 4.0, 16.0  # of the belief, κ
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

    q = jax.nn.softmax(affine(layer.kernel, layer.bias, x)[..., END:], -1)
    gradient = jnp.where(real[:, None], columns[jnp.maximum(here.id - END, 0)] - q @ columns, 0)
    mean = jnp.sum(jnp.where(real[:, None], q, 0), 0) / jnp.maximum(jnp.sum(real), 1)
    curvature = _covariance(columns, mean)
    after_shared = (tokens.word > 0) & (tokens.before < rows)
    share = after_shared / jnp.maximum(jnp.sum(after_shared), 1)
    belief = _covariance(layer.inputs.astype(jnp.float32), share)
    same = ((here.before[:, None] == here.before) & real[:, None] & real).astype(jnp.float32)
    total, count = same @ gradient, jnp.sum(same, 1)

    def without_itself(strength: Float[Array, ""]) -> TokenScores:
        vector = _solve(curvature, belief, jnp.maximum(count - 1, 0), strength, total - gradient)
        return token_scores(affine(layer.kernel, layer.bias, x + vector), here.id, rows)

    strengths = jnp.array(_STRENGTHS)
    tried = jax.vmap(without_itself)(strengths)
    likelihood = _likelihood(tried.target, real) - _likelihood(plain.target, real) - _MARGIN
    best = jnp.argmax(likelihood)
    helps = likelihood[best] > 0
    vector = jnp.where(helps, _solve(curvature, belief, count, strengths[best], total), 0)
    better = jax.tree.map(lambda a, b: jnp.where(helps, a[best], b), tried, plain)
    known = jnp.where(real, here.before, _NO_WORD).astype(jnp.float32)
    everywhere = jax.tree.map(lambda a, b: a.at[places].set(b, mode="drop"), scores, better)
    return ContextShift(known, vector), everywhere


def _likelihood(target: Float[Array, "*ridge place"], real: Bool[Array, "place"]) -> Any:
    return jnp.sum(jnp.where(real, jnp.log(jnp.maximum(target, TINY)), 0), -1)


def _covariance(x: Float[Array, "row width"], weight: Float[Array, " row"]) -> Any:
    """The covariance of rows whose weights add up to 1."""
    mean = weight @ x
    return (x * weight[:, None]).T @ x - jnp.outer(mean, mean)


def _solve(
    curvature: Float[Array, "width width"],
    belief: Float[Array, "width width"],
    count: Float[Array, " place"],
    strength: Float[Array, ""],
    right: Float[Array, "place width"],
) -> Any:
    """The solutions v of (count · curvature + strength · belief^-1) v = right, by some conjugate gradients.

    They are found as v = belief · w, so that nothing is inverted; w solves (count · curvature · belief +
    strength) w = right, a matrix that is symmetric under the inner product by the belief. Too few steps leave
    v shorter than it would be, as a stronger belief does.
    """

    def product(a: Float[Array, "place width"], b: Float[Array, "place width"]) -> Any:
        return jnp.sum(a * b, -1, keepdims=True)

    def step(_: Number, carry: tuple[Any, Any, Any, Any]) -> tuple[Any, Any, Any, Any]:
        v, rest, way, square = carry
        ahead = way @ belief
        image = count[:, None] * (ahead @ curvature) + strength * way
        length = square / jnp.maximum(product(ahead, image), TINY)
        v, rest = v + length * ahead, rest - length * image
        new = product(rest, rest @ belief)
        return v, rest, rest + new / jnp.maximum(square, TINY) * way, new

    start = jnp.zeros_like(right), right, right, product(right, right @ belief)
    return jax.lax.fori_loop(0, _STEPS, step, start)[0]
