"""The plan that is chosen by measurement: when it pays, what is found, and that a resume does the same."""

import json
import math

import jax
import numpy as np
import pytest
from tests.small import federation, rating_model, sgd, solver

from fedrecon.algorithms._fedrecon import fedrecon
from fedrecon.core._splits import AlternateBatches
from fedrecon.data._sampling import Uniform
from fedrecon.experiment.reporting import plots
from fedrecon.experiment.training import block_plan_tuning as tuning
from fedrecon.experiment.training.block_plan_tuning import search
from fedrecon.experiment.training.train import train
from fedrecon.simulation._block_plan import Plan, Slot
from fedrecon.simulation._simulation import Simulation

CLIENTS = federation()
ALGORITHM = fedrecon(rating_model(), solver(), solver(), sgd(1.0), AlternateBatches(2))
PRESENT = Plan((Slot(2, 16, 30),))


def plan_of(width, slots):
    """Of 64 clients, side by side up to that many."""
    width = min(width, 64)
    return Plan((Slot(64 // width, width, 10 * slots),))


def found(costs, budget=100.0, compilation=1.0, taken=1.0):
    """The plan that is chosen where rounds take these seconds by width and slots, and what was measured."""
    asked = []

    def measure(plan):
        (slot,) = plan.slots
        asked.append(key := (slot.clients, slot.length // 10 if plan != PRESENT else 2))
        return costs.get(key, 9.0), taken

    return search(PRESENT, plan_of, measure, budget, compilation), asked


def test_wider_as_long_as_it_is_quicker():
    chosen, asked = found({(16, 2): 3.0, (64, 2): 1.0})
    assert chosen == plan_of(64, 2)
    assert asked == [(16, 2), (64, 2), (64, 4)]


def test_narrower_where_wider_is_slower():
    chosen, asked = found({(16, 2): 3.0, (4, 2): 2.0, (1, 2): 2.1})
    assert chosen == plan_of(4, 2)
    assert asked == [(16, 2), (64, 2), (4, 2), (1, 2), (4, 4)]


def test_more_shapes():
    assert found({(16, 2): 3.0, (16, 4): 2.0})[0] == plan_of(16, 4)


def test_the_present_plan_stays_where_nothing_is_clearly_quicker():
    assert found({(16, 2): 1.0, (64, 2): 0.96, (4, 2): 0.96, (16, 4): 0.96})[0] == PRESENT


def test_what_cannot_be_computed_is_never_chosen():
    assert found({(16, 2): 3.0, (64, 2): math.inf, (4, 2): 2.0})[0] == plan_of(4, 2)
    assert found(dict.fromkeys([(16, 2), (64, 2), (4, 2), (16, 4)], math.inf))[0] == PRESENT


@pytest.mark.parametrize(("budget", "measured"), [(0.9, 0), (1.9, 1), (2.1, 2), (3.1, 3)])
def test_no_more_is_spent_than_it_may_bring(budget, measured):
    assert len(found({}, budget)[1]) == measured


# The clients are evaluated that are trained on: nobody reads what is measured.
pytestmark = pytest.mark.filterwarnings("ignore:.*are trained on as well")


class StoppedError(Exception):
    """Ends a run in the middle."""


def run(out, stop_at=None):
    def stop(report):
        if report.round == stop_at:
            raise StoppedError

    return train(
        ALGORITHM, CLIENTS, 12, clients_per_round=9, evaluate=CLIENTS, evaluate_every=3, checkpoint_every=6,
        out=out, callbacks=[stop],
    )  # fmt: skip


@pytest.fixture(autouse=True)
def no_figures(monkeypatch):
    """Nobody looks at them."""
    monkeypatch.setattr(plots, "write", lambda folder, runs: [])


@pytest.fixture
def generous(monkeypatch):
    """Every run is long enough; blocks of two clients are the quickest, as far as anybody can tell."""
    measured, original = [], Simulation.seconds

    def seconds(self, state):
        measured.append(max(slot.clients for slot in self.plan.slots))
        if len(measured) == 1:
            assert original(self, state) > 0
        return float(abs(measured[-1] - 2) + 1)

    monkeypatch.setattr(Simulation, "seconds", seconds)
    monkeypatch.setattr(tuning, "SHARE", 1e9)
    monkeypatch.setattr(tuning, "pays", lambda: True)
    return measured


def test_a_short_run_keeps_its_plan(tmp_path, monkeypatch):
    monkeypatch.setattr(tuning, "pays", lambda: True)
    run(tmp_path / "short")
    assert not (tmp_path / "short" / "plan-tuned.json").exists()


def test_a_run_on_a_cpu_keeps_its_plan(tmp_path, monkeypatch):
    monkeypatch.setattr(tuning, "SHARE", 1e9)
    run(tmp_path / "long")
    assert not (tmp_path / "long" / "plan-tuned.json").exists()


def exhausted(kind):
    def seconds(self, state):
        raise jax.errors.JaxRuntimeError(f"{kind}: no more room")

    return seconds


@pytest.fixture
def tuner(monkeypatch):
    simulation = Simulation(ALGORITHM, CLIENTS, Uniform(9))
    monkeypatch.setattr(tuning, "pays", lambda: True)
    monkeypatch.setattr(tuning, "SHARE", 1e9)
    made = tuning.BlockPlanTuner(simulation, 9, None, tuning.ProcessGroup())
    made._paces = [1.0]
    return made, simulation


def test_a_plan_that_wants_too_much_memory_is_passed_over(tuner, monkeypatch):
    made, simulation = tuner
    present, wide = simulation.plan, max(slot.clients for slot in simulation.plan.slots)
    tried = []

    def seconds(self, state):
        tried.append(max(slot.clients for slot in self.plan.slots))
        return 1.0 if len(tried) == 1 else exhausted("RESOURCE_EXHAUSTED")(self, state)

    monkeypatch.setattr(Simulation, "seconds", seconds)
    made._decide(1, simulation.init(), 0.0)
    assert len(tried) > 1 and tried[0] == wide and simulation.plan == present
    monkeypatch.setattr(Simulation, "seconds", exhausted("INTERNAL"))
    with pytest.raises(jax.errors.JaxRuntimeError, match="INTERNAL"):
        made._decide(1, simulation.init(), 0.0)


def test_a_resume_changes_the_plan_where_the_run_did(tmp_path, generous):
    whole = run(tmp_path / "whole")
    assert len(generous) > 1
    tuned = json.loads((tmp_path / "whole" / "plan-tuned.json").read_text())
    assert 4 <= tuned["from_round"] < 12
    assert max(slot["clients"] for slot in tuned["slots"]) == 2
    generous.clear()
    for stop_at in (3, 9):  # before a checkpoint, and after one: the choice is there already
        out = tmp_path / f"stopped-{stop_at}"
        out.mkdir()
        with pytest.raises(StoppedError):
            run(out, stop_at)
        (out / "plan-tuned.json").write_text((tmp_path / "whole" / "plan-tuned.json").read_text())
        generous.clear()
        again = run(out)
        assert generous == []
        assert again.resumed_from == (None if stop_at == 3 else 6)
        if stop_at == 3:
            jax.tree.map(np.testing.assert_array_equal, again.global_params, whole.global_params)
