"""Splits of a client's examples into support and query set."""

import math
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int

from fedrecon.core._examples import Examples
from fedrecon.core._random import uniform
from fedrecon.core._tags import tagged
from fedrecon.core._types import Number, Numbers, PRNGKey
from fedrecon.errors import plain, store_whole_numbers

_MOST_PACKED = 2**9  # rows whose indices fit beside a draw of 23 bits in a number of 32


@runtime_checkable
class Split(Protocol):
    """Cuts a client's examples into a support and a query set.

    A split is a frozen dataclass, so that it is hashable and run folders can record it. JAX traces it, so
    that the number of valid examples is not known: `examples.mask` holds it.
    """

    def __call__(self, examples: Examples, key: PRNGKey) -> tuple[Examples, Examples]:
        """Cuts the examples; the amount of padding must not change which of them are in which set.

        Args:
            examples: All examples of a client, valid ones first, in the client's own order.
            key: The client's random key, used by splits that draw.

        Returns:
            The support set, to which local parameters are fitted, and the query set, on which the global ones
            are updated or predictions are tested. Valid examples come first; either set may be empty, and one
            example may be in both.
        """


@tagged("split/none")
@dataclass(frozen=True)
class NoSplit:
    """All examples are in both the support and the query set."""

    def __call__(self, examples: Examples, key: PRNGKey | None) -> tuple[Examples, Examples]:
        return examples, examples


@tagged("split/alternate_batches")
@dataclass(frozen=True)
class AlternateBatches:
    """Even-numbered batches are support, odd-numbered ones query; the last one may be short.

    A client with a single batch has no query set. The paper's split for both of its tasks.

    Attributes:
        batch_size: The number of examples in a batch, at least 1, 5 by default. A solver with the same batch
            size sees exactly these batches.
    """

    batch_size: int = 5

    def __post_init__(self) -> None:
        store_whole_numbers(self, 1, "batch_size")

    def __call__(self, examples: Examples, key: PRNGKey | None) -> tuple[Examples, Examples]:
        pair = 2 * self.batch_size
        examples = examples.padded(math.ceil(examples.size / pair) * pair)

        def batches(start: int) -> Any:
            def cut(x: Numbers) -> Any:
                return x.reshape(-1, 2, self.batch_size, *x.shape[1:])[:, start].reshape(-1, *x.shape[1:])

            return jax.tree.map(cut, examples)

        return batches(0), batches(1)


@tagged("split/alternate_examples")
@dataclass(frozen=True)
class AlternateExamples:
    """Even-numbered examples are support, odd-numbered ones query."""

    def __call__(self, examples: Examples, key: PRNGKey | None) -> tuple[Examples, Examples]:
        return AlternateBatches(1)(examples, key)


