"""The plan of a deployment, on which all of its processes must agree: a file that each of them reads."""

import functools
import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedrecon._files import write_atomically
from fedrecon.errors import RunError
from fedrecon.experiment import config as configs
from fedrecon.experiment.config import Config
from fedrecon.experiment.deploying.addresses import is_loopback
from fedrecon.experiment.settings.sections import SettingError

if TYPE_CHECKING:
    from fedrecon.algorithms._base import Algorithm
    from fedrecon.core._types import Params
    from fedrecon.data._sampling import Sampling

FILE = "deployment.json"
# The file, beside the server's plan, of the parameters with which the rounds start where no model draws them.
INITIAL = "initial_global_params.npz"
# Files that the server writes beside the plan: the id of its process; and at its end the reason why it ended
# too early, or an empty file.
PROCESS, ENDED = "process", "ended"
# The file that the process of the rounds locks while it runs them.
LOCK = ".lock"
# The port that Flower's SuperLink has by default.
PORT = 8000
# Entries that the first plans did not have, with their defaults.
_LATER = {"over_selection": 1.0, "max_staleness": 0, "staleness_exponent": 0.5, "initial_params": ""}


def digest_of_file(path: Path) -> str:
    """A digest of a file, 32 hexadecimal digits; `""` where there is none."""
    return hashlib.blake2b(path.read_bytes(), digest_size=16).hexdigest() if path.exists() else ""


