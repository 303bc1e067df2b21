"""A whole deployment on this machine: a server and nodes as processes on loopback."""

import json
import shutil
import tempfile
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
import tomli_w

from fedrecon._files import make_folder, write_atomically
from fedrecon.data._sampling import AbstractSampling
from fedrecon.deployment._messages import state_from
from fedrecon.deployment._rounds import ANSWERED, LOG, STATE, read_log
from fedrecon.deployment._wire import decode
from fedrecon.errors import RunError, whole_number
from fedrecon.experiment.config import Config
from fedrecon.experiment.deploying.client_states import gather_client_states
from fedrecon.experiment.deploying.flower_processes import (
    SUPERLINK,
    environment_for,
    follow_run,
    start_run,
    start_superlink,
    start_supernode,
    start_worker,
    wait_until,
)
from fedrecon.experiment.deploying.nvflare_engine import local as nvflare
from fedrecon.experiment.deploying.plan import FILE, DeploymentPlan
from fedrecon.experiment.deploying.preparing import plan_of, start_of, with_numbers, write_start
from fedrecon.experiment.deploying.processes import Processes, free_ports
from fedrecon.experiment.deploying.settings import DeploymentSettings, read_settings
from fedrecon.experiment.settings.extras import require
from fedrecon.experiment.settings.sections import SettingError
from fedrecon.experiment.storage.checkpoint import Checkpoints
from fedrecon.experiment.storage.digests import read_json, seal
from fedrecon.experiment.storage.metrics_log import METRICS, Records
from fedrecon.experiment.storage.run_folder import CHECKPOINTS, CLIENT_STATES, RESULT, RunFolder
from fedrecon.experiment.training.build import spec_of, task_of
from fedrecon.experiment.training.checkpointer import RECORDS
from fedrecon.experiment.training.run import describe_run
from fedrecon.experiment.training.run_spec import RunSpec
from fedrecon.experiment.training.vocabularies import DIGEST, SETTINGS_FROM_DATA
from fedrecon.simulation._client_step import first_state
from fedrecon.simulation._simulation import Simulation

SERVER, NODE, LOCAL = "server", "node-{}", "local.json"
FLOWER, NVFLARE = "flower", "nvflare"
# Settings of the app's `deployment.toml` that a deployment on this machine takes over.
_OF_ROUNDS = {"min_answers", "over_selection", "max_staleness", "staleness_exponent"}


