"""Flower's processes: how each is started, and how a server's machine waits for the end of its rounds."""

import json
import os
import shutil
import socket
import subprocess
import sys
import sysconfig
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tomli_w

from fedrecon._files import make_folder, write_atomically
from fedrecon.deployment._rounds import LOG, read_log
from fedrecon.errors import RunError
from fedrecon.experiment.deploying.keys import Certificates
from fedrecon.experiment.deploying.plan import ENDED, PROCESS
from fedrecon.experiment.deploying.processes import Processes, lives

SUPERLINK, RUN = "superlink", "run"
# The name of the connection to the SuperLink in the configuration of Flower's commands.
_CONNECTION = "local"
# The longest time in seconds in which each of the processes must start, and a command must end.
START = 300.0
_LOOK = 0.1
GO_ON = "go on with `deploy resume`, or start the server again"
QUIET = {"FLWR_TELEMETRY_ENABLED": "0", "FLWR_DISABLE_UPDATE_CHECK": "1"}
"""Environment variables with which Flower's programs call home neither for telemetry nor for updates."""


@dataclass(frozen=True)
class NodeAccess:
    """What a node needs to reach a server that authenticates its nodes.

    Attributes:
        authority: The certificate of the authority that signed the server's, in PEM.
        key: The private key of the node, in OpenSSH's format.
    """

    authority: Path
    key: Path


def environment_for(home: Path) -> dict[str, str]:
    """The environment variables of Flower's processes.

    Args:
        home: The folder of Flower's own files, which is used in place of one in the user's home.
    """
    paths = [sysconfig.get_path("scripts"), os.environ.get("PATH", "")]
    return {
        "PATH": os.pathsep.join(paths),
        **QUIET,
        "FLWR_HOME": str(home),
        "PYTHONPATH": os.pathsep.join(p for p in sys.path if p),
    }


def start_superlink(processes: Processes, home: Path, port: int, certificates: Certificates | None) -> None:
    """Starts a SuperLink on loopback and waits until it listens.

    Whoever reaches its port can run code on all nodes, so that no other machine may: a proxy passes on what
    nodes need.

    Args:
        processes: The processes of the deployment.
        home: The folder of Flower's own files, where its commands find the connection to this SuperLink.
        port: The port on loopback.
        certificates: The files for TLS, with which nodes are authenticated, too; None for neither.

    Raises:
        RunError: The SuperLink did not start.
    """
    make_folder(home)
    connection: dict[str, Any] = {"address": f"127.0.0.1:{port}"}
    security = ["--insecure"]
    connection |= {"insecure": True} if certificates is None else {}
    if certificates is not None:
        connection["root-certificates"] = str(certificates.authority)
        security = ["--ssl-certfile", str(certificates.certificate), "--ssl-keyfile", str(certificates.key)]
        security += ["--ssl-ca-certfile", str(certificates.authority), "--enable-supernode-auth"]
    table = {"superlink": {"default": _CONNECTION, _CONNECTION: connection}}
    write_atomically(home / "config.toml", tomli_w.dumps(table))
    # The SuperLink gets no database: a run that it lost is continued from our own state, and must not be
    # started by the SuperLink as well.
    here = ["--host", "127.0.0.1", "--port", str(port), "--disable-runtime-dependency-installation"]
    processes.start(SUPERLINK, [_program("flower-superlink"), *security, *here])
    wait_until(lambda: _listens(port), "the SuperLink", processes)


def start_worker(processes: Processes, name: str, folder: Path, path: Path) -> None:
    """Starts a node's worker.

    Args:
        processes: The processes of the deployment.
        name: The name of the process.
        folder: The folder of the node.
        path: The path of the worker's socket, which is there as soon as the worker can answer.
    """
    module = [sys.executable, "-m", "fedrecon.experiment.deploying.worker"]
    processes.start(name, [*module, str(folder), str(path)])


def start_supernode(
    processes: Processes, name: str, superlink: str, port: int, path: Path, access: NodeAccess | None
) -> None:
    """Starts a SuperNode, whose messages go to a worker.

    Args:
        processes: The processes of the deployment.
        name: The name of the process.
        superlink: The address of the SuperLink, or of the proxy before it.
        port: The port on loopback where the SuperNode's own processes reach it.
        path: The path of the worker's socket.
        access: The authority and the keys by which the node reaches a server that authenticates its nodes;
            None without TLS.
    """
    security = ["--insecure"]
    if access is not None:
        security = ["--root-certificates", str(access.authority)]
        security += ["--auth-supernode-private-key", str(access.key)]
    here = ["--host", "127.0.0.1", "--port", str(port), "--superlink", superlink]
    settings = ["--node-config", f'fedrecon-socket="{path}"']
    processes.start(name, [_program("flower-supernode"), *security, *here, *settings])


