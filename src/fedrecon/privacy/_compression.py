"""Fewer bytes in what clients send: stochastic rounding to a few bits, and the largest entries alone.

Neither protects anybody: rounding keeps the direction of every row, and which entries are largest shows the
items, see docs/privacy.md.
"""

import math
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from fedrecon.algorithms._base import Algorithm, Broadcast, Update
from fedrecon.algorithms._building_blocks import subkeys
from fedrecon.core._examples import Examples
from fedrecon.core._mean import Mean
from fedrecon.core._model import without_tables
from fedrecon.core._random import uniform
from fedrecon.core._tags import tagged
from fedrecon.core._types import Params, PRNGKey
from fedrecon.errors import of_kind
from fedrecon.privacy._clipping import dense

_WHOLE = 32  # bits of a number that is not rounded
_BITS = (4, 8, _WHOLE)
_NUMBER_BYTES = 4  # of a leaf's scale, and of an entry's place
_FIRST_KEY = 1000  # of the keys that rounding draws from, far from those of any algorithm


@tagged("privacy/compression", later=("error_feedback",))
@dataclass(frozen=True)
class Compression:
    """How a client's delta is made smaller before it is sent.

    Attributes:
        bits: The number of bits of an entry: 4 or 8 (the default), to which it is rounded at random so that
            its expectation stays, or 32 for no rounding.
        top: The share of a leaf's entries that are sent, the largest ones; 1.0, the default, for all. Without
            error feedback it is the share of the entries that are not 0.
        error_feedback: Whether clients keep what was not sent, and add it to their next delta; False by
            default.

    Raises:
        ValueError: `bits` or `top` is out of its range, or there is nothing to feed back.
    """

    bits: int = 8
    top: float = 1.0
    error_feedback: bool = False

    def __post_init__(self) -> None:
        if self.bits not in _BITS:
            raise ValueError(f"bits must be 4, 8 or 32, got {self.bits!r}")
        if not 0 < self.top <= 1:
            raise ValueError(f"top must be above 0 and at most 1, got {self.top!r}")
        if self.error_feedback and (self.bits, self.top) == (_WHOLE, 1.0):
            raise ValueError("error_feedback must be False where all is sent, with bits 32 and top 1")

    def __call__(self, delta: Params, key: PRNGKey) -> Params:
        """What the server reads of a client's delta.

        Args:
            delta: The delta of one client; of tables, the rows that the client sends.
            key: The random key of the client in this round.
        """
        leaves, structure = jax.tree.flatten(delta)
        keys = subkeys(key, len(leaves), first=_FIRST_KEY)
        sent = [self._rounded(self._largest(x), k) for x, k in zip(leaves, keys, strict=True)]
        return jax.tree.unflatten(structure, sent)

    def bytes_of(self, entries: int) -> int:
        """The bytes that so many entries of a leaf take, without the leaf's scale."""
        place = _NUMBER_BYTES if self.top < 1 else 0
        return math.ceil(math.ceil(entries * self.top) * (self.bits / 8 + place))

    @property
    def bytes_of_scale(self) -> int:
        """The bytes that every leaf takes for its scale."""
        return 0 if self.bits == _WHOLE else _NUMBER_BYTES

    def _largest(self, x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        """The largest entries, and 0 for the others; without error feedback only those that are not 0 count.

        Padding is 0, so that it does not count either.
        """
        if self.top == 1 or not x.size:
            return x
        sizes = jnp.sort(jnp.abs(x).reshape(-1), descending=True)
        # What is fed back spreads over ever more entries: their number must not decide how many are sent.
        entries = x.size if self.error_feedback else jnp.count_nonzero(x)
        count = jnp.ceil(entries * self.top).astype(jnp.int32)
        least = sizes[jnp.maximum(count - 1, 0)]
        # What is no number is kept: it must not be taken for a small one.
        return jnp.where(jnp.abs(x) < least, 0, x)

    def _rounded(self, x: Float[Array, "*shape"], key: PRNGKey) -> Float[Array, "*shape"]:
        """Entries on a grid of as many steps as the bits have; up or down at random, so that means stay."""
        if self.bits == _WHOLE or not x.size:
            return x
        levels = 2 ** (self.bits - 1) - 1
        wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
        scale = jnp.max(jnp.abs(wide)) / levels
        steps = wide / jnp.where(scale > 0, scale, 1)
        rounded = jnp.floor(steps + uniform(key, x.shape, 0.0, 1.0))
        # A delta that is not finite stays so, and is dropped as it is without compression.
        return (jnp.clip(rounded, -levels, levels) * scale).astype(x.dtype)


def compressed(
    algorithm: Algorithm, bits: int = 8, top: float = 1.0, error_feedback: bool = False
) -> Algorithm:
    """An algorithm whose clients send fewer bytes: rounded entries, or the largest ones alone.

    Simulations count the bytes that leave clients accordingly. To make it private as well, `user_level_dp` is
    applied to the result: it clips what was rounded.

    Args:
        algorithm: The algorithm to compress; its clients send deltas.
        bits: The number of bits of an entry that is sent: 4, 8 (the default) or 32.
        top: The share of a leaf's entries that are not 0 to send, the largest ones, above 0 and at most 1;
            1.0, the default, sends all entries. With error feedback, the share of all entries.
        error_feedback: Whether clients keep what was not sent and add it to their delta of the next time:
            they keep whole tables then, and send entries of any row. False by default.

    Raises:
        ValueError: A number is out of its range, there is nothing to feed back, or the algorithm sends no
            deltas, is private or compressed.

    References:
        Konečný et al., Federated Learning: Strategies for Improving Communication Efficiency, 2016; Alistarh
        et al., QSGD, NeurIPS 2017, for stochastic rounding; Seide et al., 1-Bit Stochastic Gradient Descent,
        Interspeech 2014, and Karimireddy et al., Error Feedback Fixes SignSGD, ICML 2019, for error feedback.
    """
    of_kind(Algorithm, algorithm=algorithm)
    compression = Compression(bits, top, error_feedback)
    if algorithm.exchanges != "parameters":
        raise ValueError(
            f"algorithm must be one whose clients send deltas, but {algorithm.name} exchanges "
            f"{algorithm.exchanges}"
        )
    if algorithm.privacy is not None or algorithm.compression is not None:
        kind = "private" if algorithm.privacy is not None else "compressed"
        raise ValueError(f"algorithm must not be {kind} before it is compressed, got {algorithm!r}")

    def client_update(
        broadcast: Broadcast, client_state: Any, examples: Examples, key: Any
    ) -> tuple[Update, Any]:
        update, client_state = algorithm.client_update(broadcast, client_state, examples, key)
        delta = compression(update.delta.value(), key)
        return update._replace(delta=Mean.of(delta, update.delta.weight)), client_state

    wrapped = replace(algorithm, client_update=client_update)
    if error_feedback:
        wrapped = _with_error_feedback(algorithm, compression)
    return replace(
        wrapped,
        compression=compression,
        hyperparameters={**algorithm.hyperparameters, "compression": compression},
    )


def _with_error_feedback(algorithm: Algorithm, compression: Compression) -> Algorithm:
    """An algorithm whose clients keep, beside their own state, what compression left out of their deltas.

    What is left out has the shape of whole tables, so that clients work on these.
    """

    def init_client_state(global_params: Params, key: PRNGKey) -> Any:
        own = algorithm.init_client_state(global_params, key)
        return own, jax.tree.map(
            lambda x: jnp.zeros(x.shape, jnp.promote_types(x.dtype, jnp.float32)), global_params
        )

    def client_update(
        broadcast: Broadcast, client_state: Any, examples: Examples, key: Any
    ) -> tuple[Update, Any]:
        own, left = client_state
        update, own = algorithm.client_update(broadcast, own, examples, key)
        delta = dense(update.delta.value(), update.rows, broadcast.global_params)
        wanted = jax.tree.map(lambda a, b: a.astype(b.dtype) + b, delta, left)
        sent = compression(wanted, key)
        # A client that is dropped or has no query example sends nothing, and keeps what it had.
        counts = update.delta.weight > 0
        left = jax.tree.map(lambda a, b, old: jnp.where(counts, a - b, old), wanted, sent, left)
        sent = jax.tree.map(lambda x, like: x.astype(like.dtype), sent, broadcast.global_params)
        return update._replace(delta=Mean.of(sent, update.delta.weight), rows={}), (own, left)

    def personalize(broadcast: Broadcast, client_state: Any, support: Examples, key: Any) -> Params:
        return algorithm.personalize(broadcast, client_state[0], support, key)

    return replace(
        algorithm,
        model=without_tables(algorithm.model),
        init_client_state=init_client_state,
        client_update=client_update,
        personalize=personalize,
    )
