"""Settings of the algorithms, and what is built from them.

A new algorithm is a section with `parts` and `build`, listed in `AlgorithmSettings`.
"""

from typing import Annotated, Any, Literal

from pydantic import Field

from fedrecon.experiment.settings import Section, setting
from fedrecon.experiment.splits import AlternateBatches, Split
from fedrecon.experiment.stages import Optimizer, Reconstruct, Solver

ClientWeight = Literal["examples", "uniform"]


class FedRecon(Section):
    """Federated Reconstruction."""

    name: Literal["fedrecon"] = "fedrecon"
    client_weight: ClientWeight = setting("examples", "weight of a client's delta: its query examples, or 1")
    joint: bool = setting(False, "whether the update phase also trains the local parameters")
    split: Split = setting(AlternateBatches(), "support and query set in training:")
    reconstruct: Reconstruct = setting(Solver(), "fits the local parameters on the support set:")
    update: Solver = Solver(optimizer=Optimizer(learning_rate=0.5))
    server_optimizer: Optimizer = Optimizer(learning_rate=1.0)

    def parts(self) -> dict[str, Any]:
        """All but the model.

        Raises:
            SettingError: A setting that only Optax knows is unknown to it.
        """
        return {
            "reconstruct": self.reconstruct.build("algorithm.reconstruct"),
            "update": self.update.build("algorithm.update"),
            "server_optimizer": self.server_optimizer.build("algorithm.server_optimizer", scheduled=True),
            "split": self.split.build(),
            "joint": self.joint,
            "client_weight": _client_weight(self.client_weight),
        }

    def build(self, model: Any) -> Any:
        """The algorithm."""
        from fedrecon.algorithms.fedrecon import fedrecon

        return fedrecon(model, **self.parts())


class FedAvg(Section):
    """Federated averaging; with another server optimiser FedAdam, FedYogi, FedAdagrad."""

    name: Literal["fedavg"] = "fedavg"
    client_weight: ClientWeight = setting("examples", "weight of a client's delta: its examples, or 1")
    update: Solver = Solver(optimizer=Optimizer(learning_rate=0.5))
    server_optimizer: Optimizer = Optimizer(learning_rate=1.0)

    def parts(self) -> dict[str, Any]:
        """All but the model.

        Raises:
            SettingError: A setting that only Optax knows is unknown to it.
        """
        return {
            "update": self.update.build("algorithm.update"),
            "server_optimizer": self.server_optimizer.build("algorithm.server_optimizer", scheduled=True),
            "client_weight": _client_weight(self.client_weight),
        }

    def build(self, model: Any) -> Any:
        """The algorithm."""
        from fedrecon.algorithms.fedavg import fedavg

        return fedavg(model, **self.parts())


AlgorithmSettings = Annotated[FedRecon | FedAvg, Field(discriminator="name")]


def _client_weight(name: str) -> Any:
    from fedrecon.algorithm import by_examples, uniform

    return {"examples": by_examples, "uniform": uniform}[name]
