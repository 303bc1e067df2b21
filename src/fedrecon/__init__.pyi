from . import (
    algorithms,
    core,
    data,
    datasets,
    deployment,
    evaluation,
    export,
    models,
    privacy,
    sampling,
    serving,
    simulation,
    solvers,
    splits,
)
from .algorithms._base import Algorithm, Broadcast, ServerState, Update
from .algorithms._fedavg import fedavg
from .algorithms._fedrecon import fedrecon
from .algorithms._finetuning import finetuning
from .algorithms._full_gradient import full_gradient
from .algorithms._local_only import local_only
from .core._examples import Examples
from .core._mean import Mean
from .core._model import Model, Table
from .core._partition import is_local, partition
from .core._splits import (
    AlternateBatches,
    AlternateExamples,
    ByTime,
    Fraction,
    HalfBatches,
    NoSplit,
    RandomFraction,
)
from .data._clients import Clients
from .data._sampling import Everyone, Passes, Poisson, Uniform, Weighted
from .evaluation._evaluate import evaluate
from .evaluation._evaluation import Evaluation
from .experiment.reporting.result import Interrupted, Result
from .experiment.serving.batches import personalize_batches
from .experiment.training.train import train
from .serving._personalization import Personalization, TopK
from .simulation._describe import describe
from .simulation._round import Round
from .simulation._simulation import Simulation
from .solvers._gradient import Solver
from .solvers._newton import Newton
from .solvers._optimizers import optimizer

__version__: str

__all__ = [
    "Algorithm",
    "AlternateBatches",
    "AlternateExamples",
    "Broadcast",
    "ByTime",
    "Clients",
    "Evaluation",
    "Everyone",
    "Examples",
    "Fraction",
    "HalfBatches",
    "Interrupted",
    "Mean",
    "Model",
    "Newton",
    "NoSplit",
    "Passes",
    "Personalization",
    "Poisson",
    "RandomFraction",
    "Result",
    "Round",
    "ServerState",
    "Simulation",
    "Solver",
    "Table",
    "TopK",
    "Uniform",
    "Update",
    "Weighted",
    "algorithms",
    "core",
    "data",
    "datasets",
    "deployment",
    "describe",
    "evaluate",
    "evaluation",
    "export",
    "fedavg",
    "fedrecon",
    "finetuning",
    "full_gradient",
    "is_local",
    "local_only",
    "models",
    "optimizer",
    "partition",
    "personalize_batches",
    "privacy",
    "sampling",
    "serving",
    "simulation",
    "solvers",
    "splits",
    "train",
]
