"""The component of NVFlare's job on a node, which hands each message to the node.

NVFlare starts one process for a job on each node, which holds JAX, the data and the compiled programs until
the job ends: no worker is needed.
"""

from pathlib import Path

from nvflare.apis.executor import Executor
from nvflare.apis.fl_constant import FLContextKey, ReturnCode
from nvflare.apis.fl_context import FLContext
from nvflare.apis.shareable import Shareable, make_reply
from nvflare.apis.signal import Signal
from nvflare.app_common.logging.constants import is_log_streaming_allowed

from fedrecon.experiment.deploying.nvflare_engine.job import NODE_FOLDER
from fedrecon.experiment.deploying.nvflare_engine.site import LOG_FILE, STREAMS, Site


class NodeExecutor(Executor):
    """Answers the tasks of `RoundsController` with the node whose folder is in the site's.

    Args:
        on_loopback: Whether all sites are on this machine; False by default.
    """

    def __init__(self, on_loopback: bool = False) -> None:
        super().__init__()
        self._on_loopback = on_loopback
        self._site: Site | None = None

    def execute(
        self, task_name: str, shareable: Shareable, fl_ctx: FLContext, abort_signal: Signal
    ) -> Shareable:
        """Answers a task; the server gets a code, and no text, in place of an error.

        A site that lets NVFlare send its logs to the server does no task.

        Args:
            task_name: The name of the task, which asks for the clients' names or brings messages.
            shareable: The content of the task.
            fl_ctx: NVFlare's context, which knows the folder of the site.
            abort_signal: Tells whether the job is to be ended; a task that was begun is answered.
        """
        # NVFlare's own log gets no text of an error: it may hold data, and others may read that log.
        if is_log_streaming_allowed(fl_ctx):
            self.log_error(fl_ctx, STREAMS)
            return make_reply(ReturnCode.EXECUTION_EXCEPTION)
        try:
            if self._site is None:
                folder = Path(fl_ctx.get_prop(FLContextKey.WORKSPACE_OBJECT).get_root_dir())
                self._site = Site(folder, self._on_loopback)
        except OSError:
            self.log_error(fl_ctx, f"the site needs the folder {NODE_FOLDER}, in which it can write")
            return make_reply(ReturnCode.EXECUTION_EXCEPTION)
        content = self._site.answer(task_name, shareable)
        if content is None:
            self.log_error(fl_ctx, f"a task failed; the file {NODE_FOLDER}/{LOG_FILE} says why")
            return make_reply(ReturnCode.EXECUTION_EXCEPTION)
        return Shareable(content)
