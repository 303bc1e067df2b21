"""Flower's server app: its grid carries the messages of `run_rounds`."""

import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.serverapp import Grid, ServerApp

from fedrecon._files import atomic_file, write_atomically
from fedrecon.deployment._endpoint import Endpoint
from fedrecon.deployment._rounds import run_rounds
from fedrecon.deployment._server import Server
from fedrecon.errors import RunError
from fedrecon.experiment.deploying.flower_client import MESSAGES, NAMES, RECORD
from fedrecon.experiment.deploying.plan import ENDED, PROCESS, DeploymentPlan
from fedrecon.experiment.training.build import sampling_of
from fedrecon.privacy._secret import SECRET_BYTES, Secret

# Seconds between two queries which nodes are connected, and what they have answered.
_LOOK = 0.5
# How many deadlines long an answer may be late and still be counted as late.
_KEPT = 3.0
# The file of the secret that draws the cohorts of a private run.
COHORTS = "cohorts.key"


class FlowerTransport:
    """Carries messages over Flower's grid, which gets one message for all clients of a node.

    Args:
        grid: The grid that Flower passes to a server app.
    """

    def __init__(self, grid: Grid):
        self._grid, self._node_of = grid, dict[str, int]()
        self._asked, self._waiting = set[int](), set[str]()

    def find(self, nodes: int, seconds: float) -> list[str]:
        """Waits for nodes, and asks which clients they have.

        Args:
            nodes: The number of nodes that must answer.
            seconds: The longest time to wait for the nodes, in seconds.

        Returns:
            The clients' names, sorted.

        Raises:
            RunError: Fewer nodes answered in time, or two have a client of the same name.
        """
        end = time.monotonic() + seconds
        while len(known := set(self._node_of.values())) < nodes:
            if time.monotonic() > end:
                raise RunError(f"{nodes} nodes must be there, {len(known)} answered in {seconds:g} seconds")
            self._asked.clear()
            if not self._meet(60.0):
                time.sleep(_LOOK)
        return sorted(self._node_of)

    def exchange(self, messages: Sequence[tuple[Any, bytes]], seconds: float) -> Iterator[bytes]:
        """Sends each message to the node of its client and yields the answers, as `Transport` describes."""
        self._meet(min(60.0, seconds))
        by_node: dict[int, list[bytes]] = {}
        for client, data in messages:
            if str(client) in self._node_of:
                by_node.setdefault(self._node_of[str(client)], []).append(data)
        sent = {node: {MESSAGES: parts} for node, parts in by_node.items()}
        for _, record in self._answers(sent, "train", seconds):
            yield from record.get(MESSAGES, [])

    def _meet(self, seconds: float) -> bool:
        """Asks nodes that have come since the last call which clients they have.

        A node that was started again without a key of its own has another number, and takes its clients with
        it.

        Args:
            seconds: The longest time to wait for the answers, in seconds.

        Returns:
            Whether there were such nodes.

        Raises:
            RunError: Two nodes that are there have a client of the same name.
        """
        here = set(self._grid.get_node_ids())
        fresh = here - self._asked - set(self._node_of.values())
        self._asked |= fresh
        for node, record in self._answers({node: {"ask": True} for node in fresh}, "query", seconds):
            for name in map(str, record.get(NAMES, [])):
                before = self._node_of.get(name, node)
                if before != node and before in here:
                    raise RunError(f"client names must be unique over all nodes, two have {name!r}")
                self._node_of[name] = node
        return bool(fresh)

    def _answers(self, sent: dict[int, Any], kind: str, seconds: float) -> Iterator[tuple[int, Any]]:
        """The answers of nodes as they arrive, late ones to earlier messages too, without failures."""
        seconds = max(seconds, 1.0)
        messages = [
            Message(
                content=RecordDict({RECORD: ConfigRecord(values)}),
                message_type=kind,
                dst_node_id=node,
                # Flower forgets an answer that comes later than this, so that late ones are not counted then.
                ttl=_KEPT * seconds,
            )
            for node, values in sent.items()
        ]
        # Flower puts None for a message that the SuperLink refused.
        open_for = {number for number in self._grid.push_messages(messages) if number}
        self._waiting |= open_for
        end = time.monotonic() + seconds
        while open_for:
            for reply in self._grid.pull_messages(sorted(self._waiting)):
                answered = reply.metadata.reply_to_message_id
                self._waiting.discard(answered)
                open_for.discard(answered)
                if reply.has_content():
                    yield reply.metadata.src_node_id, reply.content[RECORD]
            if time.monotonic() > end:
                return
            if open_for:
                time.sleep(_LOOK)


def server_app() -> ServerApp:
    """The app that runs the rounds; the entry `folder` of its run configuration is the folder of the plan."""
    app = ServerApp()

    @app.main()
    def main(grid: Grid, context: Context) -> None:
        folder = Path(str(context.run_config["folder"]))
        write_atomically(folder / PROCESS, str(os.getpid()))
        try:
            run(DeploymentPlan.read(folder), FlowerTransport(grid), folder)
        except Exception as error:
            write_atomically(folder / ENDED, f"{type(error).__name__}: {error}\n")
            raise
        write_atomically(folder / ENDED, "")

    return app


def run(plan: DeploymentPlan, transport: FlowerTransport, folder: Path) -> None:
    """Runs a plan's rounds, from the server's state in a folder on.

    Args:
        plan: The plan of the deployment.
        transport: Carries the messages between the server and the nodes.
        folder: The folder of the server's state and of `rounds.jsonl`.

    Raises:
        RunError: Nodes are missing, or a round never had enough answers.
    """
    config = plan.config()
    plan.check_protection(plan.address)
    names = transport.find(plan.nodes, plan.seconds)
    algorithm = plan.algorithm()
    server = Server(
        algorithm,
        names,
        sampling_of(config, plan.num_clients or len(names)),
        seed=config.seed,
        run=plan.run,
        min_answers=plan.min_answers,
        secret=None if algorithm.privacy is None else _secret(folder / COHORTS),
    )
    number = plan.rounds if algorithm.privacy is None else algorithm.privacy.affordable
    rounds = run_rounds(Endpoint(server), transport, number, folder, seconds=plan.seconds, note_clients=True)
    for _ in rounds:
        continue


def _secret(path: Path) -> Secret:
    """The secret of a file that only its owner can read, which the first call makes."""
    if not path.exists():
        with atomic_file(path) as file:
            os.fchmod(file.fileno(), 0o600)
            file.write(os.urandom(SECRET_BYTES))
    return Secret(path.read_bytes())
