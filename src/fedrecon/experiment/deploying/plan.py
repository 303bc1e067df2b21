"""What the processes of a deployment must agree on, in a file that goes wherever they go."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedrecon._files import write_atomically
from fedrecon.errors import RunError
from fedrecon.experiment import config as configs
from fedrecon.experiment.config import Config

if TYPE_CHECKING:
    from fedrecon.algorithms._base import Algorithm

FILE = "deployment.json"
# What the server writes beside it: its process's id, and at its end why it ended too early, if it did.
PROCESS, ENDED = "process", "ended"


@dataclass(frozen=True)
class DeploymentPlan:
    """A deployed run. It holds no data of a client.

    Attributes:
        run: The name by which messages know the run.
        settings: The experiment's settings, nested; what it would read from data is a number in them.
        vocabularies: For each field that the model numbers the original ids, in the model's order.
        rounds: How many.
        seconds: A round's deadline.
        min_answers: Answers without which a round is begun again.
        nodes: How many nodes must be there before the first round.
    """

    run: str
    settings: Mapping[str, Any]
    vocabularies: Mapping[str, list[Any]]
    rounds: int
    seconds: float = 600.0
    min_answers: int = 1
    nodes: int = 1

    def write(self, folder: Path) -> None:
        """Writes the file of a folder."""
        write_atomically(folder / FILE, json.dumps(asdict(self), indent=1) + "\n")

    @staticmethod
    def read(folder: Path) -> "DeploymentPlan":
        """Reads the file of a folder.

        Raises:
            RunError: There is none, or it is not one.
        """
        path = folder / FILE
        try:
            return DeploymentPlan(**json.loads(path.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):
            raise RunError(f"{path}: a deployment needs this file, as `deploy init` writes it") from None

    def config(self) -> Config:
        """The experiment."""
        return configs.resolve(self.settings, FILE)

    def algorithm(self) -> "Algorithm":
        """What is trained: the same on the server and on all nodes, without any data.

        Raises:
            SettingError: The task cannot be deployed, or a setting would be read from data.
        """
        from fedrecon.experiment.tasks._spec import task_spec

        config = self.config()
        task = task_spec(config.task).build_without_data(config, self.vocabularies)
        return config.algorithm.build_for(task)
