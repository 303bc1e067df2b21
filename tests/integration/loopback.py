"""A transport for tests: a server and nodes as processes that talk over the loopback interface.

Started as `python -m tests.integration.loopback server FOLDER` and `… node FOLDER NUMBER`. Files of the
folder say what goes wrong. All bytes that nodes send are kept in `received.bin`, and what must not be among
them in files of each node, see `Secrets`.
"""

import json
import os
import resource
import select
import signal
import socket
import struct
import sys
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np
from tests.small import Given, federation, rating_model, sgd, solver

from fedrecon._files import write_atomically
from fedrecon.algorithms._fedalt import fedalt
from fedrecon.deployment._endpoint import Endpoint
from fedrecon.deployment._node import Node
from fedrecon.deployment._refusals import Refusal
from fedrecon.deployment._rounds import run_rounds
from fedrecon.deployment._server import Server
from fedrecon.deployment._store import Store
from fedrecon.deployment._wire import decode, encode

NODES, ROUNDS, SEED, PATIENCE = 4, 8, 3, 120.0
CLIENTS = federation(repeats=True)
NAMES = CLIENTS.ids.tolist()
EVERYBODY = Given([range(len(NAMES))])
STEP = solver(0.02)  # small: a rounding error must not grow from round to round
ALGORITHM = fedalt(rating_model(two_fields=True, scale=True), STEP, STEP, sgd(1.0))
_LENGTH = struct.Struct("<I")


def server_of(sampling: Any = EVERYBODY) -> Server:
    return Server(ALGORITHM, NAMES, sampling, seed=SEED, run="loopback")


class Connection:
    """Messages over a socket, each after its length.

    Args:
        socket: The socket.
        kept: The file to which all bytes that arrive are appended; None, the default, for none.
    """

    def __init__(self, socket: Any, kept: Path | None = None):
        self.socket, self._read, self._kept = socket, b"", kept

    def send(self, data: bytes) -> None:
        self.socket.sendall(_LENGTH.pack(len(data)) + data)

    def arrived(self) -> list[bytes] | None:
        """The messages that have come since; None if the other side has gone."""
        try:
            data = self.socket.recv(2**20)
        except OSError:
            return None
        if not data:
            return None
        if self._kept is not None:
            with open(self._kept, "ab") as file:
                file.write(data)
        self._read += data
        found = []
        while len(self._read) >= 4:
            end = 4 + _LENGTH.unpack_from(self._read)[0]
            if len(self._read) < end:
                break
            found.append(self._read[4:end])
            self._read = self._read[end:]
        return found


class Sockets:
    """The server's side: nodes come and go, and say when they come which clients they have."""

    def __init__(self, folder: Path):
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._nodes: dict[Connection, set[str] | None] = {}
        self._folder, self.received = folder, 0
        write_atomically(folder / "port", str(self._listener.getsockname()[1]))

    def wait_for(self, count: int) -> None:
        end = time.monotonic() + PATIENCE
        while sum(names is not None for names in self._nodes.values()) < count:
            assert time.monotonic() < end, "the nodes did not come"
            list(self._arrivals(0.2))

    def exchange(self, messages: Any, seconds: float) -> Any:
        end, open_for, now = time.monotonic() + seconds, {}, decode(messages[0][1])[2:4]
        for client, data in messages:
            for node, names in self._nodes.items():
                if names and str(client) in names:
                    open_for[str(client)] = node
                    try:
                        node.send(data)
                    except OSError:
                        open_for.pop(str(client))
        while open_for and time.monotonic() < end:
            for node, data in self._arrivals(min(0.2, max(end - time.monotonic(), 0))):
                self.received += 1
                yield data
                try:
                    answer = decode(data)
                    if answer[2:4] >= now:  # an answer to an earlier round is not the one that is awaited
                        open_for.pop(answer.client, None)
                except ValueError:
                    waiting = [client for client, other in open_for.items() if other is node]
                    open_for.pop(waiting[0], None)
            open_for = {client: node for client, node in open_for.items() if node in self._nodes}

    def _arrivals(self, seconds: float) -> Any:
        sockets = {node.socket: node for node in self._nodes}
        for ready in select.select([self._listener, *sockets], [], [], seconds)[0]:
            if ready is self._listener:
                kept = self._folder / "received.bin"
                self._nodes[Connection(self._listener.accept()[0], kept)] = None
                continue
            node = sockets[ready]
            messages = node.arrived()
            if messages is None:
                ready.close()
                del self._nodes[node]
            elif messages and self._nodes[node] is None:
                self._nodes[node] = set(json.loads(messages[0]))
            else:
                yield from ((node, data) for data in messages)