@dataclass(frozen=True)
class DeploymentPlan:
    """The plan of a deployed run, which holds no data of a client.

    Attributes:
        run: The name of the run in messages.
        settings: The settings of the experiment as nested tables, with numbers in place of settings that are
            read from data.
        vocabularies: The original ids of each field that the model numbers, in the order of the numbers.
        rounds: The number of rounds of the whole run.
        seconds: The deadline of a round in seconds; 600 by default.
        min_answers: The least number of answers of a round, with fewer of which it is begun again; 1 by
            default.
        nodes: The number of nodes that must answer before the first round; 1 by default.
        address: The address that nodes connect to, HOST:PORT; by default one of loopback.
        superlink_port: The port of Flower's SuperLink on the loopback interface of the server's machine; 8000
            by default.
        one_person_per_client: Whether a client's examples are those of one person; True by default.
        accept_row_leak: Whether deltas of single persons, and the rows that they name, may leave loopback
            without noise; False by default.
        num_clients: The number of training clients of all nodes together, on which the accounting of noise
            depends; 0, the default, where there is no noise.
        public_inputs: The inputs other than its clients' deltas that a private run depends on, by the source
            of each; empty, the default, where there is no noise.
        over_selection: Clients asked for each answer that a round wants; 1 by default.
        max_staleness: The largest number of rounds by which an answer may be late and still be counted; 0,
            the default, to refuse late answers.
        staleness_exponent: The exponent of the discount of late answers; 0.5 by default.
        initial_params: The digest of the server's file of the parameters with which the rounds start; `""`,
            the default, where the model draws them.
    """

    run: str
    settings: Mapping[str, Any]
    vocabularies: Mapping[str, list[Any]]
    rounds: int
    seconds: float = 600.0
    min_answers: int = 1
    nodes: int = 1
    address: str = f"127.0.0.1:{PORT}"
    superlink_port: int = PORT
    one_person_per_client: bool = True
    accept_row_leak: bool = False
    num_clients: int = 0
    public_inputs: Mapping[str, str] = field(default_factory=dict)
    over_selection: float = 1.0
    max_staleness: int = 0
    staleness_exponent: float = 0.5
    initial_params: str = ""

    def write(self, folder: Path) -> None:
        """Writes the plan into a folder."""
        values = asdict(self)
        for name, default in _LATER.items():  # nodes of an earlier version know no such entry
            if values[name] == default:
                del values[name]
        write_atomically(folder / FILE, json.dumps(values, indent=1) + "\n")

    @staticmethod
    def read(folder: Path) -> "DeploymentPlan":
        """Reads the plan of a folder.

        Raises:
            RunError: The folder has no plan, or its file is not one.
        """
        path = folder / FILE
        try:
            return DeploymentPlan(**json.loads(path.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):
            raise RunError(f"{path}: a deployment needs this file, as `deploy prepare` writes it") from None

    def start_at(self, folder: Path) -> "Params | None":
        """The global parameters with which the rounds start; None where the model draws them.

        Args:
            folder: The folder of the server.

        Raises:
            RunError: The file of the parameters is missing, or is not the one that the plan is for.
        """
        from fedrecon.experiment.training.build import global_params_at

        path = folder / INITIAL
        if digest_of_file(path) != self.initial_params:
            there = "is another one" if path.exists() else "is missing"
            raise RunError(
                f"{path}: must be the parameters that {FILE} is for, but {there}: copy the whole folder of a "
                f"server"
            )
        return global_params_at(path, self.algorithm().model) if self.initial_params else None

    def config(self) -> Config:
        """The configuration of the experiment."""
        return configs.resolve(self.settings, FILE)

    def algorithm(self) -> "Algorithm":
        """The algorithm, which is the same on the server and on all nodes, built without any data.

        Raises:
            SettingError: The task or the algorithm cannot be deployed, a setting would be read from data, or
                the noise of a private run cannot be accounted for, or is one that a deployment lacks.
        """
        return self._algorithm

    def affordable_rounds(self) -> int:
        """The number of rounds of the whole run that the privacy budget pays for; all without a budget.

        Raises:
            SettingError: As `algorithm`.
        """
        privacy = self._algorithm.privacy
        return self.rounds if privacy is None else privacy.affordable

    def sampling(self, num_clients: int) -> tuple["Sampling", int | None]:
        """The sampling that draws the clients to ask, and the number of answers at which a round ends.

        Args:
            num_clients: The number of clients of all nodes together.

        Returns:
            The sampling and the number; the number is None where a round waits for all clients that it asks.

        Raises:
            SettingError: There are fewer clients than a cohort asks for.
        """
        from fedrecon.data._sampling import Uniform
        from fedrecon.experiment.training.build import sampling_of

        sampling = sampling_of(self.config(), self.num_clients or num_clients)
        if self.over_selection == 1 or not isinstance(sampling, Uniform):
            return sampling, None
        wanted = sampling.clients_per_round
        return Uniform(min(math.ceil(wanted * self.over_selection), num_clients)), wanted

    @functools.cached_property
    def _algorithm(self) -> "Algorithm":
        from fedrecon.deployment._server import check_noise
        from fedrecon.experiment.tasks._spec import task_spec
        from fedrecon.experiment.training.build import sampling_of

        config = self.config()
        if config.privacy.min_contributors != "none":
            raise SettingError(
                f"privacy.min_contributors must be 'none' in a deployment, which does not count rows yet, "
                f"got {config.privacy.min_contributors}"
            )
        for name in ("compression", "aggregation"):
            if getattr(config, name) != type(getattr(config, name))():
                raise SettingError(f"{name} must have its defaults in a deployment, which has none yet")
        task = task_spec(config.task).build_without_data(config, self.vocabularies)
        algorithm = config.algorithm.build_for(task)
        if algorithm.exchanges != "parameters":
            raise SettingError(
                f"algorithm.name must be that of an algorithm whose clients send deltas in a deployment, got "
                f"{algorithm.name!r}, which exchanges {algorithm.exchanges}"
            )
        if not config.privacy.on:
            return algorithm
        sampling = sampling_of(config, self.num_clients)
        private = config.privacy.protect(
            algorithm, self.rounds, sampling, self.num_clients, dict(self.public_inputs)
        )
        try:
            if private.privacy is not None:
                check_noise(private.privacy)
        except ValueError as error:
            raise SettingError(str(error)) from None
        return private

    def check_protection(self, address: str | None) -> None:
        """Refuses a deployment whose messages would tell other machines of single persons.

        A client's delta, and the rows of tables that it names, tell which items the person has rated. Noise
        bounds what the parameters tell of a person.

        Args:
            address: The address that nodes connect to, HOST:PORT; None where only the engine's network knows
                it, which then counts as one outside loopback.

        Raises:
            SettingError: The address is outside loopback, a client is one person, there is no noise, and
                `accept_row_leak` is false.
        """
        if self.accept_row_leak or not self.one_person_per_client:
            return
        if address is not None and is_loopback(address):
            return
        if not self.config().privacy.on:
            where = "NVFlare's network" if address is None else address
            raise SettingError(
                f"accept_row_leak must be true outside loopback, here {where}, where each client is one "
                f"person and privacy.epsilon and privacy.noise_multiplier are 'none': each update names the "
                f"items that the person has rated. Set privacy.epsilon, or accept it in deployment.toml"
            )
