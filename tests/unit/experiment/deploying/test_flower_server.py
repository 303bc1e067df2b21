"""The transport over a grid of Flower's messages, without Flower's processes."""

import importlib.util
import itertools
import warnings
from types import SimpleNamespace

import pytest

from fedrecon.errors import RunError

if importlib.util.find_spec("flwr") is None:
    pytest.skip("needs Flower: pip install 'fedrecon[flower]'", allow_module_level=True)

with warnings.catch_warnings():
    # Flower imports parts of click that its next version will not have.
    warnings.simplefilter("ignore", DeprecationWarning)
    from flwr.serverapp import Grid

    from fedrecon.experiment.deploying import flower_server
    from fedrecon.experiment.deploying.flower_client import MESSAGES, NAMES, RECORD
    from fedrecon.experiment.deploying.flower_server import FlowerTransport


class FakeMessage:
    """Flower's own messages can be made only in processes of its apps."""

    numbers = itertools.count()

    def __init__(self, content, message_type, dst_node_id, ttl):
        assert ttl > 0
        self.content, self.kind, self.node = content, message_type, dst_node_id
        self.number = str(next(self.numbers))


class FakeGrid(Grid):
    """Nodes that answer at once, but for the messages of `slow`, which they answer when they are told to."""

    def __init__(self, nodes):
        self.nodes, self.slow, self.pending, self.ready = nodes, set(), [], []

    def get_node_ids(self):
        return list(self.nodes)

    def unused(self, *arguments, **settings):
        raise NotImplementedError

    create_message = get_nodes = send_and_receive = set_run = unused
    run = property(unused)

    def push_messages(self, messages):
        for message in messages:
            node, sent = message.node, message.content[RECORD]
            names = {NAMES: self.nodes[node]}
            answers = {MESSAGES: [b"to " + data for data in sent.get(MESSAGES, [])]}
            content = {RECORD: names if message.kind == "query" else answers}
            metadata = SimpleNamespace(reply_to_message_id=message.number, src_node_id=node)
            reply = SimpleNamespace(metadata=metadata, content=content, has_content=lambda: True)
            (self.pending if node in self.slow else self.ready).append(reply)
        return [message.number for message in messages]

    def pull_messages(self, numbers):
        given = [reply for reply in self.ready if reply.metadata.reply_to_message_id in numbers]
        self.ready = [reply for reply in self.ready if reply not in given]
        return given


@pytest.fixture
def grid(monkeypatch):
    monkeypatch.setattr(flower_server, "_LOOK", 0.01)
    monkeypatch.setattr(flower_server, "Message", FakeMessage)
    return FakeGrid({1: ["ann", "bob"], 2: ["eve"]})


def test_messages_go_to_the_node_of_their_client(grid):
    transport = FlowerTransport(grid)
    assert transport.find(2, 5.0) == ["ann", "bob", "eve"]
    messages = [("eve", b"e"), ("ann", b"a"), ("nobody", b"n"), ("bob", b"b")]
    assert sorted(transport.exchange(messages, 5.0)) == [b"to a", b"to b", b"to e"]


def test_late_answers_arrive_in_a_later_round(grid):
    transport = FlowerTransport(grid)
    transport.find(2, 5.0)
    grid.slow = {2}
    assert list(transport.exchange([("ann", b"1"), ("eve", b"1")], 0.0)) == [b"to 1"]
    grid.slow, grid.ready, grid.pending = set(), grid.pending, []
    # The endpoint tells by its round that it is late, and counts it.
    assert list(transport.exchange([("ann", b"2"), ("eve", b"2")], 5.0)) == [b"to 1", b"to 2", b"to 2"]


def test_answers_that_a_round_no_longer_wants_arrive_in_the_next(grid):
    transport = FlowerTransport(grid)
    transport.find(2, 5.0)
    messages = [("ann", b"1"), ("bob", b"1"), ("eve", b"1")]
    first = transport.exchange(messages, 5.0)
    next(first)
    first.close()
    assert list(transport.exchange([("eve", b"2")], 5.0)) == [b"to 1", b"to 1", b"to 2"]


