"""The component of NVFlare's job on the server, which runs the rounds."""

import math
import queue
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nvflare.apis.client import Client
from nvflare.apis.controller_spec import ClientTask, Task
from nvflare.apis.fl_context import FLContext
from nvflare.apis.impl.controller import Controller
from nvflare.apis.shareable import Shareable
from nvflare.apis.signal import Signal

from fedrecon.experiment.deploying.nvflare_engine.transport import LOOK, NVFlareTransport
from fedrecon.experiment.deploying.plan import ENDED, DeploymentPlan
from fedrecon.experiment.deploying.server import InUseError, noted_rounds, run_plan


class RoundsController(Controller):
    """Runs the rounds of a plan, and ends with them.

    Args:
        folder: The folder of the server, with the plan.
        on_loopback: Whether all nodes are on this machine; False by default.
    """

    def __init__(self, folder: str, on_loopback: bool = False):
        super().__init__(task_check_period=LOOK)
        self._folder, self._on_loopback = Path(folder), on_loopback
        self._arrived: queue.SimpleQueue[tuple[str, Task | None, Shareable]] = queue.SimpleQueue()

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
        try:
            with noted_rounds(folder):
                plan = DeploymentPlan.read(folder)
                transport = NVFlareTransport(_JobNodes(self, fl_ctx, abort_signal, self._arrived))
                run_plan(plan, transport, folder, plan.address if self._on_loopback else None)
        except InUseError as error:
            self.system_panic(str(error), fl_ctx)
        except Exception as error:
            # NVFlare shows this text to all of its administrators, and an error's own may name a client.
            self.system_panic(f"{type(error).__name__}: the file {ENDED} of the server says more", fl_ctx)

    def take_result(self, client_task: ClientTask, fl_ctx: FLContext) -> None:
        """Takes a node's answer; NVFlare calls this from threads of its own."""
        self._arrived.put((client_task.client.name, client_task.task, client_task.result))

    def process_result_of_unknown_task(
        self, client: Client, task_name: str, client_task_id: str, result: Shareable, fl_ctx: FLContext
    ) -> None:
        """Takes an answer to a task that is over, which may be counted late."""
        self._arrived.put((client.name, None, result))


class _JobNodes:
    """The nodes of NVFlare's job, as `Federation` describes them."""

    def __init__(
        self,
        controller: RoundsController,
        context: FLContext,
        abort: Signal,
        arrived: "queue.SimpleQueue[tuple[str, Task | None, Shareable]]",
    ):
        self._controller, self._context, self._abort, self._arrived = controller, context, abort, arrived

    def nodes(self) -> list[str]:
        return [client.name for client in self._context.get_engine().get_clients()]

    def send(self, node: str, kind: str, values: Mapping[str, Any], seconds: float) -> Task:
        task = Task(
            kind,
            Shareable(dict(values)),
            timeout=math.ceil(max(seconds, 1)),
            result_received_cb=self._controller.take_result,
        )
        self._controller.broadcast(task, self._context, targets=[node], min_responses=1)
        return task

    def receive(self, seconds: float) -> tuple[str, Task | None, Shareable]:
        return self._arrived.get(timeout=seconds)

    def is_lost(self, node: str) -> bool:
        return bool(self._controller.get_client_disconnect_time(node))

    def is_ended(self) -> bool:
        return bool(self._abort.triggered)
