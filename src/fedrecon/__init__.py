"""Federated Reconstruction: partially local federated learning in JAX.

Every public name is imported on first use, so that `import fedrecon` alone loads nothing heavy.
"""

from importlib import import_module
from typing import TYPE_CHECKING

__version__ = "0.1.0"

__all__ = [
    "Algorithm",
    "AlternateBatches",
    "AlternateExamples",
    "Broadcast",
    "ByTime",
    "Clients",
    "Evaluation",
    "Examples",
    "Fraction",
    "HalfBatches",
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
    "evaluate",
    "fedavg",
    "fedrecon",
    "finetuning",
    "full_gradient",
    "is_local",
    "local_only",
    "optimizer",
    "partition",
    "train",
]

if TYPE_CHECKING:
    from fedrecon.algorithms._base import Algorithm, Broadcast, ServerState, Update
    from fedrecon.algorithms._fedavg import fedavg
    from fedrecon.algorithms._fedrecon import fedrecon
    from fedrecon.algorithms._finetuning import finetuning
    from fedrecon.algorithms._full_gradient import full_gradient
    from fedrecon.algorithms._local_only import local_only
    from fedrecon.core._examples import (
        AlternateBatches,
        AlternateExamples,
        ByTime,
        Examples,
        Fraction,
        HalfBatches,
        NoSplit,
        RandomFraction,
    )
    from fedrecon.core._mean import Mean
    from fedrecon.core._model import Model, Table
    from fedrecon.core._partition import is_local, partition
    from fedrecon.data._clients import Clients
    from fedrecon.data._sampling import Passes, Poisson, Uniform, Weighted
    from fedrecon.evaluation._evaluate import Evaluation, evaluate
    from fedrecon.experiment.reporting.result import Result
    from fedrecon.experiment.training.train import train
    from fedrecon.serving._personalization import Personalization, TopK
    from fedrecon.simulation._round import Round
    from fedrecon.simulation._simulation import Simulation
    from fedrecon.solvers._gradient import Solver
    from fedrecon.solvers._newton import Newton
    from fedrecon.solvers._optimizers import optimizer
else:
    # Hidden from type checkers: a module's `__getattr__` would let them accept any misspelt name.
    _NAMES_OF = {
        "algorithms._base": ("Algorithm", "Broadcast", "ServerState", "Update"),
        "algorithms._fedavg": ("fedavg",),
        "algorithms._fedrecon": ("fedrecon",),
        "algorithms._finetuning": ("finetuning",),
        "algorithms._full_gradient": ("full_gradient",),
        "algorithms._local_only": ("local_only",),
        "core._examples": (
            "AlternateBatches",
            "AlternateExamples",
            "ByTime",
            "Examples",
            "Fraction",
            "HalfBatches",
            "NoSplit",
            "RandomFraction",
        ),
        "evaluation._evaluate": ("Evaluation", "evaluate"),
        "experiment.reporting.result": ("Result",),
        "experiment.training.train": ("train",),
        "data._clients": ("Clients",),
        "data._sampling": ("Passes", "Poisson", "Uniform", "Weighted"),
        "core._model": ("Model", "Table"),
        "solvers._newton": ("Newton",),
        "solvers._optimizers": ("optimizer",),
        "core._partition": ("is_local", "partition"),
        "serving._personalization": ("Personalization", "TopK"),
        "simulation._round": ("Round",),
        "simulation._simulation": ("Simulation",),
        "solvers._gradient": ("Solver",),
        "core._mean": ("Mean",),
    }
    _MODULE_OF = {name: module for module, names in _NAMES_OF.items() for name in names}

    def __getattr__(name):
        if name not in _MODULE_OF:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = getattr(import_module(f"{__name__}.{_MODULE_OF[name]}"), name)
        globals()[name] = value  # the next access does not come here
        return value

    def __dir__():
        return sorted({*globals(), *__all__})
