"""Cohorts spread over devices: the same numbers on one, two and eight."""

import pytest

from fedrecon.simulation._block_plan import Plan, Slot
from fedrecon.simulation._devices import Devices

SPREAD = """
import jax
import numpy as np
from fedrecon.algorithms._fedrecon import fedrecon
from fedrecon.algorithms._fedalt import fedalt
from fedrecon.core._splits import AlternateBatches
from fedrecon.evaluation._evaluate import evaluate
from fedrecon.simulation._block_plan import Plan, Slot
from fedrecon.data._sampling import Uniform
from fedrecon.serving._personalization import Personalization
from fedrecon.simulation._simulation import Simulation
from tests.small import federation, rating_model, sgd, solver

assert len(jax.devices()) == 8
model = rating_model()
for algorithm in (
    fedrecon(model, solver(), solver(), sgd(1.0), AlternateBatches(2)),
    fedalt(model, solver(), solver(), sgd(1.0)),
):
    found = {}
    for devices in (1, 2, 8):
        plan = Plan((Slot(1, 7, 12),))
        simulation = Simulation(algorithm, federation(), Uniform(7), plan=plan, devices=devices)
        counts = []
        for last in simulation.rounds(simulation.init(), 3):
            counts.append(simulation.compilations)
        metrics = {name: (mean.total, mean.weight) for name, mean in last.metrics().items()}
        client_states = ()
        if simulation.client_states is not None:
            client_states = simulation.client_states.get(simulation.clients.keys, len(simulation.clients))
        found[devices] = jax.device_get((last.state.global_params, metrics, client_states))
        assert len(set(counts)) == 1, counts  # all is compiled by the first round
        if simulation.client_states is None:
            counts = simulation.clients.num_examples
            inferred = Personalization(algorithm, last.state, counts, devices=devices)(simulation.clients)
            scored = evaluate(algorithm, last.state, simulation.clients, devices=devices)
            found[devices] += (scored.per_client, inferred)
        used = len(jax.tree.leaves(last.state.global_params)[0].devices())
        assert used == devices, used
    for devices in (2, 8):
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6),
            found[1][: len(found[devices])],
            found[devices],
        )
    start = model.init_global(None)["item"]["factors"]
    assert np.abs(found[8][0]["item"]["factors"] - start).max() > 0.01
print("same")
"""


def test_numbers_do_not_depend_on_the_devices(run_python):
    assert run_python(SPREAD, devices=8).split() == ["same"]


def test_blocks_can_be_cut():
    plan = Plan((Slot(3, 5, 10), Slot(1, 8, 20)))
    assert plan.in_parts(4) == Plan((Slot(3, 8, 10), Slot(1, 8, 20)))
    assert plan.in_parts(1) == plan


@pytest.mark.parametrize(
    ("count", "rule"), [(0, "a whole number of at least 1"), (99, r"at most the \d+ of this process")]
)
def test_there_must_be_so_many(count, rule):
    with pytest.raises(ValueError, match=rf"devices must be {rule}, got {count}"):
        Devices.first(count)
