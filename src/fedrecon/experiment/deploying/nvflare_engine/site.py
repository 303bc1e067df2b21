"""A node in NVFlare's process of a job, which knows nothing of NVFlare itself."""

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fedrecon.deployment._node import Node
from fedrecon.experiment.deploying.nvflare_engine.job import ASK, MESSAGES, NAMES, NODE_FOLDER, STREAMING
from fedrecon.experiment.deploying.plan import DeploymentPlan
from fedrecon.experiment.deploying.worker import node_of

LOG = logging.getLogger("fedrecon")
# The log of the node. NVFlare's administrators may read files of a site that end in .log or .txt.
LOG_FILE = "node-log"
STREAMS = f"{STREAMING} must be false in local/resources.json: NVFlare would send logs to the server"


class Site:
    """Answers tasks with the node whose folder is in that of NVFlare's site.

    Attributes:
        folder: The folder of the node.

    Args:
        folder: The folder of the site.
        on_loopback: Whether all sites are said to be on this machine.
    """

    def __init__(self, folder: Path, on_loopback: bool):
        self.folder = folder / NODE_FOLDER
        self._startup, self._on_loopback = folder / "startup" / "fed_client.json", on_loopback
        self._node: Node | None = None
        # What NVFlare's own log gets may leave the site.
        (self.folder / LOG_FILE).touch(mode=0o600)
        handler = logging.FileHandler(self.folder / LOG_FILE)
        handler.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
        LOG.addHandler(handler)
        LOG.setLevel(logging.INFO)
        LOG.propagate = False

    def answer(self, kind: str, content: Mapping[str, Any]) -> dict[str, Any] | None:
        """Answers a task; None after an error, whose text may hold data and stays in the node's log.

        Args:
            kind: The name of the task, which asks for the clients' names or brings messages.
            content: The content of the task.
        """
        try:
            if self._node is None:
                self._node = self._start()
            if kind == ASK:
                return {NAMES: self._node.names}
            return {MESSAGES: [self._node.handle(data) for data in content[MESSAGES]]}
        except Exception:
            LOG.exception("the task %r failed", kind)
            return None

    def _start(self) -> Node:
        address = None
        if self._on_loopback:
            # The job says so, which comes from the server; where the node connects, its own files say.
            address = json.loads(self._startup.read_text())["servers"][0]["service"]["target"]
        DeploymentPlan.read(self.folder).check_protection(address)
        return node_of(self.folder)
