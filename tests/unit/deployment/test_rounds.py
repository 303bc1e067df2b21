"""Nodes and a server in one process: rounds, what nodes refuse, what leaves them, and how rounds go on."""

import json
import logging
import re
from dataclasses import dataclass

import jax
import numpy as np
import pytest
from tests.small import Given, federation, rating_model, sgd, solver

from fedrecon.algorithms._fedalt import fedalt
from fedrecon.algorithms._fedper import fedper
from fedrecon.algorithms._fedrecon import fedrecon
from fedrecon.algorithms._lg_fedavg import lg_fedavg
from fedrecon.core._splits import AlternateBatches
from fedrecon.data._sampling import AbstractSampling
from fedrecon.deployment._endpoint import Endpoint
from fedrecon.deployment._messages import Address, ask_message, refusal_from
from fedrecon.deployment._node import Node
from fedrecon.deployment._refusals import Refusal
from fedrecon.deployment._rounds import ANSWERED, LOG, STATE, run_rounds
from fedrecon.deployment._server import Server
from fedrecon.deployment._store import Store
from fedrecon.deployment._wire import decode, encode
from fedrecon.errors import DataError, RunError
from fedrecon.simulation._simulation import Simulation

CLIENTS = federation(repeats=True)
NAMES = CLIENTS.ids.tolist()
MODEL = rating_model(two_fields=True, scale=True)
STATELESS = fedrecon(MODEL, solver(), solver(), sgd(1.0), AlternateBatches(2))
STATEFUL = fedalt(MODEL, solver(), solver(), sgd(1.0))
# Their clients keep tables: of these one whose rows are shared with a global table, or all that an item has.
KEEPING_TABLES = {
    "fedper": fedper(MODEL, solver(), solver(), sgd(1.0), ("1", "0/item/bias")),
    "lg_fedavg": lg_fedavg(MODEL, solver(), solver(), sgd(1.0), ("0/item",)),
}
COHORTS = Given([[3, 5, 8], [8, 1, 2], [5, 8, 10], [1, 3, 8]])


class Direct:
    """Calls nodes where they are."""

    def __init__(self, *nodes):
        self.nodes = {name: node for node in nodes for name in node.names}
        self.sent = []

    def exchange(self, messages, seconds):
        for client, data in messages:
            if str(client) in self.nodes:
                answer = self.nodes[str(client)].handle(data)
                self.sent.append(answer)
                yield answer


def node(algorithm, clients=CLIENTS, folder=None, **others):
    return Node(algorithm, Store(clients, folder), seed=3, run="trial", **others)


def endpoint(algorithm, **others):
    return Endpoint(Server(algorithm, NAMES, COHORTS, seed=3, run="trial", **others))


def halves(algorithm, folder=None):
    parts = [CLIENTS.take(range(5)), CLIENTS.take(range(5, 11))]
    return [node(algorithm, x, folder and folder / str(i)) for i, x in enumerate(parts)]


def simulated(algorithm, count=4):
    simulation = Simulation(algorithm, CLIENTS, COHORTS, seed=3)
    return list(simulation.rounds(simulation.init(), count))[-1].state


def same(a, b):
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("algorithm", [STATELESS, STATEFUL], ids=["stateless", "stateful"])
def test_rounds_are_those_of_the_simulator(tmp_path, algorithm):
    end = endpoint(algorithm)
    records = list(run_rounds(end, Direct(*halves(algorithm)), 4, tmp_path))
    same(end.server.state, simulated(algorithm))
    lines = [json.loads(line) for line in (tmp_path / LOG).read_text().splitlines()]
    assert [(x["round"], x["answered"], x["released"]) for x in lines] == [(i, 3, True) for i in range(4)]
    assert all(x["bytes_down"] > 0 and x["bytes_up"] > 0 and x["refused"] == {} for x in lines)
    assert records[0].metrics()["loss"].weight > 0


