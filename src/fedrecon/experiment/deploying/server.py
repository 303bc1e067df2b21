"""A server on its own machine: its rounds, and for Flower a SuperLink on loopback and the keys it accepts."""

import json
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Protocol

import jax
import numpy as np

from fedrecon._files import atomic_file, lock, write_atomically
from fedrecon.core._model import leaves_of
from fedrecon.deployment._endpoint import Endpoint
from fedrecon.deployment._messages import state_from
from fedrecon.deployment._rounds import STATE, Transport, run_rounds
from fedrecon.deployment._server import Server
from fedrecon.deployment._wire import decode
from fedrecon.errors import RunError
from fedrecon.experiment.deploying.addresses import is_loopback, split_address
from fedrecon.experiment.deploying.flower_processes import (
    environment_for,
    follow_run,
    register_node,
    start_run,
    start_superlink,
    unregister_node,
)
from fedrecon.experiment.deploying.keys import Keys
from fedrecon.experiment.deploying.plan import ENDED, LOCK, PROCESS, DeploymentPlan
from fedrecon.experiment.deploying.preparing import APP, keys_of
from fedrecon.experiment.deploying.processes import Processes, ending_on_request
from fedrecon.experiment.settings.sections import SettingError
from fedrecon.experiment.storage.array_files import write_arrays
from fedrecon.experiment.storage.digests import finite, seal
from fedrecon.experiment.training.build import LEDGER
from fedrecon.privacy._secret import SECRET_BYTES, Secret
from fedrecon.simulation._client_step import first_state

PARAMETERS = "global_params.npz"
# The file of the secret that draws the cohorts of a private run.
COHORTS = "cohorts.key"
# Seconds between two looks at the list of keys.
_LOOK = 2.0
# The longest wait in seconds for an earlier process of the rounds, which outlives its engine by a while.
_PATIENCE = 20.0


class Registrations:
    """The keys that a running SuperLink accepts, kept equal to the active ones of a list.

    Args:
        keys: The keys of the deployment.
        home: The folder of Flower's own files.
    """

    def __init__(self, keys: Keys, home: Path):
        self._keys, self._home, self._numbers = keys, home, dict[str, int]()
        self._next = 0.0

    def update(self) -> None:
        """Registers new keys and ends the access of revoked ones.

        Raises:
            RunError: The list cannot be read, or the SuperLink refused a change.
        """
        public = [key.public for key in self._keys.active()]
        for key in [key for key in self._numbers if key not in public]:
            unregister_node(self._home, self._numbers.pop(key))
        for key in public:
            if key not in self._numbers:
                with tempfile.NamedTemporaryFile("w", suffix=".pub") as file:
                    file.write(key + "\n")
                    file.flush()
                    self._numbers[key] = register_node(self._home, Path(file.name))

    def look(self) -> None:
        """Calls `update` at most once in a few seconds."""
        if time.monotonic() >= self._next:
            self.update()
            self._next = time.monotonic() + _LOOK


class InUseError(RunError):
    """Another process runs the rounds of a server's folder; the text names nothing but the folder."""


class NodesTransport(Transport, Protocol):
    """A transport that finds nodes and their clients by itself."""

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


def run_server(folder: Path, progress: Callable[[dict[str, Any]], None]) -> None:
    """Runs the rounds that are left and ends all processes that it started, also after an error.

    Args:
        folder: The folder of the server, as `preparing.prepare_server` writes it.
        progress: A function that is called with the values of each line of `rounds.jsonl`.

    Raises:
        RunError: A process has ended before the rounds were done; the next call continues.
        SettingError: The deployment would leave loopback without TLS, or without noise.
    """
    folder = folder.absolute()
    plan, keys = DeploymentPlan.read(folder), keys_of(folder)
    plan.check_protection(plan.address)
    if not keys.there and not is_loopback(plan.address):
        raise SettingError(
            f"{folder}: a server outside loopback, here {plan.address}, must have keys: "
            f"`fedrecon deploy keys create`"
        )
    rounds, home = plan.affordable_rounds(), folder / "flower"
    port = split_address(plan.address)[1] if is_loopback(plan.address) else plan.superlink_port
    with ExitStack() as stack:
        stack.enter_context(ending_on_request())
        processes = stack.enter_context(Processes(folder / "logs", environment_for(home)))
        start_superlink(processes, home, port, keys.certificates if keys.there else None)
        registrations = Registrations(keys, home)
        look = registrations.look if keys.there else _nothing
        look()
        start_run(processes, folder / APP, folder)
        follow_run(processes, folder, rounds, progress, look)
    write_parameters(plan, folder)


