"""What the settings of algorithms have in common: families of sections, and how their parts are built."""

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
_PARTS = ("part", "head", "body")  # paths of leaves; none for what the algorithm takes by itself


class AlgorithmSettings(Section):
    """An algorithm's settings."""

    name: str

    def prepare(self, task: Any, seed: int) -> Any:
        """The task as this approach wants its data."""
        return task

    def prepare_unseen(self, clients: "Clients") -> "Clients":
        """Clients that were not trained on, likewise."""
        return clients

    def build_for(self, task: Any) -> "Algorithm":
        """The algorithm for a prepared task."""
        return self.build(task.model)

    def parts(self) -> dict[str, Any]:
        """All but the model, each setting built.

        Raises:
            SettingError: A setting that only Optax knows is unknown to it.
        """
        return {name: _built(name, value) for name, value in self if name != "name"}

    def build(self, model: "Model") -> "Algorithm":
        """The algorithm."""
        from fedrecon import algorithms

        algorithm: Algorithm = getattr(algorithms, self.name)(model, **self.parts())
        return algorithm


class FederatedSettings(AlgorithmSettings):
    """Clients train the global parameters."""

    client_weight: ClientWeight = setting(
        "examples", "weight of a client's delta: the examples that its update processed, or 1"
    )
    update: SolverSettings = SolverSettings(optimizer=OptimizerSettings(learning_rate=0.5))
    server_optimizer: OptimizerSettings = OptimizerSettings(learning_rate=1.0)


class SplittingSettings(FederatedSettings):
    """They split their examples into a support and a query set."""

    split: SplitSettings = setting(AlternateBatchesSettings(), "support and query set in training:")


class TuningSettings(FederatedSettings):
    """Clients tune when they are served."""

    part: list[str] = setting(
        [], "paths of the global leaves to tune, or of what they lie below; none for all"
    )
    tune: SolverSettings = setting(SolverSettings(), "tunes a copy of them when a client is served:")


class ReconstructingSettings(SplittingSettings):
    """Clients reconstruct their local parameters."""

    joint: bool = setting(False, "whether the update phase also trains the local parameters")
    reconstruct: LocalSolverSettings = setting(
        SolverSettings(), "fits the local parameters on the support set:"
    )


class KeepingSettings(FederatedSettings):
    """Clients keep their local parameters, and fit them alone."""

    reconstruct: LocalSolverSettings = setting(
        SolverSettings(), "fits the local parameters, from what a client kept, the global ones frozen:"
    )


class KeepingTogetherSettings(KeepingSettings):
    """Clients keep their local parameters, and fit them together with the global ones."""

    update: SolverSettings = setting(SolverSettings(), "fits global and local parameters:")
    local_rate: float = setting(1.0, "factor on the steps of the local parameters", gt=0, allow_inf_nan=False)


def _built(name: str, value: Any) -> Any:
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