@pytest.mark.parametrize(
    "algorithm",
    [
        pytest.param(STATELESS, id="stateless"),
        pytest.param(STATEFUL, id="stateful"),
        pytest.param(KEEPING_TABLES["lg_fedavg"], id="lg_fedavg"),
        pytest.param(KEEPING_TABLES["fedper"], id="fedper", marks=pytest.mark.slow),
    ],
)
def test_server_and_nodes_that_begin_again_go_on_to_the_same_numbers(tmp_path, algorithm):
    first = run_rounds(endpoint(algorithm), Direct(*halves(algorithm, tmp_path)), 4, tmp_path / "server")
    for _ in range(2):
        next(first)
    first.close()
    # The third round was computed by its clients, and lost with the server.
    lost = endpoint(algorithm)
    lost.server.restore(tmp_path / "server" / STATE)
    nodes = halves(algorithm, tmp_path)
    lost_answers = Direct(*nodes)
    for name in lost.server.cohort():
        for data in lost_answers.exchange([(name, lost.ask(name))], 1):
            lost.receive(data)
        list(lost_answers.exchange([(name, lost.broadcast(name))], 1))
    end = endpoint(algorithm)
    list(run_rounds(end, Direct(*nodes), 4, tmp_path / "server"))
    same(end.server.state, simulated(algorithm))


def test_missing_node_leaves_the_others(tmp_path):
    end = endpoint(STATELESS)
    here = halves(STATELESS)[1]  # clients 5 to 10
    records = list(run_rounds(end, Direct(here), 2, tmp_path))
    assert [(r.outcome.asked, r.outcome.answered) for r in records] == [(3, 2), (3, 1)]


def test_rounds_without_enough_answers_are_given_up(tmp_path):
    end = endpoint(STATELESS, min_answers=3)
    with pytest.raises(RunError, match=r"round 0 was begun 3 times, .* 2 of 3 clients"):
        list(run_rounds(end, Direct(halves(STATELESS)[1]), 2, tmp_path, max_attempts=3))
    lines = [json.loads(line) for line in (tmp_path / LOG).read_text().splitlines()]
    assert [(x["round"], x["attempt"], x["released"]) for x in lines] == [(0, i, False) for i in range(3)]


def test_folder_of_another_run_is_refused(tmp_path):
    list(run_rounds(endpoint(STATELESS), Direct(*halves(STATELESS)), 1, tmp_path))
    other = Endpoint(Server(STATELESS, NAMES, COHORTS, seed=3, run="other"))
    with pytest.raises(DataError, match="of the run 'other'"):
        next(run_rounds(other, Direct(), 2, tmp_path))


def reason(of, data):
    return refusal_from(decode(of.handle(data)))


def test_node_refuses_by_name():
    of, end = node(STATELESS), endpoint(STATELESS)
    good = end.ask("c3")
    assert reason(of, good[:-1]) is Refusal.CHECKSUM
    assert reason(of, encode(ask_message(Address("other", 0, 0, "c3")))) is Refusal.WRONG_RUN
    assert reason(of, encode(ask_message(Address("trial", 0, 0, "zoe")))) is Refusal.NOT_ASKED
    assert reason(of, end.broadcast("c3")[:40]) is Refusal.CHECKSUM
    short = node(STATELESS, max_bytes=100)
    assert reason(short, good) is Refusal.TOO_LARGE
    broken = decode(end.broadcast("c3"))
    for arrays, wanted in (
        ({}, Refusal.WRONG_LEAF),
        ({**broken.arrays, "global_params/scale": np.zeros(2, np.float32)}, Refusal.WRONG_SHAPE),
    ):
        assert reason(of, encode(broken._replace(arrays=arrays))) is wanted


def test_hook_says_who_may_take_part_now(tmp_path):
    asked = []

    def may(name, round):
        asked.append((name, round))
        return name != "c5"

    end = endpoint(STATELESS)
    record = next(run_rounds(end, Direct(node(STATELESS, may_take_part=may)), 1, tmp_path))
    assert record.outcome.answered == 2
    assert record.outcome.refused == {"not_now": 1}
    assert ("c5", 0) in asked and ("c3", 0) in asked


def test_errors_leave_a_node_as_a_name_and_logs_name_nobody(tmp_path, caplog):
    def broken(name, round):
        raise ZeroDivisionError(f"the secret of {name}")

    of = node(STATELESS, may_take_part=broken)
    with caplog.at_level(logging.INFO, "fedrecon.deployment"):
        data = of.handle(endpoint(STATELESS).ask("c3"))
        healthy = node(STATELESS)
        list(run_rounds(endpoint(STATELESS), Direct(healthy), 1, tmp_path))
    assert refusal_from(decode(data)) is Refusal.FAILED
    assert b"secret" not in data and b"ZeroDivision" not in data
    messages = [record.getMessage() for record in caplog.records]
    assert any(healthy.store.pseudonym("c3") in text for text in messages)
    assert not any(re.search(rf"\b{name}\b", text) for name in NAMES for text in messages)


