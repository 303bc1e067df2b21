"""Settings of the trackers."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from fedrecon.experiment.settings.extras import require
from fedrecon.experiment.settings.sections import Section, setting

if TYPE_CHECKING:
    from fedrecon.experiment.tracking.tracker import Tracker


class UntrackedSettings(Section):
    """No tracker: all numbers are in the run folder."""

    name: Literal["none"] = "none"


class TensorBoardSettings(Section):
    """TensorBoard: event files in the run's folder `tensorboard`, shown by `tensorboard --logdir runs`."""

    name: Literal["tensorboard"] = "tensorboard"

    def check(self) -> None:
        """Refuses to begin without the package."""
        require("tensorboard", "tensorboard", "tracking.name = tensorboard")

    def open(self, folder: Path, title: str, settings: dict[str, Any]) -> "Tracker":
        from fedrecon.experiment.tracking.tensorboard import TensorBoardTracker

        return TensorBoardTracker(folder / "tensorboard")


class WandbSettings(Section):
    """Weights & Biases."""

    name: Literal["wandb"] = "wandb"
    project: str = setting("fedrecon", "the project", min_length=1)
    entity: str = setting("", 'the user or team; "" for the one logged in')
    mode: Literal["online", "offline"] = setting(
        "online", "offline keeps all in the run folder: `wandb sync`"
    )

    def check(self) -> None:
        """Refuses to begin without the package."""
        require("wandb", "wandb", "tracking.name = wandb")

    def open(self, folder: Path, title: str, settings: dict[str, Any]) -> "Tracker":
        from fedrecon.experiment.tracking.wandb import WandbTracker

        return WandbTracker(folder, title, settings, self.project, self.entity, self.mode)


class MLflowSettings(Section):
    """MLflow."""

    name: Literal["mlflow"] = "mlflow"
    uri: str = setting("", 'of a server, or sqlite:///FILE; "" for what the environment says')
    experiment: str = setting("fedrecon", "the experiment", min_length=1)

    def check(self) -> None:
        """Refuses to begin without the package."""
        require("mlflow", "mlflow", "tracking.name = mlflow")

    def open(self, folder: Path, title: str, settings: dict[str, Any]) -> "Tracker":
        from fedrecon.experiment.tracking.mlflow import MlflowTracker

        return MlflowTracker(folder, title, settings, self.uri, self.experiment)


TrackingSettings = Annotated[
    UntrackedSettings | TensorBoardSettings | WandbSettings | MLflowSettings, Field(discriminator="name")
]
