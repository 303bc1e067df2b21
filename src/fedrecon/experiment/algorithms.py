"""Settings of the algorithms, and what is built from them.

A new algorithm is a section whose settings are its arguments, with `build`, listed in `AlgorithmSettings`.
"""

from typing import Annotated, Any, Literal

from pydantic import Field

from fedrecon.experiment.settings import Section, setting
from fedrecon.experiment.splits import AlternateBatches, Split
from fedrecon.experiment.stages import Newton, Optimizer, Reconstruct, Solver

ClientWeight = Literal["examples", "uniform"]


class _Approach(Section):
    def parts(self) -> dict[str, Any]:
        """All but the model, each setting built.

        Raises:
            SettingError: A setting that only Optax knows is unknown to it.
        """
        return {name: _built(name, value) for name, value in self if name != "name"}


class FedRecon(_Approach):
    """Federated Reconstruction."""

    name: Literal["fedrecon"] = "fedrecon"
    client_weight: ClientWeight = setting("examples", "weight of a client's delta: its query examples, or 1")
    joint: bool = setting(False, "whether the update phase also trains the local parameters")
    split: Split = setting(AlternateBatches(), "support and query set in training:")
    reconstruct: Reconstruct = setting(Solver(), "fits the local parameters on the support set:")
    update: Solver = Solver(optimizer=Optimizer(learning_rate=0.5))
    server_optimizer: Optimizer = Optimizer(learning_rate=1.0)

    def build(self, model: Any) -> Any:
        """The algorithm."""
        from fedrecon.algorithms.fedrecon import fedrecon

        return fedrecon(model, **self.parts())


class FedAvg(_Approach):
    """Federated averaging; with another server optimiser FedAdam, FedYogi, FedAdagrad."""

    name: Literal["fedavg"] = "fedavg"
    client_weight: ClientWeight = setting("examples", "weight of a client's delta: its examples, or 1")
    update: Solver = Solver(optimizer=Optimizer(learning_rate=0.5))
    server_optimizer: Optimizer = Optimizer(learning_rate=1.0)

    def build(self, model: Any) -> Any:
        """The algorithm."""
        from fedrecon.algorithms.fedavg import fedavg

        return fedavg(model, **self.parts())


class FineTuning(_Approach):
    """Federated averaging; every client then tunes a copy of its own."""

    name: Literal["finetuning"] = "finetuning"
    client_weight: ClientWeight = setting("examples", "weight of a client's delta: its examples, or 1")
    part: list[str] = setting(
        [], "paths of the global leaves to tune, or of what they lie below; none for all"
    )
    update: Solver = Solver(optimizer=Optimizer(learning_rate=0.5))
    server_optimizer: Optimizer = Optimizer(learning_rate=1.0)
    tune: Solver = setting(Solver(), "tunes a copy of them when a client is served:")

    def build(self, model: Any) -> Any:
        """The algorithm."""
        from fedrecon.algorithms.fedavg import fedavg
        from fedrecon.algorithms.finetuning import finetuning

        parts = self.parts()
        tune, part = parts.pop("tune"), tuple(parts.pop("part"))
        return finetuning(fedavg(model, **parts), tune, part or None)


class FineTunedFedRecon(_Approach):
    """Federated Reconstruction; every client then tunes all parameters."""

    name: Literal["finetuned_fedrecon"] = "finetuned_fedrecon"
    client_weight: ClientWeight = setting("examples", "weight of a client's delta: its query examples, or 1")
    joint: bool = setting(False, "whether the update phase also trains the local parameters")
    part: list[str] = setting(
        [], "paths of the global leaves to tune, or of what they lie below; none for all"
    )
    split: Split = setting(AlternateBatches(), "support and query set in training:")
    reconstruct: Reconstruct = setting(Solver(), "fits the local parameters on the support set:")
    update: Solver = Solver(optimizer=Optimizer(learning_rate=0.5))
    server_optimizer: Optimizer = Optimizer(learning_rate=1.0)
    tune: Solver = setting(Solver(), "tunes a copy of them when a client is served:")

    def build(self, model: Any) -> Any:
        """The algorithm."""
        from fedrecon.algorithms.fedrecon import fedrecon
        from fedrecon.algorithms.finetuning import finetuning

        parts = self.parts()
        tune, part = parts.pop("tune"), tuple(parts.pop("part"))
        return finetuning(fedrecon(model, **parts), tune, part or None)


