from ._gradient import LocalSolver, Metrics, Solver
from ._implicit_diff import ImplicitDifferentiation
from ._newton import Newton
from ._optimizers import NamedOptimizer, Schedule, describe, optimizer, schedule, yogi_zero

__all__ = [
    "ImplicitDifferentiation",
    "LocalSolver",
    "Metrics",
    "NamedOptimizer",
    "Newton",
    "Schedule",
    "Solver",
    "describe",
    "optimizer",
    "schedule",
    "yogi_zero",
]
