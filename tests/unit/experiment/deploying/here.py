"""Runs a local deployment's rounds in this process: the same files and messages, without an engine."""

from collections.abc import Iterator, Sequence
from typing import Any

from fedrecon.deployment._endpoint import Endpoint
from fedrecon.deployment._node import Node
from fedrecon.deployment._rounds import RoundRecord, run_rounds
from fedrecon.deployment._server import Server
from fedrecon.experiment.config import Config
from fedrecon.experiment.deploying.flower_app import experiment_of, write_app
from fedrecon.experiment.deploying.local import LocalDeployment, work_folder
from fedrecon.experiment.deploying.plan import DeploymentPlan
from fedrecon.experiment.deploying.worker import node_of

NODES = 2


class Direct:
    """Calls nodes where they are."""

    def __init__(self, nodes: Sequence[Node]):
        self._nodes = {name: node for node in nodes for name in node.names}

    def exchange(self, messages: Sequence[tuple[Any, bytes]], seconds: float) -> Iterator[bytes]:
        for client, data in messages:
            yield self._nodes[client].handle(data)


def deployment_of(folder: Any, config: Config) -> LocalDeployment:
    """The deployment of an experiment over two nodes, its files in a folder."""
    write_app(folder / "app", config)
    return LocalDeployment(folder / "app", experiment_of(folder / "app"), folder / "run", NODES)


def nodes_of(deployment: LocalDeployment) -> list[Node]:
    """The nodes of a prepared deployment."""
    work = work_folder(deployment.out)
    return [node_of(work / f"node-{i}") for i in range(NODES)]


def run_here(deployment: LocalDeployment, transport: Any = Direct) -> list[RoundRecord]:
    """Prepares a deployment and runs all of its rounds."""
    deployment.prepare()
    server_folder = work_folder(deployment.out) / "server"
    plan, nodes = DeploymentPlan.read(server_folder), nodes_of(deployment)
    names = sorted(name for node in nodes for name in node.names)
    sampling, enough = plan.sampling(len(names))
    server = Server(
        plan.algorithm(),
        names,
        sampling,
        seed=plan.config().seed,
        run=plan.run,
        global_params=plan.start_at(server_folder),
        max_staleness=plan.max_staleness,
        staleness_exponent=plan.staleness_exponent,
    )
    rounds = run_rounds(
        Endpoint(server),
        transport(nodes),
        plan.rounds,
        server_folder,
        note_clients=True,
        enough_answers=enough,
    )
    return list(rounds)