class FullGradient(_Approach):
    """Federated Reconstruction, differentiated through the reconstruction."""

    name: Literal["full_gradient"] = "full_gradient"
    client_weight: ClientWeight = setting("examples", "weight of a client's delta: its query examples, or 1")
    split: Split = setting(AlternateBatches(), "support and query set in training:")
    reconstruct: Reconstruct = setting(Solver(), "fits the local parameters on the support set:")
    update: Solver = Solver(optimizer=Optimizer(learning_rate=0.5))
    server_optimizer: Optimizer = Optimizer(learning_rate=1.0)

    def build(self, model: Any) -> Any:
        """The algorithm."""
        from fedrecon.algorithms.full_gradient import full_gradient

        return full_gradient(model, **self.parts())


class MAML(_Approach):
    """Model-agnostic meta-learning."""

    name: Literal["maml"] = "maml"
    client_weight: ClientWeight = setting("examples", "weight of a client's delta: its query examples, or 1")
    split: Split = setting(AlternateBatches(), "support and query set in training:")
    tune: Solver = setting(Solver(), "tunes all parameters on the support set:")
    update: Solver = Solver(optimizer=Optimizer(learning_rate=0.5))
    server_optimizer: Optimizer = Optimizer(learning_rate=1.0)

    def build(self, model: Any) -> Any:
        """The algorithm."""
        from fedrecon.algorithms.maml import maml

        return maml(model, **self.parts())


class FirstOrderMAML(_Approach):
    """Model-agnostic meta-learning without second derivatives."""

    name: Literal["first_order_maml"] = "first_order_maml"
    client_weight: ClientWeight = setting("examples", "weight of a client's delta: its query examples, or 1")
    split: Split = setting(AlternateBatches(), "support and query set in training:")
    tune: Solver = setting(Solver(), "tunes all parameters on the support set:")
    update: Solver = Solver(optimizer=Optimizer(learning_rate=0.5))
    server_optimizer: Optimizer = Optimizer(learning_rate=1.0)

    def build(self, model: Any) -> Any:
        """The algorithm."""
        from fedrecon.algorithms.maml import first_order_maml

        return first_order_maml(model, **self.parts())


class Reptile(_Approach):
    """Moves the global parameters towards those that clients tune."""

    name: Literal["reptile"] = "reptile"
    client_weight: ClientWeight = setting("uniform", "weight of a client's delta: its examples, or 1")
    tune: Solver = setting(Solver(), "tunes all parameters:")
    server_optimizer: Optimizer = Optimizer(learning_rate=1.0)

    def build(self, model: Any) -> Any:
        """The algorithm."""
        from fedrecon.algorithms.reptile import reptile

        return reptile(model, **self.parts())


class LocalOnly(_Approach):
    """Every client fits all parameters on its own."""

    name: Literal["local_only"] = "local_only"
    fit: Solver = setting(Solver(), "fits a copy of the initial parameters on the support set:")

    def build(self, model: Any) -> Any:
        """The algorithm."""
        from fedrecon.algorithms.local_only import local_only

        return local_only(model, **self.parts())


AlgorithmSettings = Annotated[
    FedRecon
    | FedAvg
    | FineTuning
    | FineTunedFedRecon
    | FullGradient
    | MAML
    | FirstOrderMAML
    | Reptile
    | LocalOnly,
    Field(discriminator="name"),
]


def _built(name: str, value: Any) -> Any:
    if name == "client_weight":
        return _client_weight(value)
    if isinstance(value, Optimizer):
        return value.build(f"algorithm.{name}", scheduled=True)
    if isinstance(value, Solver | Newton):
        return value.build(f"algorithm.{name}")
    return value.build() if name == "split" else value


def _client_weight(name: str) -> Any:
    from fedrecon.algorithm import by_examples, uniform

    return {"examples": by_examples, "uniform": uniform}[name]
