import math

import numpy as np
import pytest
from scipy import stats

from fedrecon.experiment.analysis.significance import paired, quantile, within


@pytest.mark.parametrize("freedom", [1, 2, 3, 4, 7, 10, 603, 6039])
def test_students_t_is_that_of_scipy(freedom):
    for t in (0.0, 0.01, 0.5, 1.0, 3.0, 30.0):
        assert within(t, freedom) == pytest.approx(1 - 2 * stats.t.sf(t, freedom), abs=1e-12)
    for probability in (0.5, 0.95, 0.999):
        assert quantile(probability, freedom) == pytest.approx(
            stats.t.ppf((1 + probability) / 2, freedom), rel=1e-9
        )


@pytest.mark.parametrize("count", [2, 5, 200])
def test_the_paired_test_is_that_of_scipy(count):
    rng = np.random.default_rng(count)
    first, second = rng.normal(size=count), rng.normal(0.3, 1, count)
    found, expected = paired((second - first).tolist()), stats.ttest_rel(second, first)
    interval = expected.confidence_interval(0.95)
    assert found.mean == pytest.approx(np.mean(second) - np.mean(first))
    assert found.error == pytest.approx(stats.sem(second - first))
    assert found.p == pytest.approx(expected.pvalue, abs=1e-12)
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high))
    assert found.pairs == count


def test_what_cannot_be_tested_has_no_error():
    found = paired([0.5])
    assert (found.mean, found.pairs) == (0.5, 1)
    assert all(math.isnan(x) for x in (found.error, found.low, found.high, found.p))


def test_differences_that_are_all_alike():
    assert paired([0.0, 0.0]).p == 1.0
    assert paired([2.0, 2.0, 2.0]) == (2.0, 0.0, 2.0, 2.0, 0.0, 3)
    assert paired([100.0 + x for x in (-1e-6, 1e-6)] * 50).p == 0.0
