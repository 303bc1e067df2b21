"""Cohorts of devices that are away, slow or lost, against what the settings promise."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedrecon.data._sampling import cohort_of
from fedrecon.sampling import Always, Availability, Nightly, Traces

EXAMPLES = np.random.default_rng(0).integers(0, 300, 2000)


def outcome(sampling, round=0, examples=EXAMPLES, seed=0):
    return sampling.outcome(round, examples, seed)


def test_without_faults_a_round_counts_all_that_it_asks():
    sampling = Availability(50)
    result = outcome(sampling)
    assert len(np.unique(result.asked)) == 50 and result.counted.all() and not result.abandoned
    assert result.duration == result.seconds.max()
    np.testing.assert_array_equal(cohort_of(sampling, 0, EXAMPLES, 0), result.asked)


def test_over_selection_counts_the_fastest():
    result = outcome(Availability(50, over_selection=1.3))
    assert len(result.asked) == 65 and result.counted.sum() == 50
    assert result.seconds[result.counted].max() == result.duration < result.seconds[~result.counted].min()


def test_a_deadline_drops_the_slow_and_is_the_end_of_the_round():
    every = outcome(Availability(50))
    limit = float(np.median(every.seconds))
    result = outcome(Availability(50, deadline=limit))
    np.testing.assert_array_equal(result.counted, every.seconds <= limit)
    assert result.duration == limit


def test_too_few_answers_abandon_the_round():
    every = outcome(Availability(50))
    limit = float(np.sort(every.seconds)[9])
    assert outcome(Availability(50, deadline=limit, min_answers=10)).counted.sum() == 10
    result = outcome(Availability(50, deadline=limit, min_answers=11))
    assert result.abandoned and not result.counted.any()
    assert Availability(50, deadline=limit, min_answers=11).indices(0, EXAMPLES, 0).size == 0


def test_figures_add_up():
    limit = float(np.sort(outcome(Availability(50)).seconds)[9])
    settings = {"over_selection": 1.2, "deadline": limit, "dropout": 0.2}
    for least in (1, 50):
        sampling = Availability(50, min_answers=least, **settings)
        figures, result = sampling.figures(0, EXAMPLES, 0), outcome(sampling)
        in_time = int((result.seconds <= limit).sum())
        assert figures["abandoned"] == float(least == 50) and figures["round_seconds"] == limit
        assert figures["counted_clients"] == (0 if least == 50 else in_time)
        assert figures["asked_clients"] == 60 == in_time + figures["late_clients"] + figures["lost_clients"]


def test_late_answers_are_counted_by_the_first_round_that_begins_after_them():
    plain = {
        "over_selection": 1.2,
        "deadline": 30.0,
        "round_seconds": 40.0,
        "speed_spread": 1.0,
        "dropout": 0.1,
    }
    sampling = Availability(50, max_staleness=3, **plain)
    outcomes = [outcome(sampling, round) for round in range(8)]
    for round, result in enumerate(outcomes):
        without = outcome(Availability(50, **plain), round)
        np.testing.assert_array_equal(result.counted, without.counted)
        late = ~result.counted
        begun = np.maximum(np.ceil(result.seconds / 40.0), 1)
        np.testing.assert_array_equal(result.delays[late], np.where(begun <= 3, begun, -1)[late])
        assert (result.delays[result.counted] == 0).all()
    for round in range(3, 8):
        arrived = sum(int((outcomes[round - s].delays == s).sum()) for s in (1, 2, 3))
        assert outcomes[round].stale == arrived > 0
        assert sampling.figures(round, EXAMPLES, 0)["stale_clients"] == arrived
    np.testing.assert_array_equal(
        cohort_of(sampling, 0, EXAMPLES, 0), outcomes[0].asked[outcomes[0].delays >= 0]
    )
    np.testing.assert_array_equal(
        sampling.delays(0, EXAMPLES, 0), outcomes[0].delays[outcomes[0].delays >= 0]
    )
    assert "stale_clients" not in Availability(50, **plain).figures(3, EXAMPLES, 0)


def test_late_answers_count_towards_the_least_number():
    plain = {"deadline": 15.0, "round_seconds": 30.0, "jitter": 1.0, "max_staleness": 4}
    free = [outcome(Availability(50, **plain), round) for round in range(12)]
    answers = [int(result.counted.sum()) + result.stale for result in free]
    least = sorted(answers)[len(answers) // 2]
    assert max(int(result.counted.sum()) for result in free) < least <= 50, "late answers decide nothing"
    bound = [outcome(Availability(50, min_answers=least, **plain), round) for round in range(12)]
    for round, (result, before) in enumerate(zip(bound, free, strict=True)):
        assert result.abandoned == (answers[round] < least)
        assert result.stale == (0 if result.abandoned else before.stale)
        for delay in range(5):
            lost = round + delay < 12 and answers[round + delay] < least
            if not lost and round + delay < 12:
                np.testing.assert_array_equal(result.delays == delay, before.delays == delay)
            elif lost:
                assert not (result.delays == delay).any()


def test_dropout_is_the_share_that_never_answers():
    sampling = Availability(200, dropout=0.3)
    lost = np.concatenate([np.isinf(outcome(sampling, round).seconds) for round in range(100)])
    assert abs(lost.mean() - 0.3) < 0.015  # 4.6 standard deviations of 20,000 draws
    result = outcome(sampling)
    assert not result.counted[np.isinf(result.seconds)].any()
    assert result.duration == result.seconds[np.isfinite(result.seconds)].max()


def test_slowness_belongs_to_the_client_and_jitter_to_the_round():
    everyone = Availability(len(EXAMPLES), jitter=0.0, latency=1.0, seconds_per_example=0.0)
    one, other = (dict(zip(*outcome(everyone, round)[:2], strict=True)) for round in (0, 7))
    assert one == other
    logarithms = np.log(list(one.values()))
    assert abs(logarithms.mean()) < 0.05 and abs(logarithms.std() - 0.5) < 0.04
    shaken = Availability(len(EXAMPLES), latency=1.0, seconds_per_example=0.0)
    first, second = (dict(zip(*outcome(shaken, round)[:2], strict=True)) for round in (0, 7))
    apart = np.array([math.log(first[i] / second[i]) for i in first])
    assert abs(apart.std() - 0.1 * math.sqrt(2)) < 0.015


def test_nightly_clients_come_around_their_hour():
    model = Nightly(hours=8.0, peak=3.0, spread=2.0)
    clients = np.arange(20_000)
    there = [model.available(clients, hour * 3600.0, 0).mean() for hour in range(24)]
    assert int(np.argmax(there)) in (2, 3, 4) and there[15] < 0.01
    assert abs(np.mean(there) - 8 / 24) < 0.02
    # The same hour of the next day.
    np.testing.assert_array_equal(
        model.available(clients, 5 * 3600.0, 0), model.available(clients, 29 * 3600.0, 0)
    )
    even = Nightly(hours=8.0, spread=50.0)
    assert np.ptp([even.available(clients, hour * 3600.0, 0).mean() for hour in range(24)]) < 0.03


@pytest.mark.parametrize("size", [60, 2000])  # drawn from all clients, and by a few draws at first
def test_only_available_clients_are_asked(size):
    examples = EXAMPLES[:size]
    model = Nightly(hours=4.0, peak=12.0, spread=4.0)
    sampling = Availability(20, model=model, round_seconds=3600.0)
    for round in range(48):
        asked = outcome(sampling, round, examples).asked
        assert model.available(asked, round * 3600.0, 0).all()
        there = model.available(np.arange(size), round * 3600.0, 0).sum()
        assert len(asked) == len(np.unique(asked)) == min(20, there)


def test_draws_are_uniform_over_those_available():
    sampling = Availability(100, latency=1.0)
    times = np.zeros(len(EXAMPLES))
    for round in range(400):
        times[outcome(sampling, round).asked] += 1
    expected = 100 * 400 / len(EXAMPLES)
    chi_squared = float(np.sum((times - expected) ** 2 / (expected * (1 - 100 / len(EXAMPLES)))))
    assert abs(chi_squared - len(EXAMPLES)) < 5 * math.sqrt(2 * len(EXAMPLES))


def test_traces_repeat():
    model = Traces(
        np.array([1, 0, 1]), np.array([10.0, 0.0, 40.0]), np.array([20.0, 30.0, 50.0]), length=60.0
    )
    clients = np.array([0, 1, 2])
    expected = {
        0: [True, False, False],
        15: [True, True, False],
        20: [True, False, False],
        45: [False, True, False],
    }
    for second, there in expected.items():
        for now in (float(second), second + 600.0):
            assert model.available(clients, now, 0).tolist() == there
    other = Traces(
        np.array([1, 0, 1]), np.array([10.0, 0.0, 40.0]), np.array([20.0, 31.0, 50.0]), length=60.0
    )
    assert repr(other) != repr(model)
    model.check(2)
    with pytest.raises(ValueError, match=r"client must be below the 1 training clients, got 1"):
        model.check(1)


@given(
    st.integers(1, 60),
    st.floats(1, 3),
    st.one_of(st.just(math.inf), st.floats(0.1, 100)),
    st.floats(0, 0.9),
    st.integers(0, 2**40),
    st.integers(0, 5000),
)
def test_a_cohort_is_always_valid_and_the_same_again(count, over, deadline, dropout, seed, round):
    sampling = Availability(count, over, deadline, dropout=dropout, model=Nightly(6.0, 1.0, 2.0))
    result = outcome(sampling, round, EXAMPLES[:200], seed)
    assert result.counted.sum() <= count and len(result.asked) <= math.ceil(count * over)
    assert 0 <= result.duration <= deadline
    assert not result.counted[result.seconds > result.duration].any()
    again = cohort_of(sampling, round, EXAMPLES[:200], seed)
    np.testing.assert_array_equal(again, result.asked[result.counted])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Availability(0), "clients_per_round must be a whole number of at least 1, got 0"),
        (
            lambda: Availability(5, over_selection=0.9),
            "over_selection must be at least 1 and finite, got 0.9",
        ),
        (lambda: Availability(5, deadline=0.0), "deadline must be above 0, got 0.0"),
        (lambda: Availability(5, deadline=math.nan), "deadline must be above 0, got nan"),
        (lambda: Availability(5, min_answers=6), "min_answers must be at most clients_per_round, 5, got 6"),
        (lambda: Availability(5, dropout=1.0), "dropout must be from 0 to below 1, got 1.0"),
        (lambda: Availability(5, latency=-1.0), "latency must be at least 0 and finite, got -1.0"),
        (
            lambda: Availability(5, max_staleness=-1),
            "max_staleness must be a whole number of at least 0, got -1",
        ),
        (
            lambda: Availability(5, staleness_exponent=-0.5),
            "staleness_exponent must be at least 0 and finite, got -0.5",
        ),
        (
            lambda: Availability(5, max_staleness=1, round_seconds=0.0),
            "round_seconds must be above 0 with max_staleness, got 0",
        ),
        (lambda: Nightly(hours=0.0), "hours must be above 0 and at most 24, got 0.0"),
        (lambda: Nightly(peak=24.0), "peak must be from 0 to below 24, got 24.0"),
        (lambda: Nightly(spread=math.nan), "spread must be at least 0 and finite, got nan"),
        (
            lambda: Traces(np.array([0]), np.array([2.0]), np.array([1.0])),
            "start must be at least 0 and below end",
        ),
        (
            lambda: Traces(np.array([0]), np.array([0.0]), np.array([5.0]), 4.0),
            "length must be finite and at least",
        ),
        (lambda: Traces(np.array([-1]), np.array([0.0]), np.array([5.0])), "client must hold positions"),
        (lambda: Availability(5).check(4), "clients_per_round must be at most the 4 training clients, got 5"),
    ],
)
def test_bad_settings_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_samplings_print_what_they_are_made_of():
    assert repr(Availability(3)).startswith(
        "Availability(clients_per_round=3, over_selection=1.0, deadline=inf"
    )
    assert Availability(3) == Availability(3, model=Always()) and hash(Availability(3)) == hash(
        Availability(3)
    )
