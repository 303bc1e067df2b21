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
    from fedrecon.algorithm import Algorithm, Broadcast, ServerState, Update
    from fedrecon.algorithms.fedavg import fedavg
    from fedrecon.algorithms.fedrecon import fedrecon
    from fedrecon.algorithms.finetuning import finetuning
    from fedrecon.algorithms.full_gradient import full_gradient
    from fedrecon.algorithms.local_only import local_only
    from fedrecon.data import (
        AlternateBatches,
        AlternateExamples,
        ByTime,
        Examples,
        Fraction,
        HalfBatches,
        NoSplit,
        RandomFraction,
    )
    from fedrecon.evaluation import Evaluation, evaluate
    from fedrecon.experiment.result import Result
    from fedrecon.experiment.training import train
    from fedrecon.federation.clients import Clients
    from fedrecon.federation.sampling import Passes, Poisson, Uniform, Weighted
    from fedrecon.model import Model, Table
    from fedrecon.newton import Newton
    from fedrecon.optimizers import optimizer
    from fedrecon.partitions import is_local, partition
    from fedrecon.personalization import Personalization, TopK
    from fedrecon.rounds import Round
    from fedrecon.simulation import Simulation
    from fedrecon.solver import Solver
    from fedrecon.stats import Mean
else:
    # Hidden from type checkers: a module's `__getattr__` would let them accept any misspelt name.
    _NAMES_OF = {
        "algorithm": ("Algorithm", "Broadcast", "ServerState", "Update"),
        "algorithms.fedavg": ("fedavg",),
        "algorithms.fedrecon": ("fedrecon",),
        "algorithms.finetuning": ("finetuning",),
        "algorithms.full_gradient": ("full_gradient",),
        "algorithms.local_only": ("local_only",),
        "data": (
            "AlternateBatches",
            "AlternateExamples",
            "ByTime",
            "Examples",
            "Fraction",
            "HalfBatches",
            "NoSplit",
            "RandomFraction",
        ),
        "evaluation": ("Evaluation", "evaluate"),
        "experiment.result": ("Result",),
        "experiment.training": ("train",),
        "federation.clients": ("Clients",),
        "federation.sampling": ("Passes", "Poisson", "Uniform", "Weighted"),
        "model": ("Model", "Table"),
        "newton": ("Newton",),
        "optimizers": ("optimizer",),
        "partitions": ("is_local", "partition"),
        "personalization": ("Personalization", "TopK"),
        "rounds": ("Round",),
        "simulation": ("Simulation",),
        "solver": ("Solver",),
        "stats": ("Mean",),
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