class LocalDeployment:
    """The deployment of an experiment over processes of this machine.

    Attributes:
        config: The configuration of the experiment, with numbers in place of settings that data decide.
        out: The absolute path of the run folder.
        processes: The processes of the deployment while it runs; None before.

    Args:
        app: The folder of the app, as `flower_app.write_app` writes it.
        config: The configuration of the experiment.
        out: The run folder. The files of the processes are in a folder beside it.
        nodes: The number of nodes, among which the training clients are divided.
        seconds: The deadline of a round in seconds; 600 by default.
        engine: The program whose processes carry the messages, `"flower"`, the default, or `"nvflare"`.

    Raises:
        SettingError: The experiment is private, or a setting does not fit the data.
    """

    def __init__(
        self, app: Path, config: Config, out: Path, nodes: int, seconds: float = 600.0, engine: str = FLOWER
    ):
        self._app, self.out, self._nodes, self._seconds = app.absolute(), out.absolute(), nodes, seconds
        self._engine = engine
        self._work = work_folder(self.out)
        self.processes: Processes | None = None
        config = with_numbers(config)
        if config.privacy.on:
            raise SettingError(
                "privacy.epsilon and privacy.noise_multiplier must be 'none' for `deploy local`, whose run "
                "folder is that of a simulation, with its ledger; `deploy server` adds noise"
            )
        self.config = config
        self._spec: RunSpec = spec_of(config, task_of(config))
        whole_number("nodes", nodes, 1, len(self._spec.clients))

    @staticmethod
    def of_run(out: Path) -> "LocalDeployment":
        """The deployment that an earlier call began for a run folder.

        Raises:
            RunError: No deployment was begun for this run folder.
        """
        path = work_folder(out.absolute()) / LOCAL
        if not path.is_file():
            raise RunError(f"{out}: no deployment on this machine was begun for this run folder")
        given = json.loads(path.read_text())
        plan = DeploymentPlan.read(path.parent / SERVER)
        # Deployments of earlier versions name no engine.
        engine = given.get("engine", FLOWER)
        return LocalDeployment(Path(given["app"]), plan.config(), out, plan.nodes, plan.seconds, engine)

    def run(self, progress: Callable[[dict[str, Any]], None]) -> None:
        """Runs the rounds that are left, and ends all processes that it started, also after an error.

        Args:
            progress: A function that is called with the values of each line of `rounds.jsonl`.

        Raises:
            RunError: A process has ended before the rounds were done.
            SettingError: The engine is NVFlare, which is not installed.
        """
        if self._engine == NVFLARE:
            require("nvflare", "nvflare", "`deploy local --engine nvflare`")
        self.prepare()
        home, server = self._work / self._engine, self._work / SERVER
        environment = nvflare.environment_for_nvflare if self._engine == NVFLARE else environment_for
        with ExitStack() as stack:
            if self._engine == NVFLARE:
                stack.callback(nvflare.wait_for_rounds, server)  # after the others have ended
            processes = stack.enter_context(Processes(self._work / "logs", environment(home)))
            start = self._start_nvflare if self._engine == NVFLARE else self._start_flower
            link = start(processes, stack, home)
            self.processes = processes
            beginning = nvflare.Beginning(processes, server)

            def look() -> None:
                _restart_nodes(processes)
                if self._engine == NVFLARE:
                    beginning.look()

            follow = partial(follow_run, processes, server, self._spec.rounds, look=look, link=link)
            if self._engine == NVFLARE:
                nvflare.follow_jobs(server, follow, progress, partial(nvflare.submit_again, processes))
            else:
                follow(progress)

    def prepare(self) -> None:
        """Writes the files of the server and of each node, as they would be on machines of their own."""
        # The server's plan comes last: it says that all other files are there, so that a kill in between is
        # repaired by the next call.
        spec = self._spec
        rounds = read_settings(self._app).model_dump(include=_OF_ROUNDS)
        settings = DeploymentSettings(nodes=self._nodes, seconds=self._seconds).model_copy(update=rounds)
        plan = plan_of(self.config, spec, self.out.name, settings)
        make_folder(self._work / SERVER)
        if (self._work / SERVER / FILE).exists():
            written = DeploymentPlan.read(self._work / SERVER)
            if written != replace(plan, initial_params=written.initial_params):
                raise RunError(f"{self._work}: this deployment is of another experiment")
            return
        for number in range(self._nodes):
            folder = self._work / NODE.format(number)
            make_folder(folder)
            spec.clients.take(range(number, len(spec.clients), self._nodes)).write(folder / "clients.arrow")
            write_atomically(folder / "node.toml", tomli_w.dumps({"data": "clients.arrow"}))
            plan.write(folder)
        plan = replace(plan, initial_params=write_start(start_of(plan, spec), self._work / SERVER))
        write_atomically(
            self._work / LOCAL, json.dumps({"app": str(self._app), "engine": self._engine}) + "\n"
        )
        plan.write(self._work / SERVER)

    def _start_nvflare(self, processes: Processes, stack: ExitStack, home: Path) -> str:
        nodes = {name: self._work / name for name in map(NODE.format, range(self._nodes))}
        nvflare.start_federation(processes, home, self._work / SERVER, nodes)
        return nvflare.SERVER

    def _start_flower(self, processes: Processes, stack: ExitStack, home: Path) -> str:
        # In the system's temporary folder: the path of a socket may have only about a hundred characters.
        sockets = Path(tempfile.mkdtemp(prefix="fedrecon-"))
        stack.callback(shutil.rmtree, sockets, True)
        link, *ports = free_ports(1 + self._nodes)
        for number in range(self._nodes):
            folder = self._work / NODE.format(number)
            start_worker(processes, f"worker-{number}", folder, sockets / str(number))
        start_superlink(processes, home, link, None)
        for number, port in enumerate(ports):
            path = sockets / str(number)
            wait_until(path.exists, f"worker {number}", processes)
            start_supernode(processes, f"node-{number}", f"127.0.0.1:{link}", port, path, None)
        start_run(processes, self._app, self._work / SERVER)
        return SUPERLINK

    def records(self) -> list[dict[str, Any]]:
        """The values of the lines of `rounds.jsonl`, one line for each attempt at a round."""
        return read_log(self._work / SERVER / LOG)

    def state(self) -> Any:
        """The server's state after its last round."""
        return self._saved()[0]

    def _saved(self) -> tuple[Any, np.ndarray]:
        """The server's state after its last round, and for each client the last round that counted it."""
        like, _ = first_state(self._spec.algorithm, self._spec.seed)
        message = decode((self._work / SERVER / STATE).read_bytes())
        counted = np.zeros(len(self._spec.clients), np.int32)
        state, counted = state_from(message, (like, counted))
        return state, np.asarray(counted)

    def leave_run_folder(self) -> None:
        """Writes the run folder that a simulation of the experiment would leave, without its evaluation."""
        spec, (state, counted) = self._spec, self._saved()
        simulation = Simulation(spec.algorithm, spec.clients, spec.sampling, seed=spec.seed)
        folder = RunFolder(self.out, spec.configuration(), spec.fingerprint(), spec.counts())
        try:
            describe_run(folder, simulation.plan, spec)
            records = Records(self.out / METRICS)
            records.commit()
            kept = gather_client_states(
                spec,
                DeploymentPlan.read(self._work / SERVER).run,
                int(state.round),
                counted,
                self._node_folders(),
                self.out / CLIENT_STATES,
            )
        finally:
            folder.close()
        info: dict[str, Any] = {
            "seconds": sum(r["seconds"] for r in self.records()),
            "best": None,
            DIGEST: self._spec.vocabularies,
            RECORDS: records.mark,
        }
        if kept is not None:
            info["kept"] = kept
        if spec.settings_from_data:
            info[SETTINGS_FROM_DATA] = dict(spec.settings_from_data)
        tree = {"state": state} | ({"best": state.global_params} if self._spec.selects_best else {})
        Checkpoints(self.out / CHECKPOINTS).save(int(state.round), tree, info)
        write_atomically(self.out / LOG, (self._work / SERVER / LOG).read_text())

    def _node_folders(self) -> dict[str, Path]:
        """The folder of each client's node, by the client's name as a string."""
        names = map(str, self._spec.clients.ids.tolist())
        return {name: self._work / NODE.format(i % self._nodes) for i, name in enumerate(names)}

    def largest_difference(self) -> float:
        """The largest absolute difference between the state and that of a simulation of the same cohorts."""
        place = {str(name): i for i, name in enumerate(self._spec.clients.ids.tolist())}
        lines = (self._work / SERVER / ANSWERED).read_text().splitlines()
        plan = DeploymentPlan.read(self._work / SERVER)
        delays: list[dict[int, int]] = [{} for _ in range(self._spec.rounds)]
        for line in map(json.loads, lines):
            for name, asked in [*line.get("stale", []), *((name, line["round"]) for name in line["clients"])]:
                delays[asked][place[name]] = line["round"] - asked
        cohorts = _Cohorts(tuple(delays), plan.max_staleness, plan.staleness_exponent)
        simulation = Simulation(self._spec.algorithm, self._spec.clients, cohorts, seed=self._spec.seed)
        state = simulation.init(self._spec.initial_global_params)
        for done in simulation.rounds(state, self._spec.rounds):
            state = done.state
        # What still waits at the end is no part of a deployment's state.
        pairs = zip(jax.tree.leaves(state._replace(late=())), jax.tree.leaves(self.state()), strict=True)
        return max(
            float(np.max(np.abs(np.asarray(a, float) - np.asarray(b, float)), initial=0)) for a, b in pairs
        )

    def note(self, values: dict[str, Any]) -> None:
        """Adds values about the deployment to `result.json`."""
        path = self.out / RESULT
        result = seal({**read_json(path), "deployment": values})
        write_atomically(path, json.dumps(result, indent=2) + "\n")


