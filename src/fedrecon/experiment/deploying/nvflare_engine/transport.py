"""The transport of the rounds over NVFlare, which knows of NVFlare only what `Federation` says."""

import logging
import math
import queue
import time
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

from fedrecon.errors import RunError
from fedrecon.experiment.deploying.nvflare_engine.job import ASK, JOB_ENDED, MESSAGES, NAMES, TRAIN

LOG = logging.getLogger("fedrecon.deployment")
# Seconds between two looks at what has arrived and which nodes are there.
LOOK = 0.05
# Seconds after which a node that has not named its clients is asked again.
_AGAIN = 60.0


@runtime_checkable
class Federation(Protocol):
    """The nodes of a job, and tasks for them."""

    def nodes(self) -> list[str]:
        """The names of the nodes."""

    def send(self, node: str, kind: str, values: Mapping[str, Any], seconds: float) -> object:
        """Begins a task of a node, and returns the object that stands for it.

        Args:
            node: The name of the node.
            kind: The name of the task.
            values: The content of the task.
            seconds: The longest time in seconds until its answer.
        """

    def receive(self, seconds: float) -> tuple[str, object, Mapping[str, Any]]:
        """The next answer: its node, what `send` returned, or None if the task is over, and its content.

        Args:
            seconds: The longest time to wait, in seconds.

        Raises:
            queue.Empty: None came in this time.
        """

    def is_lost(self, node: str) -> bool:
        """Whether a node's process has ended: NVFlare does not start it again in a job."""

    def is_ended(self) -> bool:
        """Whether NVFlare ends the job."""


class NVFlareTransport:
    """Carries messages as tasks of NVFlare, one for all clients of a node.

    Args:
        federation: The nodes of the job.
    """

    def __init__(self, federation: Federation):
        self._federation = federation
        self._node_of = dict[str, str]()
        # When each node was last asked for its clients' names, and those that answered.
        self._asked, self._answered = dict[str, float](), set[str]()
        self._arrived = deque[bytes]()
        self._begun = False

    def find(self, nodes: int, seconds: float) -> list[str]:
        """Waits for nodes, and asks which clients they have, as `NodesTransport` describes."""
        end = time.monotonic() + seconds
        while len(self._answered) < nodes:
            if (left := end - time.monotonic()) < 0:
                raise RunError(
                    f"{nodes} nodes must be there, {len(self._answered)} answered in {seconds:g} seconds"
                )
            self._meet(left)
            # No round has begun, so that no answer but names can come.
            for _ in self._wait({}, LOOK):
                continue
        self._begun = True
        return sorted(self._node_of)

    def exchange(self, messages: Sequence[tuple[Any, bytes]], seconds: float) -> Iterator[bytes]:
        """Sends each message to the node of its client and yields the answers, as `Transport` describes."""
        self._meet(seconds)
        by_node: dict[str, list[bytes]] = {}
        for client, data in messages:
            if str(client) in self._node_of:
                by_node.setdefault(self._node_of[str(client)], []).append(data)
        lost = self._lost(by_node)
        tasks = {
            node: self._federation.send(node, TRAIN, {MESSAGES: by_node[node]}, seconds)
            for node in sorted(by_node.keys() - lost)
        }
        yield from self._wait(tasks, seconds)

    def _meet(self, seconds: float) -> None:
        """Asks nodes that have not named their clients, and does so again after a while."""
        now = time.monotonic()
        for node in self._federation.nodes():
            late = now - self._asked.get(node, -math.inf) >= _AGAIN
            if late and node not in self._answered and not self._federation.is_lost(node):
                self._asked[node] = now
                self._federation.send(node, ASK, {}, seconds)

    def _wait(self, tasks: Mapping[str, object], seconds: float) -> Iterator[bytes]:
        """Yields what nodes answer, until these tasks are answered or their nodes lost, or time is over."""
        end, waiting = time.monotonic() + seconds, dict(tasks)
        while True:
            # Whoever stops here gets the rest of a node's answers from the next call.
            while self._arrived:
                yield self._arrived.popleft()
            if self._federation.is_ended():
                raise RunError(JOB_ENDED)
            if (tasks and not waiting) or time.monotonic() > end:
                return
            try:
                node, task, content = self._federation.receive(LOOK)
            except queue.Empty:
                for lost in self._lost(waiting):
                    del waiting[lost]
                continue
            # The answer to an earlier task of the node may come first: the round's own is still to come.
            if node in waiting and waiting[node] is task:
                del waiting[node]
            self._take_names(node, [name for name in _list(content, NAMES) if isinstance(name, str)])
            self._arrived += [data for data in _list(content, MESSAGES) if isinstance(data, bytes)]

    def _take_names(self, node: str, names: Sequence[str]) -> None:
        """Notes a node's clients, unless another node that is not lost has one of them."""
        rivals = {self._node_of[name] for name in names if self._node_of.get(name, node) != node}
        rivals -= self._lost(rivals)
        if rivals and not self._begun:
            both = next(name for name in names if self._node_of.get(name) in rivals)
            raise RunError(f"client names must be unique over all nodes, two have {both!r}")
        if rivals:
            # The rounds go on without the node, which is asked again later.
            LOG.warning("node %s takes no part: it has clients of %s", node, ", ".join(sorted(rivals)))
        elif names:
            self._node_of |= dict.fromkeys(names, node)
            self._answered.add(node)

    def _lost(self, nodes: Iterable[str]) -> set[str]:
        return {node for node in nodes if self._federation.is_lost(node)}


def _list(content: Mapping[str, Any], name: str) -> list[Any]:
    """A list in an answer; an empty one if the answer is garbage."""
    value = content.get(name)
    return list(value) if isinstance(value, list | tuple) else []
