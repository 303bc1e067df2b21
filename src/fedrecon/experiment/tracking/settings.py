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

    @property
    def address(self) -> str | None:
        """Where these settings send numbers; None where they stay here or go where the environment says."""
        return None


class TensorBoardSettings(Section):
    """TensorBoard: event files in the run's folder `tensorboard`, shown by `tensorboard --logdir runs`."""

    name: Literal["tensorboard"] = "tensorboard"

    @property
    def address(self) -> str | None:
        """None: the numbers stay in the run folder."""
        return None

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

    @property
    def address(self) -> str | None:
        """The project that numbers are sent to; None where they stay in the run folder."""
        owner = f"{self.entity}/" if self.entity else ""
        return f"Weights & Biases, {owner}{self.project}" if self.mode == "online" else None

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

    @property
    def address(self) -> str | None:
        """The store that the settings name; None for the one that the environment names."""
        return self.uri or None

    def check(self) -> None:
        """Refuses to begin without the package."""
        require("mlflow", "mlflow", "tracking.name = mlflow")

    def open(self, folder: Path, title: str, settings: dict[str, Any]) -> "Tracker":
        from fedrecon.experiment.tracking.mlflow import MlflowTracker

        return MlflowTracker(folder, title, settings, self.uri, self.experiment)


TrackingSettings = Annotated[
    UntrackedSettings | TensorBoardSettings | WandbSettings | MLflowSettings, Field(discriminator="name")
]