def test_all_that_leaves_nodes_are_rows_deltas_and_means(tmp_path):
    """Every byte of every message is accounted for: no local parameter and no example is among them."""
    direct = Direct(*halves(STATEFUL))
    list(run_rounds(endpoint(STATEFUL), direct, 4, tmp_path))
    kinds = set()
    for data in direct.sent:
        message = decode(data)
        kinds.add(message.kind)
        named = {name.split("/")[0] for name in message.arrays}
        assert named <= {"request": {"rows"}, "update": {"rows", "delta", "weight", "metrics"}}[message.kind]
        assert set(message.notes) <= {"metrics"}
        assert not any("user" in name for name in message.arrays)
        # Nothing beside what was read: the same message is written to the same bytes.
        assert encode(message._replace(arrays=joined(message.arrays))) == data
        own = CLIENTS[message.client]
        for name, ids in message.arrays.items():
            if name.startswith("rows/"):
                assert np.all(np.diff(ids) > 0)
                assert set(ids.tolist()) == {*own["item"].tolist(), *own["previous"].tolist()}
    assert kinds == {"request", "update"}


def joined(arrays):
    """Arrays that were sent once, under several names, as one object again."""
    places: dict = {}
    return {
        name: places.setdefault(x.__array_interface__["data"][0] if x.size else name, x)
        for name, x in arrays.items()
    }


class Slow(Direct):
    """Delivers the answers of some clients in the exchange after the one that asked, behind all others."""

    def __init__(self, *nodes, slow):
        super().__init__(*nodes)
        self.slow, self.kept = slow, []

    def exchange(self, messages, seconds):
        kept, self.kept = self.kept, []
        for client, data in messages:
            answer = self.nodes[str(client)].handle(data)
            if decode(answer).kind == "update" and str(client) in self.slow:
                self.kept.append(answer)
            else:
                yield answer
        yield from kept


@dataclass(frozen=True)
class Late(AbstractSampling):
    """The cohorts above, in which the client c8 is one round late."""

    max_staleness: int = 2

    def indices(self, round, num_examples, seed):
        return np.array(COHORTS.indices(round, num_examples, seed))

    def delays(self, round, num_examples, seed):
        return (self.indices(round, num_examples, seed) == 8).astype(int)

    def most(self, num_clients):
        return 3

    def check(self, num_clients):
        pass


@pytest.mark.parametrize("algorithm", [STATELESS, STATEFUL], ids=["stateless", "stateful"])
def test_late_updates_count_as_in_the_simulator(tmp_path, algorithm):
    def trained(folder, counts):
        transport = Slow(*halves(algorithm, folder), slow={"c8"})
        for count in counts:
            end = endpoint(algorithm, max_staleness=2)
            list(run_rounds(end, transport, count, folder / "server", note_clients=True))
        return end.server.state

    simulation = Simulation(algorithm, CLIENTS, Late(), seed=3)
    *_, last = simulation.rounds(simulation.init(), 4)
    if algorithm is STATELESS:  # a stateful client of the simulator goes on at once from its own late round
        same(trained(tmp_path / "whole", [4]), last.state._replace(late=()))
    again = trained(tmp_path / "again", [2, 4])
    jax.tree.map(np.testing.assert_array_equal, again, trained(tmp_path / "other", [4]))
    lines = [json.loads(line) for line in (tmp_path / "again/server" / LOG).read_text().splitlines()]
    assert [(x["answered"], x["stale"], x["refused"]) for x in lines] == [
        (2, 0, {}), (2, 1, {}), (2, 1, {}), (2, 1, {}),
    ]  # fmt: skip
    noted = [json.loads(line) for line in (tmp_path / "again/server" / ANSWERED).read_text().splitlines()]
    assert [x.get("stale") for x in noted] == [None, [["c8", 0]], [["c8", 1]], [["c8", 2]]]


def test_a_round_ends_at_enough_answers(tmp_path):
    end, transport = endpoint(STATELESS, max_staleness=1), Direct(*halves(STATELESS))
    records = list(run_rounds(end, transport, 4, tmp_path, enough_answers=2))
    assert [(r.outcome.asked, r.outcome.answered) for r in records] == [(3, 2)] * 4
    assert [list(r.outcome.clients) for r in records][:2] == [["c3", "c5"], ["c8", "c1"]]
    with pytest.raises(ValueError, match="enough_answers must be a whole number of at least 1, got 0"):
        next(run_rounds(endpoint(STATELESS), transport, 4, tmp_path / "other", enough_answers=0))
