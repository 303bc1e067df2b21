"""Clients and plans: nobody is lost, nobody comes twice, and no order decides anything."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from fedrecon.data._clients import Clients
from fedrecon.data._hashing import Purpose, client_keys, round_keys
from fedrecon.simulation._block_plan import Plan, Slot, plan_blocks

IDS = st.lists(st.text(max_size=5), unique=True, max_size=20) | st.lists(
    st.integers(-(2**63), 2**63 - 1), unique=True, max_size=20
)


@st.composite
def plans(draw):
    lengths = sorted(draw(st.lists(st.integers(1, 50), min_size=1, max_size=4)))
    slots = [Slot(draw(st.integers(1, 4)), draw(st.integers(1, 5)), length) for length in lengths]
    return Plan(tuple(slots))


@settings(max_examples=200)
@given(plans(), st.data())
def test_every_client_is_poured_once_and_fits(plan, data):
    longest = plan.slots[-1].length
    lengths = np.array(data.draw(st.lists(st.integers(0, longest), max_size=60)), int)
    passes = plan.passes(lengths)
    for slots in passes:
        assert len(slots) == len(plan.slots)
        for slot, chosen in zip(plan.slots, slots, strict=True):
            assert len(chosen) <= slot.capacity
            assert (lengths[chosen] <= slot.length).all()
    poured = np.concatenate([chosen for slots in passes for chosen in slots])
    assert sorted(poured.tolist()) == list(range(len(lengths)))
    assert all(sum(map(len, slots)) for slots in passes) or not len(lengths)


@settings(max_examples=50)
@given(st.lists(st.integers(0, 400), min_size=1, max_size=100), st.data())
def test_a_chosen_plan_takes_any_cohort(lengths, data):
    lengths = np.array(lengths)
    size = data.draw(st.integers(1, len(lengths)))
    plan = plan_blocks(lengths, size)
    chosen = np.array(data.draw(st.permutations(range(len(lengths))))[:size])
    poured = np.concatenate([p for slots in plan.passes(lengths[chosen]) for p in slots])
    assert sorted(poured.tolist()) == list(range(size))
    assert Plan.from_json(plan.to_json()) == plan


@settings(max_examples=100)
@given(IDS, st.randoms(use_true_random=False), st.integers(-5, 2**70))
def test_a_clients_keys_depend_on_its_id_alone(ids, random, seed):
    order = list(range(len(ids)))
    random.shuffle(order)
    own, other = client_keys(ids), client_keys([ids[i] for i in order])
    assert own[order].tolist() == other.tolist()
    assert len(set(own.tolist())) == len(ids)
    drawn = round_keys(seed, Purpose.EXAMPLE_ORDER, 7, own)
    assert drawn[order].tolist() == round_keys(seed, Purpose.EXAMPLE_ORDER, 7, other).tolist()


@settings(max_examples=60)
@given(
    st.lists(st.integers(0, 6), min_size=1, max_size=12),
    st.integers(0, 99),
    st.randoms(use_true_random=False),
)
def test_shuffling_capping_and_splitting_commute_with_taking(lengths, seed, random):
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    clients = Clients.from_columns(
        [f"c{i}" for i in range(len(lengths))], offsets, {"x": np.arange(offsets[-1])}
    )
    order = list(range(len(lengths)))
    random.shuffle(order)
    part = order[: random.randint(0, len(order))]
    whole, cut = clients.shuffled(seed).cap(3), clients.take(part).shuffled(seed).cap(3)
    for i in cut.ids:
        assert cut[i]["x"].tolist() == whole[i]["x"].tolist()
    a, b = (c.split({"one": 0.5, "two": 0.3}, seed) for c in (clients, clients.take(order)))
    assert {n: set(x.ids) for n, x in a.items()} == {n: set(x.ids) for n, x in b.items()}
