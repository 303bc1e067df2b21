"""A node on its own machine: its settings, and its processes."""

import shutil
import tempfile
import time
import tomllib
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

from fedrecon.errors import DataError
from fedrecon.experiment.deploying.addresses import is_loopback
from fedrecon.experiment.deploying.flower_processes import (
    NodeAccess,
    environment_for,
    start_supernode,
    start_worker,
    wait_until,
)
from fedrecon.experiment.deploying.plan import DeploymentPlan
from fedrecon.experiment.deploying.processes import Processes, ending_on_request, free_ports
from fedrecon.experiment.settings.sections import SettingError

CONFIG = "node.toml"
_REQUIRED = "data"
_OPTIONAL = ("client", "name", "query", "may_take_part", "superlink", "authority", "key")
_SUPERNODE = "supernode"
_LOOK = 0.5
# Seconds between the end of a process and its next start.
_PAUSE = 10.0


class NodeSettings(NamedTuple):
    """The settings of a node, in `node.toml` in its folder.

    Attributes:
        data: The data file, relative to the folder.
        client: The column that names an example's client; `""` for the default of `read_clients`.
        name: The name of the only client; `""`, the default, where a column names clients.
        query: The statement that selects the examples of an SQLite file; `""`, the default, for its only
            table.
        may_take_part: A function as `"module:name"` that says whether a client may compute now; `""`, the
            default, for always.
        superlink: The address of the server, HOST:PORT; `""`, the default, where another program starts
            Flower's processes.
        authority: The file with the certificate of the server's authority, relative to the folder; `""`, the
            default, without TLS.
        key: The file with the node's private key, relative to the folder; `""`, the default, without TLS.
    """

    data: str
    client: str = ""
    name: str = ""
    query: str = ""
    may_take_part: str = ""
    superlink: str = ""
    authority: str = ""
    key: str = ""

    @staticmethod
    def read(folder: Path) -> "NodeSettings":
        """Reads the settings of a node's folder.

        Raises:
            DataError: The file cannot be read, lacks `data`, or has another key or a value that is no string.
        """
        path = folder / CONFIG
        try:
            settings = tomllib.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise DataError(f"{path}: cannot be read: {error}") from None
        keys = sorted((_REQUIRED, *_OPTIONAL))
        if unknown := sorted(settings.keys() - set(keys)):
            raise DataError(f"{path}: the keys are {keys}, got {unknown[0]!r}")
        if _REQUIRED not in settings:
            raise DataError(f"{path}: the key {_REQUIRED!r} must name the file of the node's examples")
        for name, value in settings.items():
            if not isinstance(value, str):
                raise DataError(f"{path}: {name} must be a string, got {value!r}")
        return NodeSettings(**settings)

    def access(self, folder: Path) -> NodeAccess | None:
        """What the node needs to reach its server with TLS; None for a server on loopback without keys.

        Raises:
            SettingError: A file is missing, or the server is outside loopback and no keys are named.
        """
        where = folder / CONFIG
        if not self.superlink:
            raise SettingError(f"{where}: superlink must be the address of the server, HOST:PORT")
        if not (self.authority and self.key):
            if self.authority or self.key or not is_loopback(self.superlink):
                raise SettingError(
                    f"{where}: authority and key must both name files outside loopback, here "
                    f"{self.superlink}: a node connects by TLS and with its own key only"
                )
            return None
        for file in (folder / self.authority, folder / self.key):
            if not file.is_file():
                raise SettingError(f"{where}: there is no file {file}")
        if (folder / self.key).stat().st_mode & 0o077:
            raise SettingError(f"{folder / self.key}: others may read this private key; chmod 600 it")
        return NodeAccess(folder / self.authority, folder / self.key)


def run_node(folder: Path) -> None:
    """Runs a node's worker and its SuperNode until it is asked to end.

    The SuperNode ends when the server refuses the node's key, and is started again after a while; the worker
    is started again three times.

    Args:
        folder: The folder of the node, with the plan, `node.toml` and its keys.

    Raises:
        DataError: `node.toml` is not as it must be.
        RunError: The worker did not start, or has ended too often; the SuperNode is then ended, too.
        SettingError: The deployment would leave loopback without TLS, or without noise.
    """
    folder = folder.absolute()
    settings, plan = NodeSettings.read(folder), DeploymentPlan.read(folder)
    access = settings.access(folder)
    plan.check_protection(settings.superlink)
    with ExitStack() as stack:
        stack.enter_context(ending_on_request())
        # In the system's temporary folder: the path of a socket may have only about a hundred characters.
        sockets = Path(tempfile.mkdtemp(prefix="fedrecon-"))
        stack.callback(shutil.rmtree, sockets, True)
        # What a node derives from its data stays in its folder, which may be all that it can write to.
        cache = folder / "cache"
        cache.mkdir(mode=0o700, exist_ok=True)
        environment = {**environment_for(folder / "flower"), "XDG_CACHE_HOME": str(cache)}
        processes = stack.enter_context(Processes(folder / "logs", environment))
        start_worker(processes, "worker", folder, sockets / "worker")
        wait_until((sockets / "worker").exists, "the worker", processes)
        port = free_ports(1)[0]
        start_supernode(processes, _SUPERNODE, settings.superlink, port, sockets / "worker", access)
        while True:
            for name in processes.find_ended():
                # A server that has just started refuses nodes until it has registered their keys.
                time.sleep(_PAUSE)
                processes.start_again(name, always=name == _SUPERNODE)
            time.sleep(_LOOK)
