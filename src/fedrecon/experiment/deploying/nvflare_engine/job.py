"""The job of NVFlare that runs a deployment's rounds: a folder of three files, without any code."""

import json
from pathlib import Path

from fedrecon._files import make_folder, write_atomically

_PACKAGE = "fedrecon.experiment.deploying.nvflare_engine"
CLASSES = (f"{_PACKAGE}.controller.RoundsController", f"{_PACKAGE}.executor.NodeExecutor")
"""The classes that the server and the nodes must allow: NVFlare runs no others."""
# Names of the tasks, and of what they and their answers hold.
ASK, TRAIN = "fedrecon_names", "fedrecon_train"
NAMES, MESSAGES = "names", "messages"
# Why the rounds ended if NVFlare ended their job: an operator did, or the process of a node has died.
JOB_ENDED = "NVFlare ended the job"
# The folder of the node in that of its site, or a link to it.
NODE_FOLDER = "fedrecon"
# The entry of a site's resources by which NVFlare sends logs of errors to the server, as it does by default.
STREAMING = "allow_log_streaming"
# Seconds between two questions of a node whether there is work: NVFlare's two would be most of a round.
_INTERVAL = 0.2


def write_job(folder: Path, server: Path, on_loopback: bool = False) -> None:
    """Writes the job of a deployment.

    Args:
        folder: The folder of the job; files of an earlier job are replaced.
        server: The folder of the server, with the plan.
        on_loopback: Whether all sites are on this machine; False by default. NVFlare alone knows its network,
            so that without this people are protected as outside loopback.
    """
    controller, executor = CLASSES
    where = {"on_loopback": True} if on_loopback else {}
    rounds = {"id": "rounds", "path": controller, "args": {"folder": str(server.absolute()), **where}}
    texts = {
        # The rounds go on with a single node: how many answers they need is the plan's `min_answers`.
        "meta.json": {"name": "fedrecon", "min_clients": 1, "deploy_map": {"app": ["@ALL"]}},
        "app/config/config_fed_server.json": {
            "format_version": 2,
            "server": {"task_request_interval": _INTERVAL},
            "workflows": [rounds],
        },
        "app/config/config_fed_client.json": {
            "format_version": 2,
            "executors": [{"tasks": [ASK, TRAIN], "executor": {"path": executor, "args": where}}],
        },
    }
    for name, values in texts.items():
        make_folder((folder / name).parent)
        write_atomically(folder / name, json.dumps(values, indent=2) + "\n")


def allow_classes(site: Path) -> None:
    """Adds the two classes to those that a site allows, and keeps its logs from the server.

    Args:
        site: The folder of the site, as NVFlare provisions it.
    """
    local = site / "local"
    path = local / "resources.json"
    values = json.loads((path if path.exists() else local / "resources.json.default").read_text())
    allowed = values.setdefault("class_allow_list", [])
    allowed += [name for name in CLASSES if name not in allowed]
    values[STREAMING] = False
    write_atomically(path, json.dumps(values, indent=2) + "\n")