def work_folder(out: Path) -> Path:
    """The folder, beside a run folder, of the files of its deployment's processes."""
    return out.with_name(f"{out.name}.deployment")


@dataclass(frozen=True, eq=False)
class _Cohorts(AbstractSampling):
    """A sampling that replays the rounds of an earlier run.

    Attributes:
        by_round: For each round, the positions of the clients whose updates were counted, with the numbers of
            rounds by which they were late.
        max_staleness: The largest of these numbers that was allowed.
        staleness_exponent: The exponent of the discount of late updates.
    """

    by_round: tuple[Mapping[int, int], ...]
    max_staleness: int
    staleness_exponent: float

    def indices(self, round: int, num_examples: Any, seed: int) -> Any:
        return np.fromiter(self.by_round[round], np.int64)

    def delays(self, round: int, num_examples: Any, seed: int) -> Any:
        return np.fromiter(self.by_round[round].values(), np.int64)

    def most(self, num_clients: int) -> int:
        return max(map(len, self.by_round))

    def check(self, num_clients: int) -> None:
        """Does nothing: the cohorts were drawn from the same clients."""


def _restart_nodes(processes: Processes) -> None:
    """Starts nodes and workers that have ended again, as a supervisor of services does."""
    for name in processes.find_ended():
        if name.startswith(("node-", "worker-")):
            processes.start_again(name)
