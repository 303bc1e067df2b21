"""The transport over NVFlare, with a federation of this process in place of NVFlare's."""

import queue
from collections import deque

import pytest

from fedrecon.errors import RunError
from fedrecon.experiment.deploying.nvflare_engine import transport as transports
from fedrecon.experiment.deploying.nvflare_engine.job import ASK, JOB_ENDED, MESSAGES, NAMES, TRAIN
from fedrecon.experiment.deploying.nvflare_engine.transport import NVFlareTransport


class Clock:
    """Time that passes only where somebody waits."""

    def __init__(self):
        self.now = 100.0

    def monotonic(self):
        return self.now


class Nodes:
    """Nodes of which each names its clients, and which say what the test lets them say to messages."""

    def __init__(self, clock, clients):
        self.clock, self.clients = clock, dict(clients)
        self.tasks, self.arrived, self.lost = [], deque(), set()
        self.ended, self.failing = False, set()

    def nodes(self):
        return list(self.clients)

    def send(self, node, kind, values, seconds):
        task = (len(self.tasks), node, kind)
        self.tasks.append(task)
        if kind == ASK:
            self.arrived.append((node, task, {} if node in self.failing else {NAMES: self.clients[node]}))
        return task

    def answer(self, node, *data, task=None):
        self.arrived.append((node, task, {MESSAGES: list(data)}))

    def receive(self, seconds):
        if self.arrived:
            return self.arrived.popleft()
        self.clock.now += seconds
        raise queue.Empty

    def is_lost(self, node):
        return node in self.lost

    def is_ended(self):
        return self.ended

    def asked(self, node):
        return [kind for _, name, kind in self.tasks if name == node].count(ASK)


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(transports, "time", clock)
    return clock


@pytest.fixture
def nodes(clock):
    return Nodes(clock, {"north": ["a", "b"], "south": ["c"]})


@pytest.fixture
def transport(nodes):
    transport = NVFlareTransport(nodes)
    assert transport.find(2, 10.0) == ["a", "b", "c"]
    return transport


MESSAGES_OF_ALL = [("a", b"1"), ("b", b"2"), ("c", b"3")]


def test_late_answers_do_not_end_the_wait_for_the_rounds_own(nodes, transport):
    """With over-selection a round ends while a node still computes, and its answer comes in the next one."""
    first = transport.exchange(MESSAGES_OF_ALL, 5.0)
    nodes.answer("north", b"early")
    assert next(first) == b"early"
    first.close()
    old = [task for task in nodes.tasks if task[2] == TRAIN]
    second = transport.exchange(MESSAGES_OF_ALL, 5.0)
    nodes.answer("south", b"late", task=old[1])
    nodes.answer("north", b"of an unknown task")
    assert [next(second), next(second)] == [b"late", b"of an unknown task"]
    new = [task for task in nodes.tasks if task[2] == TRAIN][2:]
    nodes.answer("south", b"own", task=new[1])
    nodes.answer("north", b"own, too", task=new[0])
    before = nodes.clock.now
    assert list(second) == [b"own", b"own, too"]
    assert nodes.clock.now == before  # it ends with the last answer, not at the deadline


def test_rest_of_an_answer_comes_in_the_next_round(nodes, transport):
    first = transport.exchange(MESSAGES_OF_ALL, 5.0)
    nodes.answer("north", b"1", b"2")
    assert next(first) == b"1"
    first.close()
    assert next(transport.exchange(MESSAGES_OF_ALL, 5.0)) == b"2"


def test_lost_nodes_and_the_deadline_end_a_round(nodes, transport):
    nodes.lost.add("south")
    round = transport.exchange(MESSAGES_OF_ALL, 5.0)
    before = nodes.clock.now
    assert list(round) == []
    assert 5.0 <= nodes.clock.now - before < 5.5
    assert [task[1] for task in nodes.tasks if task[2] == TRAIN] == ["north"]
    nodes.ended = True
    with pytest.raises(RunError, match=JOB_ENDED):
        next(transport.exchange(MESSAGES_OF_ALL, 5.0))


def test_node_that_failed_is_asked_again_after_a_while(clock):
    nodes = Nodes(clock, {"north": ["a"], "south": ["b"]})
    nodes.failing.add("south")
    transport = NVFlareTransport(nodes)
    with pytest.raises(RunError, match="2 nodes must be there, 1 answered in 50 seconds"):
        transport.find(2, 50.0)
    assert nodes.asked("south") == 1  # not in every look
    nodes.failing.clear()
    assert transport.find(2, 50.0) == ["a", "b"]
    assert (nodes.asked("north"), nodes.asked("south")) == (1, 2)


def test_names_must_be_unique_before_the_rounds(clock):
    with pytest.raises(RunError, match="client names must be unique over all nodes, two have 'a'"):
        NVFlareTransport(Nodes(clock, {"north": ["a"], "south": ["a"]})).find(2, 10.0)


def test_new_node_with_a_known_client_is_refused_in_a_round(nodes, transport, caplog):
    nodes.clients["west"] = ["c", "d"]
    assert list(transport.exchange([("d", b"4")], 5.0)) == []
    list(transport.exchange([("c", b"3"), ("d", b"4")], 5.0))
    assert [task[1] for task in nodes.tasks if task[2] == TRAIN] == ["south"]
    assert "node west takes no part: it has clients of south" in caplog.text
    # If the other one is lost, it takes its clients over.
    nodes.lost.add("south")
    nodes.clock.now += 60
    list(transport.exchange([], 1.0))
    list(transport.exchange([("c", b"3")], 5.0))
    assert [task[1] for task in nodes.tasks if task[2] == TRAIN] == ["south", "west"]


def test_garbage_of_a_node_is_left_out(nodes, transport):
    round = transport.exchange([("c", b"3")], 5.0)
    nodes.arrived.append(("south", None, {MESSAGES: 3, NAMES: {"a": 1}}))
    nodes.arrived.append(("south", None, {MESSAGES: ["text", b"data"], NAMES: [5]}))
    assert list(round) == [b"data"]
