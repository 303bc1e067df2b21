"""The settings of each algorithm.

A new algorithm gets a section here whose settings are its arguments, listed in `AnyAlgorithmSettings`. The
section's `name` is that of the algorithm's function in `fedrecon.algorithms`.
"""

from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from fedrecon.experiment.settings.algorithm_families import (
    AlgorithmSettings,
    ClientWeight,
    FederatedSettings,
    KeepingSettings,
    KeepingTogetherSettings,
    ReconstructingSettings,
    SplittingSettings,
    TuningSettings,
)
from fedrecon.experiment.settings.sections import setting
from fedrecon.experiment.settings.solvers import LocalSolverSettings, OptimizerSettings, SolverSettings

if TYPE_CHECKING:
    from fedrecon.algorithms._base import Algorithm
    from fedrecon.core._model import Model
    from fedrecon.data._clients import Clients

_LOCAL = (
    'paths of its leaves among (global, local) parameters, such as "0/item/bias" or "1", or of what they lie '
    "below; none for the model's local ones"
)


class FedReconSettings(ReconstructingSettings):
    """Federated Reconstruction."""

    name: Literal["fedrecon"] = "fedrecon"


class FedAvgSettings(FederatedSettings):
    """Federated averaging; with another server optimiser FedAdam, FedYogi, FedAdagrad."""

    name: Literal["fedavg"] = "fedavg"


class FineTuningSettings(TuningSettings):
    """Federated averaging; every client is served by a fine-tuned copy of the global parameters."""

    name: Literal["finetuning"] = "finetuning"

    def build(self, model: "Model") -> "Algorithm":
        """The algorithm for a model."""
        from fedrecon.algorithms._fedavg import fedavg
        from fedrecon.algorithms._finetuning import finetuning

        parts = self.parts()
        tune, part = parts.pop("tune"), parts.pop("part")
        return finetuning(fedavg(model, **parts), tune, part)


class FineTunedFedReconSettings(TuningSettings, ReconstructingSettings):
    """Federated Reconstruction; every client is served by fine-tuned copies of all parameters."""

    name: Literal["finetuned_fedrecon"] = "finetuned_fedrecon"

    def build(self, model: "Model") -> "Algorithm":
        """The algorithm for a model."""
        from fedrecon.algorithms._fedrecon import fedrecon
        from fedrecon.algorithms._finetuning import finetuning

        parts = self.parts()
        tune, part = parts.pop("tune"), parts.pop("part")
        return finetuning(fedrecon(model, **parts), tune, part)


class FullGradientSettings(SplittingSettings):
    """Federated Reconstruction, differentiated through the reconstruction."""

    name: Literal["full_gradient"] = "full_gradient"
    reconstruct: LocalSolverSettings = setting(
        SolverSettings(), "fits the local parameters on the support set:"
    )


class MAMLSettings(SplittingSettings):
    """Model-agnostic meta-learning."""

    name: Literal["maml"] = "maml"
    tune: SolverSettings = setting(SolverSettings(), "tunes all parameters on the support set:")


class FirstOrderMAMLSettings(SplittingSettings):
    """Model-agnostic meta-learning without second derivatives."""

    name: Literal["first_order_maml"] = "first_order_maml"
    tune: SolverSettings = setting(SolverSettings(), "tunes all parameters on the support set:")


class ReptileSettings(AlgorithmSettings):
    """Reptile: the global parameters move towards those that clients fine-tune."""

    name: Literal["reptile"] = "reptile"
    client_weight: ClientWeight = setting("uniform", "weight of a client's delta: its examples, or 1")
    tune: SolverSettings = setting(SolverSettings(), "tunes all parameters:")
    server_optimizer: OptimizerSettings = OptimizerSettings(learning_rate=1.0)


class LocalOnlySettings(AlgorithmSettings):
    """Every client fits all parameters on its own examples; nothing is shared."""

    name: Literal["local_only"] = "local_only"
    fit: SolverSettings = setting(
        SolverSettings(), "fits a copy of the initial parameters on the support set:"
    )


