"""Splits: which examples they take, in which order, whatever the padding."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedrecon.core._examples import Examples
from fedrecon.core._splits import (
    AlternateBatches,
    AlternateExamples,
    ByTime,
    Fraction,
    HalfBatches,
    NoSplit,
    RandomFraction,
    Split,
    first_share,
    random_order,
)

SIZE = 13
TIMES = np.array([5, 3, 3, 9, 1, 1, 7, 0, 2, 2, 8, 4, 6], np.int32)


def client(count: int, size: int = SIZE) -> Examples:
    """Examples numbered from 0, followed by padding."""
    data = {"number": np.arange(size), "time": np.resize(TIMES, size), "pair": np.zeros((size, 2))}
    return Examples(data, np.arange(size) < count)


@functools.cache
def compiled(split):
    return jax.jit(lambda examples: split(examples, jax.random.key(0)))


def numbers(examples: Examples) -> list[int]:
    """Which examples are valid, in order; they come before the padding."""
    mask = np.asarray(examples.mask)
    assert not np.any(mask[1:] & ~mask[:-1])
    assert all(len(x) == len(mask) for x in examples.data.values())
    return np.asarray(examples.data["number"])[mask].tolist()


def both(split, count):
    return tuple(numbers(part) for part in compiled(split)(client(count)))


def by(is_support):
    return lambda n: (
        [i for i in range(n) if is_support(i, n)],
        [i for i in range(n) if not is_support(i, n)],
    )


SPLITS = {
    AlternateBatches(3): by(lambda i, n: i // 3 % 2 == 0),
    AlternateBatches(5): by(lambda i, n: i // 5 % 2 == 0),
    AlternateBatches(20): by(lambda i, n: True),
    AlternateExamples(): by(lambda i, n: i % 2 == 0),
    HalfBatches(3): by(lambda i, n: i // 3 < (n + 5) // 6),
    HalfBatches(20): by(lambda i, n: True),
    Fraction(0.5): by(lambda i, n: i < -(-n // 2)),
    Fraction(0.1): by(lambda i, n: i < -(-n // 10)),
    NoSplit(): lambda n: (list(range(n)), list(range(n))),
}


@pytest.mark.parametrize("split", SPLITS, ids=repr)
def test_split(split):
    assert isinstance(split, Split)
    for count in range(SIZE + 1):
        assert both(split, count) == SPLITS[split](count)


def test_share_is_not_rounded_up_by_the_error_of_a_float():
    assert len(numbers(Fraction(0.1)(client(30, 30), None)[0])) == 3


def test_by_time_is_stable():
    order = sorted(range(9), key=lambda i: TIMES[i])
    assert both(ByTime(0.5), 9) == (order[:5], order[5:])


def test_by_time_needs_its_field():
    with pytest.raises(ValueError, match=r"splits by the field 'when', but the examples have \['number'"):
        ByTime(0.5, "when")(client(3), jax.random.key(0))


def test_random_fraction_is_fresh_and_even():
    run = jax.jit(jax.vmap(lambda key: RandomFraction(0.5)(client(8), key)))
    support, query = run(jax.random.split(jax.random.key(0), 200))
    drawn = np.stack([np.where(s.mask, s.data["number"], 99)[:4] for s in _each(support)])
    rest = np.stack([q.data["number"][:4] for q in _each(query)])
    assert all(sorted([*a, *b]) == list(range(8)) for a, b in zip(drawn, rest, strict=True))
    assert len({tuple(x) for x in drawn}) > 100
    # Each of the 8 is drawn 100 times of 200, give or take 7.
    np.testing.assert_allclose(np.bincount(drawn.reshape(-1), minlength=8), 100, atol=35)


def _each(stacked):
    stacked = jax.device_get(stacked)
    return [jax.tree.map(lambda x, i=i: x[i], stacked) for i in range(len(stacked.mask))]


@pytest.mark.parametrize("split", [RandomFraction(0.5), ByTime(0.5)], ids=repr)
def test_padding_changes_nothing(split):
    short, long = (jax.jit(split)(client(7, size), jax.random.key(1)) for size in (7, 9))
    assert [numbers(x) for x in short] == [numbers(x) for x in long]


def test_random_order_puts_valid_rows_first():
    order = jax.jit(random_order)(jax.random.key(0), np.arange(SIZE) < 5)
    assert sorted(np.asarray(order[:5]).tolist()) == [0, 1, 2, 3, 4]
    assert np.asarray(order[5:]).tolist() == list(range(5, SIZE))


def test_take_and_count():
    taken = client(5).take(jnp.array([4, 0, 99]), jnp.array([True, True, False]))
    assert numbers(taken) == [4, 0]
    assert taken.count() == 2
    assert taken.size == 3


def test_padded_adds_rows_that_are_not_valid():
    assert client(5).padded(3).size == SIZE
    longer = client(5).padded(20)
    assert longer.size == 20
    assert numbers(longer) == [0, 1, 2, 3, 4]
    assert longer.data["pair"].shape == (20, 2)


@pytest.mark.parametrize("split", [NoSplit(), AlternateBatches(2), AlternateExamples()], ids=repr)
def test_positions_stay_known_where_nothing_moves(split):
    """NumPy arrays while tracing: the positions of the examples, padding included."""
    examples = Examples({"number": np.arange(7)}, np.arange(7) < 4, ("number",))
    known = {}

    def trace(mask):
        parts = split(Examples(examples.data, mask, ("number",)), None)
        known.update(enumerate(p.data["number"] for p in parts))
        return [p.mask for p in parts]

    jax.eval_shape(trace, examples.mask)
    wanted = {
        NoSplit(): (range(7), range(7)),
        AlternateBatches(2): ([0, 1, 4, 5], [2, 3, 6, 7]),
        AlternateExamples(): ([0, 2, 4, 6], [1, 3, 5, 7]),
    }[split]
    for i, positions in enumerate(wanted):
        assert isinstance(known[i], np.ndarray)
        assert known[i].tolist() == list(positions)


@pytest.mark.parametrize("kind", [AlternateBatches, HalfBatches])
@pytest.mark.parametrize("value", [0, -1, True, 2.5])
def test_batch_size_out_of_range(kind, value):
    with pytest.raises((ValueError, TypeError), match=r"batch_size"):
        kind(value)


@pytest.mark.parametrize("kind", [Fraction, RandomFraction, ByTime])
@pytest.mark.parametrize("value", [0.0, 1.0, -0.5, 1.5, float("nan")])
def test_share_out_of_range(kind, value):
    with pytest.raises(ValueError, match=f"support must lie between 0 and 1, both excluded, got {value!r}"):
        kind(value)


@pytest.mark.parametrize("support", [0.08, 0.4, 0.8])
def test_the_query_share_is_the_end_whatever_the_support_share(support):
    support, query = Fraction(support, query=0.2)(client(30, 40), None)
    assert numbers(query) == list(range(24, 30))
    assert numbers(support) == list(range(len(numbers(support))))
    assert len(numbers(support)) in (3, 12, 24)


def test_support_and_query_share_must_fit():
    with pytest.raises(ValueError, match="at most 1"):
        Fraction(0.9, query=0.2)


@pytest.mark.parametrize(("share", "left"), [(0.01, 1), (0.5, 4), (1.0, 7)])
def test_the_first_share_of_a_set(share, left):
    support, _ = AlternateBatches(2)(client(13, 20), None)
    assert numbers(first_share(support, share)) == numbers(support)[:left]
    assert numbers(first_share(client(0, 20), share)) == []


def test_a_share_is_positive():
    for share in (0.0, 1.5):
        with pytest.raises(ValueError, match=f"share must lie in .0, 1., got {share}"):
            first_share(client(3, 4), share)


@pytest.mark.parametrize("size", [1, 512, 513])
def test_random_orders_are_those_of_a_sort_of_pairs(size):
    """Orders of few rows are sorted as single numbers; those of runs made before must stay."""
    key, mask = jax.random.key(3), np.arange(size) < size - size // 3
    draws = np.where(mask, jax.random.uniform(key, (size,)), np.inf)
    np.testing.assert_array_equal(random_order(key, mask), np.argsort(draws, kind="stable"))
