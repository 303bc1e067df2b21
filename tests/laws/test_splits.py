"""Every split: no row is lost, valid rows come first, more padding changes nothing."""

import functools

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedrecon.core._examples import Examples
from fedrecon.core._splits import (
    AlternateBatches,
    AlternateExamples,
    ByTime,
    Fraction,
    HalfBatches,
    NoSplit,
    RandomFraction,
)

SPLITS = [
    NoSplit(),
    AlternateBatches(3),
    AlternateExamples(),
    HalfBatches(2),
    Fraction(0.3),
    RandomFraction(0.4),
    ByTime(0.6),
]
SHORT, LONG = 10, 17  # the two lengths that are compiled


@functools.cache
def compiled(split):
    """The numbers of the support and of the query set; -1 where a row is not valid."""

    @jax.jit
    def run(times, count, seed):
        size = times.shape[0]
        examples = Examples({"number": np.arange(size), "time": times}, np.arange(size) < count)
        parts = split(examples, jax.random.key(seed))
        return [(part.data["number"], part.data["time"], part.mask) for part in parts]

    return run


def valid(part):
    number, times, mask = map(np.asarray, part)
    count = mask.sum()
    assert mask[:count].all(), "a valid row comes after padding"
    return number[:count].tolist(), times[:count].tolist()


@pytest.mark.parametrize("split", SPLITS, ids=repr)
@settings(max_examples=40)
@given(st.lists(st.integers(0, 5), max_size=SHORT), st.integers(0, 2**31 - 1), st.integers(-9, 9))
def test_split(split, times, seed, fill):
    count = len(times)
    padded = np.array(times + [fill] * (LONG - count), np.int32)
    short = [valid(part) for part in compiled(split)(padded[:SHORT], count, seed)]
    long = [valid(part) for part in compiled(split)(padded, count, seed)]
    assert short == long
    (support, support_times), (query, query_times) = short
    if isinstance(split, NoSplit):
        assert support == query == list(range(count))
    else:
        assert sorted(support + query) == list(range(count))
    assert [times[i] for i in support + query] == support_times + query_times