@tagged("split/half_batches")
@dataclass(frozen=True)
class HalfBatches:
    """The first half of the batches (the larger one, if they are odd in number) is support, the rest query.

    Attributes:
        batch_size: The number of examples in a batch, at least 1.
    """

    batch_size: int

    def __post_init__(self) -> None:
        store_whole_numbers(self, 1, "batch_size")

    def __call__(self, examples: Examples, key: PRNGKey | None) -> tuple[Examples, Examples]:
        def half(count: Number) -> Any:
            return (count + 2 * self.batch_size - 1) // (2 * self.batch_size) * self.batch_size

        size, pair = examples.size, 2 * self.batch_size
        # A shorter client may have a larger query set than the longest one; and there is at least one row.
        rest = max(size - half(size), size // pair * self.batch_size, 1)
        return _cut(examples, jnp.minimum(half(examples.count()), examples.count()), half(size), rest)


@tagged("split/fraction")
@dataclass(frozen=True)
class Fraction:
    """The first examples, in the client's own order, are support and the rest query.

    Attributes:
        support: The share of the examples that are support, in (0, 1), 0.5 by default; their number is
            rounded up.
        query: The share of the examples, the last ones, that are query; None, the default, for all that are
            not support.
    """

    support: float = 0.5
    query: float | None = None

    def __post_init__(self) -> None:
        _share("support", self.support)
        if self.query is not None:
            _share("query", self.query)
            if self.support + self.query > 1 + 1e-9:
                raise ValueError(
                    f"support and query must sum to at most 1, got {plain(self.support)} and "
                    f"{plain(self.query)}"
                )

    def __call__(self, examples: Examples, key: PRNGKey | None) -> tuple[Examples, Examples]:
        number, most = _ceil_share(self.support, examples), math.ceil(self.support * examples.size) + 1
        share = 1 - self.support if self.query is None else self.query
        most_query = math.ceil(share * examples.size) + 1
        if self.query is None:
            return _cut(examples, number, most, most_query)
        rest = examples.count() - _ceil_share(1 - self.query, examples)
        support, _ = _cut(examples, jnp.minimum(number, examples.count() - rest), most, most_query)
        _, query = _cut(examples, examples.count() - rest, most, most_query)
        return support, query


@tagged("split/random_fraction")
@dataclass(frozen=True)
class RandomFraction:
    """A random part of the examples, drawn anew in every round, is support, the rest query.

    Both sets are in random order.

    Attributes:
        support: The share of the examples that are support, in (0, 1), 0.5 by default; their number is
            rounded up.
    """

    support: float = 0.5

    def __post_init__(self) -> None:
        _share("support", self.support)

    def __call__(self, examples: Examples, key: PRNGKey) -> tuple[Examples, Examples]:
        shuffled = examples.take(random_order(key, examples.mask), examples.mask)
        return Fraction(self.support)(shuffled, key)


@tagged("split/by_time")
@dataclass(frozen=True)
class ByTime:
    """The earliest examples are support, the later ones query; equal times keep the client's order.

    Attributes:
        support: The share of the examples that are support, in (0, 1), 0.5 by default; their number is
            rounded up.
        field: Name of the batch field that holds the time; `"time"` by default.
    """

    support: float = 0.5
    field: str = "time"

    def __post_init__(self) -> None:
        _share("support", self.support)

    def __call__(self, examples: Examples, key: PRNGKey | None) -> tuple[Examples, Examples]:
        if self.field not in examples.data:
            raise ValueError(
                f"ByTime splits by the field {self.field!r}, but the examples have {sorted(examples.data)}"
            )
        # A second stable sort moves the padding last: a largest time for it would depend on the times' dtype.
        order = jnp.argsort(examples.data[self.field], stable=True)
        order = order[jnp.argsort(~examples.mask[order], stable=True)]
        return Fraction(self.support)(examples.take(order, examples.mask), key)


@tagged("split/held_out")
@dataclass(frozen=True)
class HeldOut:
    """Marked examples are query, the others support: for clients with examples that `hold_out` marked.

    Attributes:
        field: Name of the batch field that holds the mark, true or not 0 where an example is held out;
            `"held_out"` by default.
    """

    field: str = "held_out"

    def __call__(self, examples: Examples, key: PRNGKey | None) -> tuple[Examples, Examples]:
        if self.field not in examples.data:
            raise ValueError(
                f"HeldOut splits by the field {self.field!r}, but the examples have {sorted(examples.data)}"
            )
        marked = examples.data[self.field] != 0

        def where(chosen: Bool[Any, "row"]) -> Examples:
            chosen = chosen & examples.mask
            return examples.take(jnp.argsort(~chosen, stable=True), jnp.sort(~chosen) == 0)

        return where(~marked), where(marked)


def first_share(examples: Examples, share: float) -> Examples:
    """The first examples of a client.

    Args:
        examples: The examples of one client, valid ones first.
        share: The share of the valid examples to take, in (0, 1]; the number of examples is rounded up.

    Raises:
        ValueError: `share` is not in (0, 1].
    """
    if not 0 < share <= 1:
        raise ValueError(f"share must lie in (0, 1], got {plain(share)}")
    first = jnp.arange(min(math.ceil(share * examples.size) + 1, examples.size))
    return examples.take(first, first < _ceil_share(share, examples))


def random_order(key: PRNGKey, mask: Bool[Any, "example"]) -> Int[Array, "example"]:
    """A random order of the rows with the valid ones first.

    Args:
        key: The random key of the draws.
        mask: Whether each row is valid.
    """
    # The i-th number depends on the key and on i only, so that more padding does not change the order.
    draws = uniform(key, mask.shape)
    if mask.size > _MOST_PACKED or draws.dtype != jnp.float32:
        return jnp.argsort(jnp.where(mask, draws, jnp.inf), stable=True)
    # The same order from one number for each row, its draw (a multiple of 2⁻²³) above its index: a CPU sorts
    # single numbers in a tenth of the time of pairs. Padding, which comes last, has the largest draw of all.
    # With their sign, since the runtimes of exported files sort no unsigned numbers.
    high = jnp.where(mask, (draws * 2**23).astype(jnp.int32), 2**23 - 1) - 2**22
    packed = jnp.sort(high * _MOST_PACKED + jnp.arange(mask.size, dtype=jnp.int32), stable=False)
    return packed & (_MOST_PACKED - 1)


def _ceil_share(share: float, examples: Examples) -> Int[Array, ""]:
    # The subtraction keeps 0.1 * 30 = 3.0000001 in float32 from being rounded up to 4.
    return jnp.ceil(share * examples.count() - 1e-3).astype(jnp.int32)


def _cut(examples: Examples, support: Int[Array, ""], most: int, most_rest: int) -> tuple[Examples, Examples]:
    """The first examples and the rest.

    The bounds are known before tracing and are the sizes of the two sets: rows beyond them, which no client
    can fill, would be work in every step.

    Args:
        examples: The examples of one client, valid ones first.
        support: The number of examples in the first set.
        most: The largest number of examples that the first set can have.
        most_rest: The largest number of examples that the second set can have.
    """
    count, size = examples.count(), examples.size
    first, rest = jnp.arange(min(most, size)), support + jnp.arange(min(most_rest, size))
    return examples.take(first, first < support), examples.take(rest, rest < count)


def _share(name: str, value: float) -> None:
    if not 0 < value < 1:
        raise ValueError(f"{name} must lie between 0 and 1, both excluded, got {plain(value)}")
