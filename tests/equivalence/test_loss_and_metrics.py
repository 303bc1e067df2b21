"""A model whose loss and metrics are one function is trained as the same model without it."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tests.small import examples, federation, rating_model, sgd, solver

from fedrecon.algorithms._base import Broadcast
from fedrecon.algorithms._ditto import ditto
from fedrecon.algorithms._fedper import fedper
from fedrecon.algorithms._fedrecon import fedrecon
from fedrecon.algorithms._full_gradient import full_gradient
from fedrecon.algorithms._maml import maml
from fedrecon.algorithms._pfedme import pfedme
from fedrecon.core._splits import AlternateBatches
from fedrecon.solvers._newton import Newton

GIVEN = examples(federation(lengths=(9,)), "c0", 10)
PAIRS, STEP, SERVER = AlternateBatches(2), solver(0.05), sgd(1.0)
ALGORITHMS = {
    "fedrecon": lambda model: fedrecon(model, STEP, STEP, SERVER, PAIRS),
    "full_gradient": lambda model: full_gradient(model, STEP, STEP, SERVER, PAIRS),
    "full_gradient, newton": lambda model: full_gradient(model, Newton(), STEP, SERVER, PAIRS),
    "maml": lambda model: maml(model, STEP, STEP, SERVER, PAIRS),
    "ditto": lambda model: ditto(model, STEP, STEP, SERVER, 0.5),
    "pfedme": lambda model: pfedme(model, STEP, STEP, SERVER, 2.0),
    "fedper": lambda model: fedper(model, STEP, STEP, SERVER, ("1", "0/item/bias")),
}


def a_round(name: str, fused: bool) -> Any:
    """What a client sends, what it keeps, and what it is served by."""
    algorithm = ALGORITHMS[name](rating_model(fused=fused))

    @jax.jit
    def run(key: Any) -> Any:
        params = algorithm.model.init_global(key)
        broadcast = Broadcast(params, jnp.int32(0))
        client_state = algorithm.init_client_state(params, key)
        update, client_state = algorithm.client_update(broadcast, client_state, GIVEN, key)
        return (
            update.delta,
            update.metrics,
            client_state,
            algorithm.personalize(broadcast, client_state, GIVEN, key),
        )

    return run(jax.random.key(0))


@pytest.mark.parametrize("name", ALGORITHMS)
def test_the_same_round(name):
    fused, plain = a_round(name, True), a_round(name, False)
    assert str(jax.tree.structure(fused)) == str(jax.tree.structure(plain))
    for a, b in zip(jax.tree.leaves(fused), jax.tree.leaves(plain), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
