"""Plans: whatever they are, every client is poured once; those that are chosen waste little."""

import numpy as np
import pytest

from fedrecon.data._sampling import Weighted
from fedrecon.simulation._block_plan import Plan, Slot, plan_blocks, plan_evaluation

LONG_TAILED = np.minimum(np.random.default_rng(0).pareto(1.2, 2000) * 20 + 20, 300).astype(int)


def test_json_and_back():
    plan = Plan((Slot(2, 3, 10), Slot(1, 5, 40)))
    assert Plan.from_json(plan.to_json()) == plan
    assert plan.slots[0].capacity == 6


def test_the_shortest_go_first():
    plan = Plan((Slot(1, 2, 3), Slot(1, 1, 9)))
    lengths = np.array([9, 1, 3, 8, 0, 2])
    passes = [[p.tolist() for p in slots] for slots in plan.passes(lengths)]
    assert passes == [[[4, 1], [5]], [[2], [3]], [[], [0]]]


def test_an_empty_cohort_takes_an_empty_pass():
    (slots,) = Plan((Slot(1, 2, 3), Slot(1, 1, 9))).passes(np.zeros(0, int))
    assert [len(p) for p in slots] == [0, 0]


def test_a_client_that_is_too_long():
    with pytest.raises(
        ValueError, match="last slot must take the longest client, of 10 examples, but it takes 9"
    ):
        Plan((Slot(1, 2, 9),)).passes(np.array([1, 10]))


@pytest.mark.parametrize("cohort", [1, 7, 100, 2000])
@pytest.mark.parametrize("clients_per_block", [None, 1, 5])
def test_chosen_plans(cohort, clients_per_block):
    plan = plan_blocks(LONG_TAILED, cohort, clients_per_block=clients_per_block)
    assert len(plan.slots) <= 2
    assert plan.slots[-1].length >= LONG_TAILED.max()
    assert sum(s.capacity for s in plan.slots) >= cohort
    assert all(s.clients <= (clients_per_block or 64) for s in plan.slots)
    assert plan == plan_blocks(LONG_TAILED, cohort, clients_per_block=clients_per_block)
    rng = np.random.default_rng(1)
    passes = [len(plan.passes(rng.choice(LONG_TAILED, cohort, replace=False))) for _ in range(20)]
    assert np.mean(passes) < 1.3


def test_cohorts_of_longer_clients_are_planned_for():
    """By examples twice as many of the long ones are drawn as if all were alike: they did not fit in."""
    sampling = Weighted(100)

    def drawn(number, seed=0):
        return sampling.indices(number, LONG_TAILED, seed)

    def passes(plan):
        return np.mean([len(plan.passes(LONG_TAILED[drawn(number, seed=1)])) for number in range(50)])

    assert passes(plan_blocks(LONG_TAILED, 100)) > 1.9
    assert passes(plan_blocks(LONG_TAILED, 100, draw=drawn)) < 1.1


def test_trial_cohorts_may_be_small():
    lengths = np.array([0, 0, 0, 7])
    plan = plan_blocks(lengths, 3, draw=lambda number: Weighted(3).indices(number, lengths, 0))
    assert plan.slots[-1].length == 7 and sum(slot.capacity for slot in plan.slots) >= 3


def test_slots_save_padding():
    one, two = (
        sum(s.capacity * s.length for s in plan_blocks(LONG_TAILED, 100, most_slots=n).slots) for n in (1, 2)
    )
    assert two < 0.8 * one


@pytest.mark.parametrize("lengths", [[0, 0, 0], [5], [0, 1]])
def test_little_populations(lengths):
    plan = plan_blocks(np.array(lengths), len(lengths))
    assert sorted(np.concatenate([p for slots in plan.passes(np.array(lengths)) for p in slots])) == list(
        range(len(lengths))
    )


def test_no_slot_is_longer_than_the_longest_client():
    cut = np.minimum(LONG_TAILED, 64)
    assert plan_blocks(cut, 100).slots[-1].length == plan_evaluation(cut).slots[-1].length == 64


def test_evaluation_has_one_shape_unless_clients_are_many():
    assert plan_evaluation(LONG_TAILED).slots == (Slot(1, 64, 300),)
    assert plan_evaluation(np.zeros(0, int)).slots == (Slot(1, 64, 1),)
    many = plan_evaluation(np.tile(LONG_TAILED, 3))
    shares = np.quantile(LONG_TAILED, [0.5, 0.8, 0.95])
    assert [s.length for s in many.slots] == [*(-(-int(x) // 10) * 10 for x in shares), 300]


def test_where_computing_costs_more_than_compiling_no_place_in_a_block_is_left_free():
    for count, width in ((0, 1), (1, 1), (40, 40), (64, 64), (65, 33), (400, 58)):
        (slot,) = plan_evaluation(np.full(count, 9), heavy=True).slots
        assert slot.clients == width


def test_every_client_gets_the_shortest_slot_that_takes_it():
    plan, lengths = Plan((Slot(1, 2, 3), Slot(1, 1, 9), Slot(2, 1, 20))), np.array([9, 4, 3, 0, 1, 3, 3])
    found = [(slot.length, positions.tolist()) for slot, positions in plan.fitting(lengths)]
    assert found == [(3, [3, 4, 2, 5, 6]), (9, [1, 0]), (20, [])]
    with pytest.raises(ValueError, match="longest client, of 21"):
        plan.fitting(np.array([21]))


@pytest.mark.parametrize("clients", [0, 1, 5, 6, 11, 12])
def test_parts_of_a_slot_join_to_the_whole(clients):
    slot, positions = Slot(2, 6, 10), np.arange(100, 100 + clients)
    whole = np.full(slot.capacity, -1)
    whole[:clients] = positions
    parts = [slot.part(positions, number, 3) for number in range(3)]
    joined = np.full((3, 2, 2), -1)
    for number, (part, own) in enumerate(parts):
        assert part == Slot(2, 2, 10)
        joined[number].reshape(-1)[: len(own)] = own
    np.testing.assert_array_equal(np.concatenate(joined, axis=1), whole.reshape(2, 6))
    assert slot.part(positions, 0, 1) == (slot, positions)