class Noting(Endpoint):
    """Notes whose updates each round counted; the tests compute the same without the others."""

    folder: Path
    faults: dict[str, int]

    def receive(self, data: bytes) -> Refusal | None:
        found = super().receive(data)
        if self.server.answered:
            self._perhaps_die("kill", self.server.round)
        return found

    def step(self) -> Any:
        answered = sorted(NAMES.index(name) for name in self.server.answered)
        found = super().step()
        with open(self.folder / "counted.jsonl", "a") as file:
            file.write(json.dumps([found[0].round, answered]) + "\n")
        self._perhaps_die("kill before the state is saved", found[0].round)
        if self.faults.get("full") == found[0].round:
            disk_is_full(True)
        return found

    def checkpointed(self) -> None:
        super().checkpointed()
        self._perhaps_die("kill after the state was saved", self.server.round - 1)

    def _perhaps_die(self, when: str, round: int) -> None:
        if self.faults.get(when) == round:
            os.kill(os.getpid(), signal.SIGKILL)


def disk_is_full(full: bool) -> None:
    """As on a full disk, the next file does not get all of its bytes."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    limit = 64 if full else resource.RLIM_INFINITY
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))


class Secrets:
    """Keeps what must not leave a node: the states of its clients, which are local parameters, byte by byte.

    Args:
        path: The file to which each state is appended, as a line of hexadecimal digits.
    """

    def __init__(self, path: Path):
        self._path = path

    def keep(self, node: Node) -> None:
        """Keeps the present states of all clients that the node has prepared."""
        with open(self._path, "a") as file:
            for client in node._prepared.values():
                for leaf in jax.tree.leaves(client.state):
                    file.write(np.asarray(leaf).tobytes().hex() + "\n")


def serve(folder: Path) -> None:
    # The faults of this start and of later ones.
    faults, *later = json.loads((folder / "server.json").read_text()) or [{}]
    (folder / "server.json").write_text(json.dumps(later))
    end = Noting(server_of())
    end.folder, end.faults = folder, faults
    sockets = Sockets(folder)
    sockets.wait_for(NODES)
    for done in range(1, ROUNDS + 1):
        seconds = 6.0 if end.faults.get("hurry") == end.server.round else PATIENCE
        list(run_rounds(end, sockets, done, folder, seconds=seconds))
    write_atomically(folder / "done", "")


def broken(kind: str, data: bytes) -> list[bytes]:
    """What a node with a fault sends instead of an update."""
    if kind == "garbage":
        return [b"\x07garbage" * 9]
    message = decode(data)
    arrays = dict(message.arrays)
    if kind == "nan":
        arrays["delta/scale"] = np.full_like(arrays["delta/scale"], np.nan)
    elif kind == "shape":
        arrays["delta/scale"] = np.zeros(3, np.float32)
    elif kind == "round":
        message = message._replace(round=message.round + 1)
    elif kind == "twice":
        return [data, data]
    return [encode(message._replace(arrays=arrays))]


def answer(folder: Path, number: int) -> None:
    """A node: it answers until the server is done, and comes again when the server has gone."""
    plan = folder / f"node-{number}.json"
    faults = json.loads(plan.read_text()) if plan.exists() else {}
    clients = CLIENTS.take(range(number, len(NAMES), NODES))
    raising: set[str] = set()

    def may(name: Any, round: int) -> bool:
        if str(round) in raising:
            raise ZeroDivisionError(f"the secret of {name}")
        return True

    store = Store(clients, folder / f"node-{number}")
    node = Node(ALGORITHM, store, seed=SEED, run="loopback", may_take_part=may)
    secrets = Secrets(folder / f"node-{number}.secrets")
    end = time.monotonic() + 2 * PATIENCE
    while not (folder / "done").exists() and time.monotonic() < end:
        try:
            port = int((folder / "port").read_text())
            connection = Connection(socket.create_connection(("127.0.0.1", port), 1))
            connection.socket.settimeout(1)
            connection.send(json.dumps(node.names).encode())
        except (OSError, ValueError):
            time.sleep(0.1)
            continue
        while (messages := _waited(connection)) is not None:
            for data in messages:
                message = decode(data)
                kind = faults.pop(str(message.round), "") if message.kind == "broadcast" else ""
                plan.write_text(json.dumps(faults))  # a node that is started again does not fail again
                if kind == "raise":
                    raising.add(str(message.round))
                _respond(connection, node, data, kind)
                raising.clear()
                secrets.keep(node)


def _waited(connection: Connection) -> list[bytes] | None:
    if select.select([connection.socket], [], [], 0.2)[0]:
        return connection.arrived()
    return []


def _respond(connection: Connection, node: Node, data: bytes, kind: str) -> None:
    if kind == "die before":
        os.kill(os.getpid(), signal.SIGKILL)
    if kind == "full":
        disk_is_full(True)
    found = node.handle(data)
    if kind == "full":
        disk_is_full(False)
    if kind == "die during":  # half of the update is on its way
        connection.socket.sendall(_LENGTH.pack(len(found)) + found[: len(found) // 2])
        os.kill(os.getpid(), signal.SIGKILL)
    if kind == "late":
        time.sleep(8)
    try:
        for part in broken(kind, found) if kind in BROKEN else [found]:
            connection.send(part)
    except OSError:
        return
    if kind == "die after":
        os.kill(os.getpid(), signal.SIGKILL)


BROKEN = ("garbage", "nan", "shape", "round", "twice")


if __name__ == "__main__":
    if sys.argv[1] == "server":
        serve(Path(sys.argv[2]))
    else:
        answer(Path(sys.argv[2]), int(sys.argv[3]))