@contextmanager
def noted_rounds(folder: Path, patience: float = _PATIENCE) -> Iterator[None]:
    """Locks a server's folder for the rounds, and notes there which process runs them and why it ended.

    Args:
        folder: The folder of the server.
        patience: The longest wait for another process that runs rounds there, in seconds; 20 by default.

    Raises:
        InUseError: Another process still runs rounds of this folder, whose files are then left as they are.
    """
    try:
        held = lock(folder / LOCK, patience)
    except BlockingIOError:
        raise InUseError(f"{folder}: another process runs the rounds of this folder; end it first") from None
    try:
        (folder / ENDED).unlink(missing_ok=True)
        write_atomically(folder / PROCESS, str(os.getpid()))
        try:
            yield
        except Exception as error:
            write_atomically(folder / ENDED, f"{type(error).__name__}: {error}\n")
            raise
        write_atomically(folder / ENDED, "")
    finally:
        held.release()


def run_plan(plan: DeploymentPlan, transport: NodesTransport, folder: Path, address: str | None) -> None:
    """Runs a plan's rounds, from the server's state in a folder on.

    Args:
        plan: The plan of the deployment.
        transport: Carries the messages between the server and the nodes.
        folder: The folder of the server's state and of `rounds.jsonl`, which `noted_rounds` has locked.
        address: The address that nodes connect to, or None, as `DeploymentPlan.check_protection` takes it.

    Raises:
        RunError: Nodes are missing, or a round never had enough answers.
        SettingError: People would not be protected.
    """
    config = plan.config()
    plan.check_protection(address)
    names = transport.find(plan.nodes, plan.seconds)
    algorithm = plan.algorithm()
    sampling, enough = plan.sampling(len(names))
    server = Server(
        algorithm,
        names,
        sampling,
        seed=config.seed,
        run=plan.run,
        global_params=plan.start_at(folder),
        min_answers=plan.min_answers,
        secret=None if algorithm.privacy is None else _secret(folder / COHORTS),
        max_staleness=plan.max_staleness,
        staleness_exponent=plan.staleness_exponent,
    )
    rounds = run_rounds(
        Endpoint(server),
        transport,
        plan.affordable_rounds(),
        folder,
        seconds=plan.seconds,
        note_clients=True,
        enough_answers=enough,
    )
    for _ in rounds:
        continue


def write_parameters(plan: DeploymentPlan, folder: Path) -> None:
    """Writes the global parameters of the last round to a file, an array for each leaf.

    An experiment can start from the file: `training.initial_global_params`. The ledger of a private run is
    written beside it first, so that its parameters are never without it.

    Args:
        plan: The plan of the deployment.
        folder: The folder of the server.
    """
    algorithm = plan.algorithm()
    like, _ = first_state(algorithm, plan.config().seed)
    message = decode((folder / STATE).read_bytes(), max_bytes=2**63)
    counted = jax.ShapeDtypeStruct(message.arrays["state/1"].shape, np.int32)
    state, _ = state_from(message, (like, counted))
    if algorithm.privacy is not None:
        values = finite(algorithm.privacy.ledger(int(state.privacy.releases)).values())
        write_atomically(folder / LEDGER, json.dumps(seal(values), indent=2) + "\n")
    arrays: Any = {name: np.asarray(x) for name, x in leaves_of(state.global_params).items()}
    write_arrays(folder / PARAMETERS, arrays)


def _nothing() -> None:
    return


def _secret(path: Path) -> Secret:
    """The secret of a file that only its owner can read, which the first call makes."""
    if not path.exists():
        with atomic_file(path) as file:
            os.fchmod(file.fileno(), 0o600)
            file.write(os.urandom(SECRET_BYTES))
    return Secret(path.read_bytes())
