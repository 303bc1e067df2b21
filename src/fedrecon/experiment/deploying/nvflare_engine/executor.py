"""The component of NVFlare's job on a node, which hands each message to the node.

NVFlare starts one process for a job on each node, which holds JAX, the data and the compiled programs until
the job ends: no worker is needed.
"""

from pathlib import Path

from nvflare.apis.executor import Executor
from nvflare.apis.fl_constant import FLContextKey
from nvflare.apis.fl_context import FLContext
from nvflare.apis.shareable import Shareable
from nvflare.apis.signal import Signal

from fedrecon.deployment._node import Node
from fedrecon.experiment.deploying.nvflare_engine.job import ASK, MESSAGES, NAMES, NODE_FOLDER
from fedrecon.experiment.deploying.plan import DeploymentPlan
from fedrecon.experiment.deploying.worker import node_of


class NodeExecutor(Executor):
    """Answers the tasks of `RoundsController` with the node whose folder is in the site's."""

    def __init__(self) -> None:
        super().__init__()
        self._node: Node | None = None

    def execute(
        self, task_name: str, shareable: Shareable, fl_ctx: FLContext, abort_signal: Signal
    ) -> Shareable:
        """Answers a task; NVFlare sends the server a code, and no text, in place of an error.

        Args:
            task_name: The name of the task, which asks for the clients' names or brings messages.
            shareable: The content of the task.
            fl_ctx: NVFlare's context, which knows the folder of the site.
            abort_signal: Tells whether the job is to be ended; a task that was begun is answered.
        """
        node = self._node
        if node is None:
            site = Path(fl_ctx.get_prop(FLContextKey.WORKSPACE_OBJECT).get_root_dir())
            plan = DeploymentPlan.read(site / NODE_FOLDER)
            plan.check_protection(plan.address)
            node = self._node = node_of(site / NODE_FOLDER)
        if task_name == ASK:
            return Shareable({NAMES: node.names})
        return Shareable({MESSAGES: [node.handle(data) for data in shareable[MESSAGES]]})
