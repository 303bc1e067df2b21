"""Every algorithm over clients and a server that are apart gives what the simulator gives."""

import jax
import numpy as np
import pytest
from tests.contract.test_contract import ALGORITHMS, FEDERATIONS, MODELS, ONLY_REPEATS, ROUNDS, simulated
from tests.small import Given, rating_model

from fedrecon.deployment._client import Client
from fedrecon.deployment._messages import (
    broadcast_from,
    broadcast_message,
    request_from,
    request_message,
    update_from,
    update_message,
)
from fedrecon.deployment._server import Server
from fedrecon.deployment._wire import decode, encode


def through(message):
    return decode(encode(message))


def deployed(name, kind):
    """Two rounds of everybody, every message as bytes."""
    model, federation = rating_model(**MODELS[kind]), FEDERATIONS[kind]
    algorithm = ALGORITHMS[name](model)
    names = federation.ids.tolist()
    clients = {n: Client(algorithm, federation.take([i]), n, 3) for i, n in enumerate(names)}
    start = simulated(name, kind).start.global_params
    server = Server(algorithm, names, Given([range(len(names))]), seed=3, run="contract", global_params=start)
    for _ in range(ROUNDS):
        for n in server.cohort():
            address, client = server.address(n), clients[n]
            rows = request_from(through(request_message(address, client.rows)))
            given = through(broadcast_message(address, server.broadcast(rows)))
            update = client.update(broadcast_from(given, server.state.global_params))
            back = through(update_message(address, update))
            assert server.add(n, update_from(back, server.state.global_params)) is None
        outcome = server.step()
        assert outcome.released and outcome.answered == len(names)
    return server


# Kin of those that are tried every time.
RARELY = ("first_order_maml", "full_gradient", "no split", "fedavg", "fedsim", "local_only")


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow) if name in RARELY else name for name in ALGORITHMS]
)
def test_deployment_is_the_simulation(name):
    kind = "repeats" if name in ONLY_REPEATS else "distinct"
    found, wanted = deployed(name, kind).state, simulated(name, kind).rounds[-1].state
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