def start_run(processes: Processes, app: Path, folder: Path) -> None:
    """Starts an app's run.

    Args:
        processes: The processes of the deployment, a SuperLink among them.
        app: The folder of the app.
        folder: The folder of the server, with the plan.
    """
    for name in (ENDED, PROCESS):
        (folder / name).unlink(missing_ok=True)
    setting = f'folder="{folder}"'
    processes.start(RUN, [_program("flwr"), "run", str(app), _CONNECTION, "--run-config", setting])


def register_node(home: Path, public: Path) -> int:
    """Registers a node's public key at the running SuperLink.

    Args:
        home: The folder of Flower's own files, as `start_superlink` got it.
        public: The file with the public key.

    Returns:
        Flower's number of the node.

    Raises:
        RunError: The SuperLink refused it.
    """
    shown = _command(home, "supernode", "register", str(public), _CONNECTION, "--format", "json")
    try:
        return int(json.loads(shown[shown.index("{") :])["node-id"])
    except (ValueError, KeyError):
        raise RunError(f"{public}: the SuperLink did not register this key: {shown.strip()}") from None


def unregister_node(home: Path, number: int) -> None:
    """Ends a node's access to the running SuperLink.

    Args:
        home: The folder of Flower's own files, as `start_superlink` got it.
        number: The node's number that `register_node` returned.

    Raises:
        RunError: The SuperLink refused it.
    """
    _command(home, "supernode", "unregister", str(number), _CONNECTION)


def follow_run(
    processes: Processes,
    folder: Path,
    rounds: int,
    progress: Callable[[dict[str, Any]], None],
    look: Callable[[], None],
    link: str = SUPERLINK,
) -> None:
    """Waits until the server has ended its rounds.

    Args:
        processes: The processes of the deployment.
        folder: The folder of the server.
        rounds: The number of rounds of the whole run.
        progress: A function that is called with the values of each line of `rounds.jsonl`.
        look: A function that is called again and again, and raises an error to give up.
        link: The name of the process that nodes connect to; that of the SuperLink by default.

    Raises:
        RunError: That process or the server ended before the rounds were done.
    """
    path, read = folder / LOG, 0
    while not (ended := (folder / ENDED).exists()) or read < len(read_log(path)):
        lines = read_log(path)
        for line in lines[read:]:
            progress(line)
        read = len(lines)
        if not ended:
            _check_server(processes, folder, link)
            look()
            time.sleep(_LOOK)
    reason = (folder / ENDED).read_text()
    done = sum(line["released"] for line in read_log(path))
    if reason or done < rounds:
        raise RunError(f"{folder}: the server ended after {done} of {rounds} rounds: {reason}")


def wait_until(there: Callable[[], bool], what: str, processes: Processes) -> None:
    """Waits until something has started.

    Args:
        there: Returns whether the process has started.
        what: The name in messages of the process that is started.
        processes: The processes, none of which may end meanwhile.

    Raises:
        RunError: A process has ended, or it took too long.
    """
    end = time.monotonic() + START
    while not there():
        if processes.find_ended() or time.monotonic() > end:
            raise RunError(f"{what} did not start; the files in {processes.log(RUN).parent} say why")
        time.sleep(_LOOK)


def _check_server(processes: Processes, folder: Path, link: str) -> None:
    for name in (link, RUN):
        status = processes.status(name)
        # The process that asked for the run ends as soon as it is begun.
        if status is not None and (name == link or status != 0):
            raise RunError(f"{processes.log(name)}: the process {name!r} has ended; {GO_ON}")
    path = folder / PROCESS
    if path.exists() and not lives(int(path.read_text())) and not (folder / ENDED).exists():
        raise RunError(f"{folder}: the server's process has ended; {GO_ON}")


def _command(home: Path, *words: str) -> str:
    """What a command of Flower prints.

    Raises:
        RunError: The command failed.
    """
    environment: Mapping[str, str] = {**os.environ, **environment_for(home)}
    try:
        done = subprocess.run(
            [_program("flwr"), *words],
            capture_output=True,
            text=True,
            env=environment,
            timeout=START,
            stdin=subprocess.DEVNULL,
        )
    except subprocess.TimeoutExpired:
        raise RunError(f"flwr {' '.join(words)}: no answer in {START:g} seconds") from None
    if done.returncode:
        raise RunError(f"flwr {' '.join(words)}: {(done.stderr or done.stdout).strip()}")
    return done.stdout


def _program(name: str) -> str:
    """The path of a program of Flower.

    Raises:
        RunError: Flower is not installed.
    """
    beside = Path(sysconfig.get_path("scripts")) / name
    path = str(beside) if beside.exists() else shutil.which(name)
    if path is None:
        raise RunError(f"the program {name} is needed: pip install 'fedrecon[flower]'")
    return path


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
