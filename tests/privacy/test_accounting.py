"""Epsilon by hand, by another library, and by the values that the literature and other libraries agree on."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import norm

from fedrecon.data._sampling import Everyone, Passes, Poisson, Uniform, Weighted
from fedrecon.privacy._accounting import accounting, calibrate, poisson_rdp
from fedrecon.privacy._gaussian import gaussian_delta, gaussian_epsilon, gaussian_noise_multiplier

POSITIVE = st.floats(0.05, 50)
DELTAS = st.floats(1e-12, 0.2)


class Sometimes(Everyone):
    """A sampling of somebody's own: that it extends another does not make it one."""


@pytest.fixture
def dp_accounting():
    return pytest.importorskip("dp_accounting", reason="needs the extra 'privacy'")


@given(noise=POSITIVE, epsilon=st.floats(0, 20))
def test_delta_is_that_of_two_normal_distributions(noise, epsilon):
    """The definition: the most by which P(loss > epsilon) exceeds exp(epsilon) Q(loss > epsilon)."""
    threshold = epsilon * noise**2 + 0.5  # of the output, where the losses of means 1 and 0 are epsilon
    direct = norm.sf(threshold, 1, noise) - math.exp(epsilon) * norm.sf(threshold, 0, noise)
    assert gaussian_delta(noise, epsilon) == pytest.approx(direct, rel=1e-6, abs=1e-13)


@given(noise=POSITIVE, delta=DELTAS)
def test_epsilon_is_the_smallest(noise, delta):
    epsilon = gaussian_epsilon(noise, delta)
    assert gaussian_delta(noise, epsilon) <= delta
    if epsilon > 1e-3:
        assert gaussian_delta(noise, epsilon * (1 - 1e-6)) > delta


@given(epsilon=st.floats(0.01, 100), delta=DELTAS)
def test_noise_is_the_smallest(epsilon, delta):
    noise = gaussian_noise_multiplier(epsilon, delta)
    assert gaussian_delta(noise, epsilon) <= delta < gaussian_delta(noise * (1 - 1e-4), epsilon)


@pytest.mark.parametrize("delta", [1e-3, 1e-5, 1e-9])
@pytest.mark.parametrize("noise", [0.01, 0.3, 1.0, 1 / math.sqrt(1000), 7.0, 300.0])
def test_closed_form_agrees_with_dp_accounting(dp_accounting, noise, delta):
    from dp_accounting import gaussian_mechanism

    theirs = gaussian_mechanism.get_epsilon_gaussian(noise, delta)
    assert gaussian_epsilon(noise, delta) == pytest.approx(theirs, rel=1e-6, abs=1e-9)


def test_everyone_a_thousand_times():
    assert accounting(Everyone(), 50).epsilon(1.0, 1000, 1e-5) == pytest.approx(633.93, abs=0.005)


def test_no_noise_is_no_privacy():
    assert gaussian_epsilon(0.0, 1e-5) == math.inf


def test_poisson_by_both_accountants(dp_accounting):
    rule = accounting(Poisson(probability=0.01), 10_000)
    assert rule.epsilon(1.0, 1000, 1e-5) == pytest.approx(1.828, abs=0.001)
    assert poisson_rdp(0.01, 1.0, 1000, 1e-5) == pytest.approx(2.101, abs=0.001)


def test_uniform_has_twice_the_sensitivity(dp_accounting):
    """Replacing a client takes one delta out and another in: noise of 2 bounds is as 1 of add or remove."""
    relation = dp_accounting.NeighboringRelation.REPLACE_ONE
    event = dp_accounting.SampledWithoutReplacementDpEvent(1000, 20, dp_accounting.GaussianDpEvent(1.5))
    theirs = dp_accounting.rdp.RdpAccountant(neighboring_relation=relation).compose(event, 30)
    rule = accounting(Uniform(20), 1000)
    assert (rule.relation, rule.sensitivity) == ("replace_one", 2.0)
    assert rule.epsilon(1.5, 30, 1e-5) == pytest.approx(theirs.get_epsilon(1e-5))


def test_passes_count_once_a_pass():
    rule, everyone = accounting(Passes(10), 95), accounting(Everyone(), 95)
    assert rule.relation == "zero_out"
    for rounds, passes in ((1, 1), (10, 1), (11, 2), (20, 2), (21, 3)):
        assert rule.epsilon(2.0, rounds, 1e-5) == everyone.epsilon(2.0, passes, 1e-5)


@pytest.mark.parametrize("sampling", [Everyone(), Poisson(probability=0.1), Uniform(5)])
def test_no_amplification_against_who_knows_the_cohorts(sampling):
    rule = accounting(sampling, 50, "server")
    assert (rule.relation, rule.sensitivity) == ("zero_out", 1.0)
    assert rule.epsilon(3.0, 7, 1e-5) == gaussian_epsilon(3 / math.sqrt(7), 1e-5)


# The accountants of dp-accounting, which take seconds, are called as the others are: one case is enough.
@pytest.mark.parametrize(
    ("sampling", "epsilon", "rounds"),
    [
        *((x, *case) for x in (Everyone(), Passes(10)) for case in [(0.5, 1), (4.0, 40), (30.0, 3)]),
        (Poisson(probability=0.05), 4.0, 40),
        (Uniform(10), 4.0, 40),
    ],
)
def test_calibrated_noise_meets_epsilon(request, sampling, epsilon, rounds):
    if isinstance(sampling, Poisson | Uniform):
        request.getfixturevalue("dp_accounting")
    rule = accounting(sampling, 200)
    noise = calibrate(rule, epsilon, 1e-5, rounds)
    assert (1 - 2e-4) * epsilon <= rule.epsilon(noise, rounds, 1e-5) <= epsilon


@pytest.mark.parametrize(
    ("sampling", "reason"),
    [
        (Poisson(5), "changes when a client is added"),
        (Weighted(5), "reveals how many it has"),
        (Sometimes(), "no accountant is known"),
    ],
)
def test_other_samplings_are_refused_with_the_reason(sampling, reason):
    with pytest.raises(ValueError, match=reason):
        accounting(sampling, 50)
