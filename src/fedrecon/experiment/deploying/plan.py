"""The plan of a deployment, on which all of its processes must agree: a file that each of them reads."""

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
# Files that the server writes beside the plan: the id of its process; and at its end the reason why it ended
# too early, or an empty file.
PROCESS, ENDED = "process", "ended"


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
    """

    run: str
    settings: Mapping[str, Any]
    vocabularies: Mapping[str, list[Any]]
    rounds: int
    seconds: float = 600.0
    min_answers: int = 1
    nodes: int = 1

    def write(self, folder: Path) -> None:
        """Writes the plan into a folder."""
        write_atomically(folder / FILE, json.dumps(asdict(self), indent=1) + "\n")

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
            raise RunError(f"{path}: a deployment needs this file, as `deploy init` writes it") from None

    def config(self) -> Config:
        """The configuration of the experiment."""
        return configs.resolve(self.settings, FILE)

    def algorithm(self) -> "Algorithm":
        """The algorithm, which is the same on the server and on all nodes, built without any data.

        Raises:
            SettingError: The task cannot be deployed, or a setting would be read from data.
        """
        from fedrecon.experiment.tasks._spec import task_spec

        config = self.config()
        task = task_spec(config.task).build_without_data(config, self.vocabularies)
        return config.algorithm.build_for(task)