def test_node_that_was_started_again_takes_its_clients_with_it(grid):
    transport = FlowerTransport(grid)
    transport.find(2, 5.0)
    grid.nodes = {1: ["ann", "bob"], 3: ["eve"]}
    assert list(transport.exchange([("eve", b"e")], 5.0)) == [b"to e"]
    grid.nodes = {1: ["ann", "bob"], 3: ["eve"], 4: ["ann"]}
    with pytest.raises(RunError, match="two have 'ann'"):
        list(transport.exchange([("eve", b"e")], 5.0))


def test_node_that_ended_loses_its_clients_though_flower_still_lists_it(grid, monkeypatch):
    monkeypatch.setattr(flower_server, "_LEAST", 0.05)
    transport = FlowerTransport(grid)
    transport.find(2, 5.0)
    grid.nodes, grid.slow = {**grid.nodes, 3: ["eve"]}, {2}
    assert list(transport.exchange([("eve", b"e")], 0.4)) == [b"to e"]
    assert [reply.metadata.src_node_id for reply in grid.pending] == [2]


def test_node_that_answers_keeps_its_client_and_both_are_an_error(grid, monkeypatch):
    monkeypatch.setattr(flower_server, "_LEAST", 0.05)
    transport = FlowerTransport(grid)
    transport.find(2, 5.0)
    grid.nodes, grid.slow = {**grid.nodes, 3: ["eve"]}, {3}
    assert list(transport.exchange([("ann", b"a")], 0.2)) == [b"to a"]
    # The new node's first answer comes late, and a second one in time does not.
    grid.ready, grid.pending = grid.pending, []
    assert list(transport.exchange([("eve", b"e")], 0.4)) == [b"to e"]
    assert list(transport.exchange([("eve", b"e")], 0.4)) == [b"to e"]
    grid.slow, grid.ready, grid.pending = set(), grid.pending, []
    with pytest.raises(RunError, match="two have 'eve'"):
        list(transport.exchange([("eve", b"e")], 0.4))


def test_node_whose_first_answer_is_late_takes_part_then(grid, monkeypatch):
    monkeypatch.setattr(flower_server, "_LEAST", 0.05)
    transport = FlowerTransport(grid)
    transport.find(2, 5.0)
    grid.nodes[3], grid.slow = ["ida"], {3}
    assert list(transport.exchange([("ida", b"i"), ("ann", b"a")], 0.2)) == [b"to a"]
    grid.slow, grid.ready, grid.pending = set(), grid.pending, []
    # The late answer has come by the next message at the latest.
    list(transport.exchange([("ann", b"a")], 0.2))
    assert list(transport.exchange([("ida", b"i")], 5.0)) == [b"to i"]


def test_node_whose_first_answer_is_lost_is_asked_again(grid, monkeypatch):
    monkeypatch.setattr(flower_server, "_LEAST", 0.05)
    monkeypatch.setattr(flower_server, "_PATIENCE", 0.1)
    transport = FlowerTransport(grid)
    transport.find(2, 5.0)
    grid.nodes[3], grid.slow = ["ida"], {3}
    assert list(transport.exchange([("ida", b"i")], 0.4)) == []
    grid.slow, grid.pending = set(), []
    assert sorted(transport.exchange([("ida", b"i"), ("ann", b"a")], 5.0)) == [b"to a", b"to i"]


def test_late_updates_that_come_while_names_are_awaited_are_passed_on(grid, monkeypatch):
    monkeypatch.setattr(flower_server, "_LEAST", 0.05)
    transport = FlowerTransport(grid)
    transport.find(2, 5.0)
    grid.slow = {2}
    assert list(transport.exchange([("eve", b"1")], 0.0)) == []
    grid.nodes[3], grid.slow, grid.ready, grid.pending = ["ida"], {3}, grid.pending, []
    # The names of the new node never come, and the update comes before the messages of the round are sent.
    answers = transport.exchange([("ann", b"2")], 0.4)
    assert next(answers) == b"to 1"
    assert not any(MESSAGES in reply.content[RECORD] for reply in grid.ready)
    assert list(answers) == [b"to 2"]


def test_missing_nodes_are_counted(grid):
    with pytest.raises(RunError, match=r"3 nodes must be there, 2 answered in 0\.3 seconds"):
        FlowerTransport(grid).find(3, 0.3)
