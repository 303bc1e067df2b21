"""Flower's server app: its grid carries the messages of `run_rounds`."""

import time
from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.serverapp import Grid, ServerApp

from fedrecon.errors import RunError
from fedrecon.experiment.deploying.flower_client import MESSAGES, NAMES, RECORD
from fedrecon.experiment.deploying.plan import DeploymentPlan
from fedrecon.experiment.deploying.server import noted_rounds, run_plan

# Seconds between two queries which nodes are connected, and what they have answered.
_LOOK = 0.5
# The longest wait in seconds for names of new nodes, after which those that are missing are asked again.
_PATIENCE = 60.0
# The least time in seconds for answers.
_LEAST = 1.0
# How many deadlines after its message an answer may come and still be counted as late.
_KEPT = 3.0


class FlowerTransport:
    """Carries messages over Flower's grid, which gets one message for all clients of a node.

    Args:
        grid: The grid that Flower passes to a server app.
        max_staleness: The number of rounds by which an answer may be late and is still of use; 0 by default.
    """

    def __init__(self, grid: Grid, max_staleness: int = 0):
        self._grid, self._waiting = grid, set[str]()
        self._deadlines = _KEPT + max_staleness
        self._arrived = deque[bytes]()
        # The node of each client, and nodes that named a client of another node since `_settle` looked at it.
        self._node_of, self._claims = dict[str, int](), dict[str, int]()
        # When each node was last asked for its clients' names, and what it answered.
        self._asked, self._names = dict[int, float](), dict[int, frozenset[str]]()

    def find(self, nodes: int, seconds: float) -> list[str]:
        """Waits for nodes, and asks which clients they have, as `NodesTransport` describes."""
        end = time.monotonic() + seconds
        while len(answered := set(self._node_of.values())) < nodes:
            if (left := end - time.monotonic()) < 0:
                raise RunError(
                    f"{nodes} nodes must be there, {len(answered)} answered in {seconds:g} seconds"
                )
            # No round has begun, so that no answer but names can come.
            for _ in self._meet(min(_PATIENCE, left)):
                continue
            if len(set(self._node_of.values())) < nodes:
                time.sleep(_LOOK)
        return sorted(self._node_of)

    def exchange(self, messages: Sequence[tuple[Any, bytes]], seconds: float) -> Iterator[bytes]:
        """Sends each message to the node of its client and yields the answers, as `Transport` describes."""
        end = time.monotonic() + seconds
        # Half of the time is left for the messages, however slow new nodes are.
        yield from self._meet(min(_PATIENCE, seconds / 2))
        by_node: dict[int, list[bytes]] = {}
        for client, data in messages:
            if str(client) in self._node_of:
                by_node.setdefault(self._node_of[str(client)], []).append(data)
        left = max(end - time.monotonic(), _LEAST)
        sent = self._push({node: {MESSAGES: parts} for node, parts in by_node.items()}, "train", left)
        yield from self._wait(set(sent.values()), left)

    def _meet(self, seconds: float) -> Iterator[bytes]:
        """Asks nodes whose clients are not known for their names, and yields late answers that come.

        A node that was started again without a key of its own has another number, and takes its clients with
        it. Nodes that did not answer are asked again after a while, but not waited for again.

        Args:
            seconds: The longest time to wait for the answers, in seconds.

        Raises:
            RunError: Two nodes that answer have a client of the same name.
        """
        now = time.monotonic()
        seconds = max(seconds, _LEAST)
        here = set(self._grid.get_node_ids())
        new = here - self._names.keys() - self._asked.keys()
        again = {n for n in here - self._names.keys() - new if now - self._asked[n] >= _PATIENCE}
        sent = self._ask(new | again, seconds)
        yield from self._wait({number for node, number in sent.items() if node in new}, seconds)
        yield from self._settle(here, max(now + seconds - time.monotonic(), _LEAST))

    def _settle(self, here: set[int], seconds: float) -> Iterator[bytes]:
        """Decides for each client that two nodes have named which of them has it.

        Flower lists a node for a while after its end. So two nodes that are listed are both asked: the
        one that answers has the client, and the later one if neither does.

        Args:
            here: The nodes that Flower lists.
            seconds: The longest time to wait for the answers, in seconds.

        Raises:
            RunError: Both answer that they have the client.
        """
        claims = {name: (self._node_of[name], node) for name, node in self._claims.items()}
        rivals = {node for pair in claims.values() if here.issuperset(pair) for node in pair}
        for node in rivals:
            self._names.pop(node, None)
        yield from self._wait(set(self._ask(rivals, seconds).values()), seconds)
        for name, pair in claims.items():
            before, after = (node in here and name in self._names.get(node, ()) for node in pair)
            if before and after:
                raise RunError(f"client names must be unique over all nodes, two have {name!r}")
            if not before:
                self._node_of[name] = pair[1]
            # The answers above named the client again.
            if self._claims[name] in pair:
                del self._claims[name]

    def _ask(self, nodes: set[int], seconds: float) -> dict[int, str]:
        self._asked |= dict.fromkeys(nodes, time.monotonic())
        return self._push({node: {"ask": True} for node in nodes}, "query", seconds)

    def _push(self, sent: dict[int, Any], kind: str, seconds: float) -> dict[int, str]:
        """Sends values to nodes, and returns the numbers of the messages that the SuperLink took."""
        messages = [
            Message(
                content=RecordDict({RECORD: ConfigRecord(values)}),
                message_type=kind,
                dst_node_id=node,
                # Flower forgets an answer that comes later than this, so that late ones are not counted then.
                ttl=self._deadlines * seconds,
            )
            for node, values in sent.items()
        ]
        # Flower puts None for a message that the SuperLink refused.
        pairs = zip(sent, self._grid.push_messages(messages) if messages else (), strict=True)
        numbers = {node: number for node, number in pairs if number}
        self._waiting |= set(numbers.values())
        return numbers

    def _wait(self, numbers: set[str], seconds: float) -> Iterator[bytes]:
        """Yields what nodes answer, to earlier messages too, until all of these are answered; looks once."""
        end = time.monotonic() + seconds
        while self._arrived:
            yield self._arrived.popleft()
        while self._waiting:
            for reply in self._grid.pull_messages(sorted(self._waiting)):
                self._waiting.discard(reply.metadata.reply_to_message_id)
                # A reply without content tells of a failure.
                if reply.has_content():
                    self._take(reply.metadata.src_node_id, reply.content[RECORD])
            # Whoever stops here gets the rest of a node's answers from the next call.
            while self._arrived:
                yield self._arrived.popleft()
            if numbers.isdisjoint(self._waiting) or time.monotonic() > end:
                return
            time.sleep(_LOOK)

    def _take(self, node: int, record: Any) -> None:
        """Notes the clients' names in a node's answer, and the messages in it."""
        if NAMES in record:
            self._names[node] = frozenset(map(str, record[NAMES]))
            for name in self._names[node]:
                if self._node_of.setdefault(name, node) != node:
                    self._claims[name] = node
        self._arrived += record.get(MESSAGES, [])


def server_app() -> ServerApp:
    """The app that runs the rounds; the entry `folder` of its run configuration is the folder of the plan."""
    app = ServerApp()

    @app.main()
    def main(grid: Grid, context: Context) -> None:
        folder = Path(str(context.run_config["folder"]))
        with noted_rounds(folder):
            plan = DeploymentPlan.read(folder)
            run_plan(plan, FlowerTransport(grid, plan.max_staleness), folder, plan.address)

    return app
