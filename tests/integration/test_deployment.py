"""The recipes over a server and clients that are apart, every message as bytes, beside the simulator."""

from typing import Any

import jax
import numpy as np
import pytest
from tests.integration.apps import write_ratings

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
from fedrecon.deployment._wire import decode, encode, payload_bytes
from fedrecon.experiment import config as configs
from fedrecon.experiment.training.build import spec_of, task_of
from fedrecon.simulation._simulation import Simulation

ROUNDS = 4
ENVELOPE = 4096  # bytes that a message may have beside its arrays


@pytest.fixture(params=["movielens", "movielens-newton"])
def recipe(request):
    return request.param


def together(repository, recipe, changes):
    """A recipe's rounds in the simulator and over messages, and the bytes of both."""
    path = repository / "experiments" / f"{recipe}.toml"
    config = configs.load(path, [*changes, "training.clients_per_round=20", "seed=5"])
    spec = spec_of(config, task_of(config))
    simulation = Simulation(spec.algorithm, spec.clients, spec.sampling, seed=spec.seed)
    rounds = list(simulation.rounds(simulation.init(), ROUNDS))
    names = spec.clients.ids.tolist()
    place = {name: i for i, name in enumerate(names)}
    ids = dict(spec.clients.vocabularies)
    server = Server(spec.algorithm, names, spec.sampling, seed=spec.seed, run=recipe, vocabularies=ids)
    clients: dict[Any, Client] = {}
    predicted, counted, lengths = [], [], []
    for done in rounds:
        sizes = np.zeros(3, int)
        for name in server.cohort():
            if name not in clients:
                one = spec.clients.take([place[name]])
                clients[name] = Client(spec.algorithm, one, name, spec.seed, vocabularies=ids, length=300)
            client, address, like = clients[name], server.address(name), server.state.global_params
            asked = encode(request_message(address, client.rows))
            down = encode(broadcast_message(address, server.broadcast(request_from(decode(asked)))))
            up = encode(update_message(address, client.update(broadcast_from(decode(down), like))))
            assert server.add(name, update_from(decode(up), like)) is None
            messages = [decode(data) for data in (asked, down, up)]
            sizes += [payload_bytes(m) for m in messages]
            lengths += [(len(d), payload_bytes(m)) for d, m in zip((asked, down, up), messages, strict=True)]
        server.step()
        predicted.append([done.request_bytes, done.bytes_down, done.bytes_up])
        counted.append(sizes.tolist())
    return rounds[-1].state, server.state, predicted, counted, lengths


def check(state, deployed, predicted, counted, lengths):
    for a, b in zip(jax.tree.leaves(state), jax.tree.leaves(deployed), strict=True):
        assert np.max(np.abs(np.asarray(a, np.float64) - np.asarray(b, np.float64)), initial=0) <= 1e-5
    assert counted == predicted
    assert all(length <= 1.05 * payload + ENVELOPE for length, payload in lengths)


@pytest.fixture(scope="module")
def ratings(tmp_path_factory):
    return write_ratings(tmp_path_factory.mktemp("ratings") / "ratings.csv")


def test_generated_ratings(repository, recipe, ratings):
    check(*together(repository, recipe, [f"data.path='{ratings}'"]))


def test_movielens(repository, recipe, shared_data):
    check(*together(repository, recipe, [f"data.path='{shared_data('ml-latest-small')}'"]))
