"""A node's worker, which holds JAX, the data and the compiled programs between an engine's processes.

It is started as `python -m fedrecon.experiment.deploying.worker NODE [SOCKET]`, where NODE is the node's
folder, and ends with the process that started it.
"""

import json
import logging
import os
import socket
import sys
from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from fedrecon.data._clients import Clients
from fedrecon.data._unpacking import UNPACKED_GIB
from fedrecon.deployment._node import Node
from fedrecon.deployment._store import Store, read_clients
from fedrecon.errors import DataError
from fedrecon.experiment.config import Config, override
from fedrecon.experiment.deploying.framing import receive, send
from fedrecon.experiment.deploying.node import CONFIG, NodeSettings
from fedrecon.experiment.deploying.plan import DeploymentPlan
from fedrecon.experiment.tasks._spec import task_spec

SOCKET = "worker.sock"
# The ending of client files, whose fields are numbers already.
CLIENT_FILE = ".arrow"
# The timeout of a connection in seconds.
_PATIENCE = 600.0
# Seconds between two checks that the process that started this one still lives.
_WATCH = 1.0


def node_of(folder: Path) -> Node:
    """The node of a folder.

    Args:
        folder: The folder with the plan, `deployment.json`, and `node.toml`, which names the data file.

    Raises:
        DataError: The data cannot be read or do not fit the model, or `node.toml` has another key.
    """
    plan = DeploymentPlan.read(folder)
    config = plan.config()
    settings = NodeSettings.read(folder)
    vocabularies = {name: np.asarray(ids) for name, ids in plan.vocabularies.items()}
    clients = _clients(folder, settings, config, vocabularies)
    store, hook = Store(clients, folder / "states"), settings.may_take_part
    may = _function(hook) if hook else None
    return Node(
        plan.algorithm(),
        store,
        seed=config.seed,
        run=plan.run,
        vocabularies=vocabularies,
        may_take_part=may,
    )


def _clients(
    folder: Path, settings: NodeSettings, config: Config, vocabularies: Mapping[str, np.ndarray]
) -> Clients:
    """The clients of a node's file, numbered as the run numbers them, with all fields that they train by."""
    spec, path = task_spec(config.task), folder / settings.data
    # Settings that are not given keep the defaults of `read_clients`.
    given = {"client": settings.client, "name": settings.name, "query": settings.query}
    columns = {name: value for name, value in given.items() if value}
    read = None
    if path.suffix != CLIENT_FILE and "path" in spec.Data.model_fields:
        # Texts become numbers by a vocabulary, which only their task can do.
        moved = override(config, {"data": {"path": str(path)}})
        read = spec.load_in_vocabulary(moved, {n: ids.tolist() for n, ids in vocabularies.items()})
    if read is None:
        limit = getattr(config.data, "unpacked_gib", UNPACKED_GIB)
        clients = read_clients(path, vocabularies=vocabularies, unpacked_gib=limit, **columns)
    elif columns:
        raise DataError(
            f"{folder / CONFIG}: {sorted(columns)} must be left out with the task {config.task}, which reads "
            f"its own files, such as {path}"
        )
    else:
        clients = read[0]
    clients = spec.accept_clients(config, clients, str(path))
    return spec.add_training_fields(config, spec.narrow_fields(config, clients))


def _function(dotted: str) -> Callable[[Any, int], bool]:
    module, _, name = dotted.partition(":")
    function: Callable[[Any, int], bool] = getattr(import_module(module), name)
    return function


def serve(folder: Path, path: Path) -> None:
    """Answers messages until the process that started this one has gone.

    Args:
        folder: The folder of the node.
        path: The path of the socket, which is created anew and which only this user can use.
    """
    parent = os.getppid()
    node = node_of(folder)
    path.unlink(missing_ok=True)
    # The socket's file must be created with its mode: until a later chmod others could connect.
    mask = os.umask(0o177)
    try:
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(str(path))
    finally:
        os.umask(mask)
    listener.listen()
    listener.settimeout(_WATCH)
    while os.getppid() == parent:
        try:
            connection = listener.accept()[0]
        except TimeoutError:
            continue
        with connection:
            connection.settimeout(_PATIENCE)
            try:
                _converse(node, connection)
            except OSError:
                # The other side has gone. If it is still interested, it connects and sends its message again.
                continue
    path.unlink(missing_ok=True)


def _converse(node: Node, connection: socket.socket) -> None:
    """Answers the messages of a connection until it is closed; an empty message asks for clients' names."""
    names = json.dumps(node.names).encode()
    while True:
        data = receive(connection)
        send(connection, node.handle(data) if data else names)


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    serve(Path(sys.argv[1]), Path(sys.argv[2] if len(sys.argv) > 2 else Path(sys.argv[1]) / SOCKET))
