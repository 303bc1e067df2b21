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

# Seconds between two queries which nodes are connected.
_LOOK = 0.5
# The file of the secret that draws the cohorts of a private run.
COHORTS = "cohorts.key"


class FlowerTransport:
    """Carries messages over Flower's grid, which gets one message for all clients of a node.

    Args:
        grid: The grid that Flower passes to a server app.
    """

    def __init__(self, grid: Grid):
        self._grid, self._node_of = grid, dict[str, int]()

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
            fresh = [node for node in self._grid.get_node_ids() if node not in known]
            if not fresh:
                time.sleep(_LOOK)
                continue
            for node, record in self._answers({node: {"ask": True} for node in fresh}, "query", 60.0):
                for name in record[NAMES]:
                    if self._node_of.setdefault(str(name), node) != node:
                        raise RunError(f"client names must be unique over all nodes, two have {name!r}")
        return sorted(self._node_of)

    def exchange(self, messages: Sequence[tuple[Any, bytes]], seconds: float) -> Iterator[bytes]:
        """Sends each message to the node of its client and yields the answers, as `Transport` describes."""
        by_node: dict[int, list[bytes]] = {}
        for client, data in messages:
            if str(client) in self._node_of:
                by_node.setdefault(self._node_of[str(client)], []).append(data)
        sent = {node: {MESSAGES: parts} for node, parts in by_node.items()}
        for _, record in self._answers(sent, "train", seconds):
            yield from record[MESSAGES]

    def _answers(self, sent: dict[int, Any], kind: str, seconds: float) -> Iterator[tuple[int, Any]]:
        """The answers of nodes, without those that failed or did not answer."""
        messages = [
            Message(
                content=RecordDict({RECORD: ConfigRecord(values)}),
                message_type=kind,
                dst_node_id=node,
                ttl=max(seconds, 1.0),
            )
            for node, values in sent.items()
        ]
        for reply in self._grid.send_and_receive(messages, timeout=max(seconds, 1.0)):
            if reply.has_content():
                yield reply.metadata.src_node_id, reply.content[RECORD]


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
