"""Rounds of models with batch normalisation against a transcription in NumPy, for unequal clients and blocks.

The clients' batches and the server's mean are written out here in float64, without padding.
"""

from typing import Any

import numpy as np
import pytest
from tests.batch_norm import Network, clients, homes, model

import fedrecon as fr
from fedrecon.algorithms import fedalt
from fedrecon.core import leaves_of

BATCH, EPOCHS, FIT, CHANGE, SERVER = 3, 2, 0.2, 0.1, 0.5
BLOCKS = [1, 2, 3, 5, 11]
CLOSE: Any = {"rtol": 1e-5, "atol": 1e-5}


def sgd(rate: float) -> Any:
    return fr.optimizer("sgd", learning_rate=rate)


def batches(x: np.ndarray, y: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    return [(x[i : i + BATCH], y[i : i + BATCH]) for i in range(0, len(y), BATCH)]


def fitted(net: Network, support: list[Any], moves: bool) -> Network:
    for _ in range(EPOCHS):
        for x, y in support:
            net = net.step(x, y, FIT, ("head",), moves)
    return net


def changed(net: Network, query: list[Any], moves: bool) -> Network:
    for x, y in query:
        net = net.step(x, y, CHANGE, ("w",), moves)
    return net


def averaged(server: Network, sent: list[tuple[Network, int]], state: bool) -> Network:
    """The server's parameters after a step of its optimiser, and the mean of the clients' statistics."""
    weights = np.array([count for _, count in sent], float)

    def mean(name: str) -> Any:
        changes = [getattr(net, name) - getattr(server, name) for net, _ in sent]
        return sum(w * change for w, change in zip(weights, changes, strict=True)) / weights.sum()

    server = server._replace(w=server.w + SERVER * mean("w"))
    return server._replace(mean=server.mean + mean("mean"), var=server.var + mean("var")) if state else server


@pytest.mark.parametrize("clients_per_block", BLOCKS)
@pytest.mark.parametrize("state", ["averaged", "local"])
def test_reconstruction_with_statistics(state, clients_per_block):
    local = state == "local"
    algorithm = fr.fedrecon(
        model("head", *(["norm"] if local else [])),
        fr.Solver(sgd(FIT), BATCH, epochs=EPOCHS),
        fr.Solver(sgd(CHANGE), BATCH),
        sgd(SERVER),
        fr.AlternateBatches(BATCH),
    )
    simulation = fr.Simulation(algorithm, clients(), fr.Everyone(), clients_per_block=clients_per_block)
    (round,) = simulation.rounds(simulation.init(), 1)

    server, sent = Network.at_start(), []
    for home in homes().values():
        every = batches(home["x"], home["y"])
        personal = fitted(server, every[::2], local)
        sent.append((changed(personal, every[1::2], not local), sum(len(y) for _, y in every[1::2])))
    expected = averaged(server, sent, not local)
    check_global(round.state.global_params, expected, local)

    personal = {i: fitted(expected, batches(home["x"], home["y"])[::2], local) for i, home in homes().items()}
    evaluation = fr.evaluate(algorithm, round.state, clients(), split=fr.AlternateBatches(BATCH))
    for position, home in homes().items():
        query = batches(home["x"], home["y"])[1::2]
        if query:
            x, y = (np.concatenate(part) for part in zip(*query, strict=True))
            measured = evaluation.values()["mse"][position]
            np.testing.assert_allclose(measured, personal[position].mse(x, y), **CLOSE)


@pytest.mark.parametrize("clients_per_block", [1, 3, 11])
@pytest.mark.parametrize("state", ["averaged", "local"])
def test_kept_parameters_with_statistics(state, clients_per_block):
    local = state == "local"
    algorithm = fedalt(
        model("head", *(["norm"] if local else [])),
        fr.Solver(sgd(FIT), BATCH, epochs=EPOCHS),
        fr.Solver(sgd(CHANGE), BATCH),
        sgd(SERVER),
    )
    simulation = fr.Simulation(algorithm, clients(), fr.Everyone(), clients_per_block=clients_per_block)
    *_, round = simulation.rounds(simulation.init(), 2)

    server, kept = Network.at_start(), {i: Network.at_start() for i in homes()}
    for _ in range(2):
        sent = []
        for i, home in homes().items():
            every = batches(home["x"], home["y"])
            own = kept[i]._replace(w=server.w)
            if not local:
                own = own._replace(mean=server.mean, var=server.var)
            kept[i] = fitted(own, every, local)
            sent.append((changed(kept[i], every, not local), len(home["y"])))
        server = averaged(server, sent, not local)
    check_global(round.state.global_params, server, local)
    keys = simulation.clients.keys
    stored = leaves_of(simulation.client_states.get(keys, len(keys)).value)
    np.testing.assert_allclose(stored["head"], [kept[i].head for i in homes()], **CLOSE)
    assert ("norm/mean" in stored) == local
    if local:
        np.testing.assert_allclose(stored["norm/mean"], [kept[i].mean for i in homes()], **CLOSE)
        np.testing.assert_allclose(stored["norm/var"], [kept[i].var for i in homes()], **CLOSE)


def check_global(params: Any, expected: Network, local: bool) -> None:
    leaves = leaves_of(params)
    np.testing.assert_allclose(leaves["w"], expected.w, **CLOSE)
    assert ("norm/mean" in leaves) != local, "local statistics are among no global parameters"
    if not local:
        np.testing.assert_allclose(leaves["norm/mean"], expected.mean, **CLOSE)
        np.testing.assert_allclose(leaves["norm/var"], expected.var, **CLOSE)


def test_first_order_maml_averages_state_instead_of_adding_it_up():
    """Statistics settle near those of the clients' batches, whatever support and query sets differ by."""
    slow = fr.Solver(fr.optimizer("sgd", learning_rate=1e-6), 3, epochs=10)
    rng = np.random.default_rng(0)
    people = fr.Clients.from_arrays(
        {
            i: {"x": (5 * rng.normal(size=(12, 4)) + 3).astype("f"), "y": rng.normal(size=12).astype("f")}
            for i in range(5)
        }
    )
    algorithm = fr.algorithms.first_order_maml(
        model("head"), slow, slow, fr.optimizer("sgd", learning_rate=1.0), fr.AlternateBatches(3)
    )
    simulation = fr.Simulation(algorithm, people, fr.Everyone())
    after = {r.number: r.state.global_params for r in simulation.rounds(simulation.init(), 12)}
    states = [{k: v for k, v in leaves_of(after[n]).items() if "norm" in k} for n in (4, 12)]
    for name, early in states[0].items():
        np.testing.assert_allclose(states[1][name], early, rtol=1e-2)
