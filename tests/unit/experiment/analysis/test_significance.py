import math

import numpy as np
import pytest
from scipy import stats

from fedrecon.experiment.analysis.significance import paired_t_test


@pytest.mark.parametrize("count", [2, 3, 5, 200, 100_000])
def test_the_paired_test_is_that_of_scipy(count):
    rng = np.random.default_rng(count)
    first, second = rng.normal(size=count), rng.normal(0.3, 1, count)
    tested, expected = paired_t_test((second - first).tolist()), stats.ttest_rel(second, first)
    interval = expected.confidence_interval(0.95)
    assert tested.mean == pytest.approx(np.mean(second) - np.mean(first))
    assert tested.error == pytest.approx(stats.sem(second - first))
    assert tested.p == pytest.approx(expected.pvalue, abs=1e-12)
    assert (tested.low, tested.high) == pytest.approx((interval.low, interval.high))
    assert tested.pairs == count


def test_what_cannot_be_tested_has_no_error():
    single = paired_t_test([0.5])
    assert (single.mean, single.pairs) == (0.5, 1)
    assert all(math.isnan(x) for x in (single.error, single.low, single.high, single.p))


def test_differences_that_are_all_alike():
    assert paired_t_test([0.0, 0.0]).p == 1.0
    assert paired_t_test([2.0, 2.0, 2.0]) == (2.0, 0.0, 2.0, 2.0, 0.0, 3)
    assert paired_t_test([100.0 + x for x in (-1e-6, 1e-6)] * 50).p == pytest.approx(0.0, abs=1e-300)
