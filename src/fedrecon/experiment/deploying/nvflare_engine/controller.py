"""The component of NVFlare's job on the server, which runs the rounds."""

import math
import os
import queue
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from nvflare.apis.client import Client
from nvflare.apis.controller_spec import ClientTask, Task
from nvflare.apis.fl_context import FLContext
from nvflare.apis.impl.controller import Controller
from nvflare.apis.shareable import Shareable
from nvflare.apis.signal import Signal

from fedrecon._files import write_atomically
from fedrecon.errors import RunError
from fedrecon.experiment.deploying.nvflare_engine.job import ASK, JOB_ENDED, MESSAGES, NAMES, TRAIN
from fedrecon.experiment.deploying.plan import ENDED, PROCESS, DeploymentPlan
from fedrecon.experiment.deploying.server import run_plan

# Seconds between two looks at what has arrived and which nodes are there.
_LOOK = 0.05


class RoundsController(Controller):
    """Runs the rounds of a plan, and ends with them.

    Args:
        folder: The folder of the server, with the plan.
    """

    def __init__(self, folder: str):
        super().__init__(task_check_period=_LOOK)
        self._folder = Path(folder)
        self._arrived: queue.SimpleQueue[tuple[str, Shareable]] = queue.SimpleQueue()

    def start_controller(self, fl_ctx: FLContext) -> None:
        """Does nothing: the folder is read when the rounds begin."""

    def stop_controller(self, fl_ctx: FLContext) -> None:
        """Does nothing: each round is on the disk before the next one begins."""

    def control_flow(self, abort_signal: Signal, fl_ctx: FLContext) -> None:
        """Runs the rounds that are left.

        Args:
            abort_signal: Tells whether the job is to be ended.
            fl_ctx: NVFlare's context of the job.
        """
        folder = self._folder
        write_atomically(folder / PROCESS, str(os.getpid()))
        try:
            transport = NVFlareTransport(self, fl_ctx, abort_signal, self._arrived)
            run_plan(DeploymentPlan.read(folder), transport, folder)
        except Exception as error:
            write_atomically(folder / ENDED, f"{type(error).__name__}: {error}\n")
            self.system_panic(str(error), fl_ctx)
        else:
            write_atomically(folder / ENDED, "")

    def take_result(self, client_task: ClientTask, fl_ctx: FLContext) -> None:
        """Takes a node's answer; NVFlare calls this from threads of its own."""
        self._arrived.put((client_task.client.name, client_task.result))

    def process_result_of_unknown_task(
        self, client: Client, task_name: str, client_task_id: str, result: Shareable, fl_ctx: FLContext
    ) -> None:
        """Takes an answer to a task that is over, which may be counted late."""
        self._arrived.put((client.name, result))


class NVFlareTransport:
    """Carries messages as tasks of NVFlare, one for all clients of a node.

    Args:
        controller: The controller of the job.
        context: NVFlare's context of the job.
        abort: Tells whether the job is to be ended.
        arrived: What nodes answered, as pairs of a node's name and its answer.
    """

    def __init__(
        self,
        controller: RoundsController,
        context: FLContext,
        abort: Signal,
        arrived: "queue.SimpleQueue[tuple[str, Shareable]]",
    ):
        self._controller, self._context, self._abort, self._arrived = controller, context, abort, arrived
        self._node_of = dict[str, str]()
        self._asked, self._answered = set[str](), set[str]()

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
            for _ in self._wait(set(), _LOOK):
                continue
        return sorted(self._node_of)

    def exchange(self, messages: Sequence[tuple[Any, bytes]], seconds: float) -> Iterator[bytes]:
        """Sends each message to the node of its client and yields the answers, as `Transport` describes."""
        self._meet(seconds)
        by_node: dict[str, list[bytes]] = {}
        for client, data in messages:
            if str(client) in self._node_of:
                by_node.setdefault(self._node_of[str(client)], []).append(data)
        lost = self._lost(by_node)
        for node in by_node.keys() - lost:
            self._send(node, TRAIN, {MESSAGES: by_node[node]}, seconds)
        yield from self._wait(by_node.keys() - lost, seconds)

    def _meet(self, seconds: float) -> None:
        """Asks nodes that were not asked before for the names of their clients."""
        for client in self._context.get_engine().get_clients():
            if client.name not in self._asked:
                self._asked.add(client.name)
                self._send(client.name, ASK, {}, seconds)

    def _send(self, node: str, kind: str, values: Mapping[str, Any], seconds: float) -> None:
        task = Task(
            kind,
            Shareable(dict(values)),
            timeout=math.ceil(max(seconds, 1)),
            result_received_cb=self._controller.take_result,
        )
        self._controller.broadcast(task, self._context, targets=[node], min_responses=1)

    def _wait(self, nodes: set[str], seconds: float) -> Iterator[bytes]:
        """Yields what nodes answer, until these all have answered or are lost, or the time is over."""
        end, waiting = time.monotonic() + seconds, set(nodes)
        while True:
            if self._abort.triggered:
                raise RunError(JOB_ENDED)
            try:
                node, reply = self._arrived.get(timeout=_LOOK)
            except queue.Empty:
                waiting -= self._lost(waiting)
            else:
                # The answer to an earlier message of the node may come first: the round's own is then late.
                waiting.discard(node)
                self._take_names(node, reply.get(NAMES, ()))
                yield from reply.get(MESSAGES, ())
            if (nodes and not waiting) or time.monotonic() > end:
                return

    def _take_names(self, node: str, names: Sequence[str]) -> None:
        for name in names:
            if self._node_of.setdefault(name, node) != node:
                raise RunError(f"client names must be unique over all nodes, two have {name!r}")
        if names:
            self._answered.add(node)

    def _lost(self, nodes: Sequence[str] | set[str] | Mapping[str, Any]) -> set[str]:
        """Those of some nodes whose process has ended, and which NVFlare does not start again in a job."""
        return {node for node in nodes if self._controller.get_client_disconnect_time(node)}
