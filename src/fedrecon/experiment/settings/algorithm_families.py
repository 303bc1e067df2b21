"""Families of algorithms' settings: the settings that several algorithms share, and how they are built."""

from typing import TYPE_CHECKING, Any, Literal

from fedrecon.experiment.settings.sections import Section, setting
from fedrecon.experiment.settings.solvers import (
    LocalSolverSettings,
    NewtonSettings,
    OptimizerSettings,
    SolverSettings,
)
from fedrecon.experiment.settings.splits import AlternateBatchesSettings, SplitSettings

if TYPE_CHECKING:
    from fedrecon.algorithms._base import Algorithm
    from fedrecon.core._model import Model
    from fedrecon.data._clients import Clients

ClientWeight = Literal["examples", "uniform"]
# Settings that hold paths of leaves; an empty list leaves the choice to the algorithm.
_PARTS = ("part", "head", "body")


class AlgorithmSettings(Section):
    """The settings of an algorithm."""

    name: str

    def prepare(self, task: Any, seed: int) -> Any:
        """The task with its data in the form that the algorithm needs; by default the task itself.

        Args:
            task: The task, a `fedrecon.experiment.tasks.Task`.
            seed: The seed of the experiment.
        """
        return task

    def prepare_unseen(self, clients: "Clients") -> "Clients":
        """Clients that were not trained on, in the form that the algorithm needs; by default as they are."""
        return clients

    def build_for(self, task: Any) -> "Algorithm":
        """The algorithm for a prepared task."""
        algorithm: Algorithm = task.served(self.build(task.model))
        return algorithm

    def parts(self) -> dict[str, Any]:
        """The arguments of the algorithm without the model, each built from its setting.

        Raises:
            SettingError: Optax does not know a name or an argument that a setting passes on to it.
        """
        return {name: _build(name, value) for name, value in self if name != "name"}

    def build(self, model: "Model") -> "Algorithm":
        """The algorithm for a model."""
        from fedrecon import algorithms

        algorithm: Algorithm = getattr(algorithms, self.name)(model, **self.parts())
        return algorithm


class FederatedSettings(AlgorithmSettings):
    """Settings of algorithms whose clients train the global parameters."""

    client_weight: ClientWeight = setting(
        "examples", "weight of a client's delta: the examples that its update processed, or 1"
    )
    update: SolverSettings = SolverSettings(optimizer=OptimizerSettings(learning_rate=0.5))
    server_optimizer: OptimizerSettings = OptimizerSettings(learning_rate=1.0)


class SplittingSettings(FederatedSettings):
    """Settings of algorithms whose clients split their examples into a support and a query set."""

    split: SplitSettings = setting(AlternateBatchesSettings(), "support and query set in training:")


class TuningSettings(FederatedSettings):
    """Settings of algorithms whose clients fine-tune a copy of the parameters when they are served."""

    part: list[str] = setting(
        [], "paths of the global leaves to tune, or of what they lie below; none for all"
    )
    tune: SolverSettings = setting(SolverSettings(), "tunes a copy of them when a client is served:")


class ReconstructingSettings(SplittingSettings):
    """Settings of algorithms whose clients reconstruct their local parameters."""

    joint: bool = setting(False, "whether the update phase also trains the local parameters")
    reconstruct: LocalSolverSettings = setting(
        SolverSettings(), "fits the local parameters on the support set:"
    )


class KeepingSettings(FederatedSettings):
    """Settings of stateful algorithms whose clients fit their local parameters before the global ones."""

    reconstruct: LocalSolverSettings = setting(
        SolverSettings(), "fits the local parameters, from what a client kept, the global ones frozen:"
    )


class KeepingTogetherSettings(KeepingSettings):
    """Settings of stateful algorithms whose clients fit local and global parameters together."""

    update: SolverSettings = setting(SolverSettings(), "fits global and local parameters:")
    local_rate: float = setting(1.0, "factor on the steps of the local parameters", gt=0, allow_inf_nan=False)


def _build(name: str, value: Any) -> Any:
    """The argument of an algorithm that a setting describes."""
    if name == "client_weight":
        return _client_weight(value)
    if name in _PARTS:
        return tuple(value) or None
    if isinstance(value, OptimizerSettings):
        return value.build(f"algorithm.{name}", scheduled=True)
    if isinstance(value, SolverSettings | NewtonSettings):
        return value.build(f"algorithm.{name}")
    return value.build() if name == "split" else value


def _client_weight(name: str) -> Any:
    from fedrecon.algorithms._building_blocks import by_examples, uniform

    return {"examples": by_examples, "uniform": uniform}[name]
