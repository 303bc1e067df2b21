"""Settings of the algorithms, and what is built from them.

A new algorithm is a section whose settings are its arguments, with `build`, listed in `AlgorithmSettings`.
"""

from dataclasses import replace
from typing import Annotated, Any, Literal

from pydantic import Field

from fedrecon.experiment.settings import Section, setting
from fedrecon.experiment.splits import AlternateBatches, Split
from fedrecon.experiment.stages import Newton, Optimizer, Reconstruct, Solver

ClientWeight = Literal["examples", "uniform"]


class _Approach(Section):
    def prepare(self, task: Any, seed: int) -> Any:
        """The task as this approach wants its data."""
        return task

    def prepare_unseen(self, clients: Any) -> Any:
        """Clients that were not trained on, likewise."""
        return clients

    def build_for(self, task: Any) -> Any:
        """The algorithm for a prepared task."""
        return self.build(task.model)

    def build(self, model: Any) -> Any:
        """The algorithm for a model."""
        raise TypeError(f"{type(self).__name__} cannot be built from a model alone")

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


class Centralized(_Approach):
    """Mini-batch training on the pooled data of all clients, which then are no longer private."""

    name: Literal["centralized"] = "centralized"
    batch_size: int = setting(
        64, "examples in a mini-batch; training.clients_per_round of them make a step of the server", ge=1
    )
    reconstruct: Reconstruct = setting(Solver(), "fits the local parameters of an unseen client:")
    server_optimizer: Optimizer = Optimizer(name="adam", learning_rate=0.001)

    def prepare(self, task: Any, seed: int) -> Any:
        """Mini-batches that mix the clients' examples."""
        from fedrecon.federation.pooling import in_batches, numbered

        def unseen(clients: Any) -> Any:
            return None if clients is None else numbered(clients, seen=False)

        return replace(
            task,
            train=in_batches(numbered(task.train), self.batch_size, seed),
            validation=unseen(task.validation),
            test=unseen(task.test),
            held_out={name: numbered(clients) for name, clients in task.held_out.items()},
            num_clients=len(task.train),
        )

    def prepare_unseen(self, clients: Any) -> Any:
        """Clients without a row on the server."""
        from fedrecon.federation.pooling import numbered

        return numbered(clients, seen=False)

    def build_for(self, task: Any) -> Any:
        """The algorithm, which has a row for each of the task's clients."""
        from fedrecon.algorithms.centralized import centralized

        parts = self.parts()
        del parts["batch_size"]
        return centralized(task.model, task.num_clients, **parts)


AlgorithmSettings = Annotated[
    FedRecon
    | FedAvg
    | FineTuning
    | FineTunedFedRecon
    | FullGradient
    | MAML
    | FirstOrderMAML
    | Reptile
    | LocalOnly
    | Centralized,
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
