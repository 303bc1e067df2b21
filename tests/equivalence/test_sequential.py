"""Stages that take clients one after the other change no number, also where that cannot be done."""

from dataclasses import replace
from typing import Any

import jax
import numpy as np
import pytest
from tests.small import Given, federation, rating_model, sgd, solver

from fedrecon.algorithms._fedrecon import fedrecon
from fedrecon.algorithms._full_gradient import full_gradient
from fedrecon.algorithms._maml import maml
from fedrecon.algorithms._pfedme import pfedme
from fedrecon.core._splits import AlternateBatches
from fedrecon.simulation._simulation import Simulation

CLIENTS, PAIRS = federation(repeats=True, lengths=(3, 9)), AlternateBatches(2)
ALGORITHMS = {
    "fedrecon": lambda model, stage: fedrecon(model, stage, stage, sgd(1.0), PAIRS),
    "full_gradient": lambda model, stage: full_gradient(model, stage, stage, sgd(1.0), PAIRS),
    "maml": lambda model, stage: maml(model, stage, stage, sgd(1.0), PAIRS),
    "pfedme": lambda model, stage: pfedme(model, stage, stage, sgd(1.0), 2.0),
}


@pytest.mark.parametrize("name", ALGORITHMS)
def test_the_same_round(name):
    def after(sequential: bool) -> Any:
        stage = replace(solver(0.05), sequential=sequential)
        simulation = Simulation(ALGORITHMS[name](rating_model(), stage), CLIENTS, Given([[0, 1]]))
        return next(simulation.rounds(simulation.init(), 1)).state.global_params

    for a, b in zip(*map(jax.tree.leaves, (after(False), after(True))), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