class CentralizedSettings(AlgorithmSettings):
    """Mini-batch training on the pooled examples of all clients, which leave the clients for it."""

    name: Literal["centralized"] = "centralized"
    batch_size: int = setting(
        64, "examples in a mini-batch; training.clients_per_round of them make a step of the server", ge=1
    )
    reconstruct: LocalSolverSettings = setting(
        SolverSettings(), "fits the local parameters of an unseen client:"
    )
    server_optimizer: OptimizerSettings = OptimizerSettings(name="adam", learning_rate=0.001)

    def prepare(self, task: Any, seed: int) -> Any:
        """The task with mini-batches that mix the clients' examples in place of its training clients."""
        from fedrecon.data._pooling import in_batches, numbered

        def unseen(clients: "Clients | None") -> "Clients | None":
            return None if clients is None else numbered(clients, seen=False)

        return replace(
            task,
            train=in_batches(numbered(task.train), self.batch_size, seed),
            validation=unseen(task.validation),
            test=unseen(task.test),
            held_out={name: numbered(clients) for name, clients in task.held_out.items()},
            num_clients=len(task.train),
        )

    def prepare_unseen(self, clients: "Clients") -> "Clients":
        """The clients, marked as having no row of local parameters on the server."""
        from fedrecon.data._pooling import numbered

        return numbered(clients, seen=False)

    def build_for(self, task: Any) -> "Algorithm":
        """The algorithm, with a row of local parameters on the server for each of the task's clients."""
        from fedrecon.algorithms._centralized import centralized

        parts = self.parts()
        del parts["batch_size"]
        algorithm: Algorithm = task.served(centralized(task.model, task.num_clients, **parts))
        return algorithm


class FedAltSettings(KeepingSettings):
    """FedAlt: clients keep their local parameters; they fit these first, and then the global ones."""

    name: Literal["fedalt"] = "fedalt"


class FedSimSettings(KeepingTogetherSettings):
    """FedSim: clients keep their local parameters, and fit them together with the global ones."""

    name: Literal["fedsim"] = "fedsim"


class FedPerSettings(KeepingTogetherSettings):
    """FedPer: FedSim whose head is local."""

    name: Literal["fedper"] = "fedper"
    head: list[str] = setting([], _LOCAL)


class FedRepSettings(KeepingSettings):
    """FedRep: FedAlt whose head is local."""

    name: Literal["fedrep"] = "fedrep"
    head: list[str] = setting([], _LOCAL)


class LGFedAvgSettings(KeepingTogetherSettings):
    """LG-FedAvg: FedSim whose body is local."""

    name: Literal["lg_fedavg"] = "lg_fedavg"
    body: list[str] = setting([], _LOCAL)


class DittoSettings(FederatedSettings):
    """Ditto: federated averaging; every client keeps a model of its own that stays near the shared one."""

    name: Literal["ditto"] = "ditto"
    strength: float = setting(1.0, "how much a client's own model is drawn to the shared one", ge=0)
    fit: SolverSettings = setting(SolverSettings(), "trains a client's own model:")


class PFedMeSettings(FederatedSettings):
    """pFedMe: the global parameters descend the Moreau envelopes of the clients' losses."""

    name: Literal["pfedme"] = "pfedme"
    client_weight: ClientWeight = setting("uniform", "weight of a client's delta: its examples, or 1")
    strength: float = setting(15.0, "how much a personal model is drawn to the global one", ge=0)
    update: SolverSettings = SolverSettings(optimizer=OptimizerSettings(learning_rate=0.005))
    solve: SolverSettings = setting(
        SolverSettings(batch_size="all", epochs=5, optimizer=OptimizerSettings(learning_rate=0.05)),
        "finds the personal model on a batch, and on the support set of who is served:",
    )


AnyAlgorithmSettings = Annotated[
    FedReconSettings
    | FedAvgSettings
    | FineTuningSettings
    | FineTunedFedReconSettings
    | FullGradientSettings
    | MAMLSettings
    | FirstOrderMAMLSettings
    | ReptileSettings
    | LocalOnlySettings
    | CentralizedSettings
    | FedAltSettings
    | FedSimSettings
    | FedPerSettings
    | FedRepSettings
    | LGFedAvgSettings
    | DittoSettings
    | PFedMeSettings,
    Field(discriminator="name"),
]
