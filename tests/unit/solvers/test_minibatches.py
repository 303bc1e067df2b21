"""Which examples the steps of a stage take, against the same told one by one."""

import itertools

import jax
import numpy as np
import pytest
from tests.small import solver

from fedrecon.core._examples import Examples
from fedrecon.solvers._minibatches import plan_steps

SIZE = 7


def sequential(count, batch_size, passes, max_steps):
    """The examples of every step: batches in turn, a pass after a pass, up to a number of steps."""
    size = batch_size or SIZE
    batches = [list(range(i, min(i + size, count))) for i in range(0, count, size)]
    steps = list(itertools.chain.from_iterable([batches] * passes))
    return steps if max_steps is None else steps[:max_steps]


def planned(batch_size, epochs, max_steps, shuffle=False, passes=None, key=0):
    """For every count of examples from 0 to 7, the numbers that the batches of each step hold."""

    @jax.jit
    @jax.vmap
    def run(count):
        examples = Examples({"number": np.arange(SIZE)}, np.arange(SIZE) < count)
        steps = plan_steps(
            examples, batch_size, epochs, passes or epochs, max_steps, shuffle, jax.random.key(key)
        )
        batches = steps.batches(examples)
        return batches.data["number"], batches.mask, steps.valid

    found, masks, valid = map(np.asarray, run(np.arange(SIZE + 1)))
    np.testing.assert_array_equal(masks, valid)
    return [
        [x[m].tolist() for x, m in zip(xs, ms, strict=True) if m.any()]
        for xs, ms in zip(found, masks, strict=True)
    ]


@pytest.mark.parametrize(
    ("batch_size", "epochs", "max_steps"),
    [(2, 1, None), (3, 2, None), (3, 3, 4), (2, 1, 2), (None, 2, None), (10, 2, 1)],
)
def test_steps(batch_size, epochs, max_steps):
    found = planned(batch_size, epochs, max_steps)
    assert found == [sequential(n, batch_size, epochs, max_steps) for n in range(SIZE + 1)]


def taken(count, **settings):
    """The work of a solver on so many examples."""
    cost = solver(**settings).cost(Examples({}, np.arange(SIZE) < count), round=0)
    return int(cost["gradient_steps"]), int(cost["example_passes"])


@pytest.mark.parametrize(
    ("batch_size", "epochs", "max_steps"), [(2, 1, None), (3, 3, 4), (None, 2, None), (10, 2, 1)]
)
def test_work_is_that_of_the_steps(batch_size, epochs, max_steps):
    for count in range(SIZE + 1):
        steps = sequential(count, batch_size, epochs, max_steps)
        wanted = len(steps), sum(map(len, steps))
        for shuffle in (False, True):
            settings = {"batch_size": batch_size, "epochs": epochs, "max_steps": max_steps}
            assert taken(count, shuffle=shuffle, **settings) == wanted


def test_work_grows_with_the_passes():
    assert taken(5, epochs=4, adaptive_epochs=True) == (3, 5)
    assert taken(5, epochs=4) == (12, 20)


def test_fewer_passes_than_there_may_be():
    assert planned(3, 4, 6, passes=2) == [sequential(n, 3, 2, 6) for n in range(SIZE + 1)]


def test_every_shuffled_pass_takes_all_examples_in_a_new_order():
    for count, steps in enumerate(planned(3, 3, None, shuffle=True)):
        own = -(-count // 3)
        passes = [list(itertools.chain(*steps[i * own : (i + 1) * own])) for i in range(3)]
        assert all(sorted(p) == list(range(count)) for p in passes)
        if count > 5:
            assert len({tuple(p) for p in passes}) == 3
        assert [len(s) for s in steps[:own]] == [len(s) for s in sequential(count, 3, 1, None)]
