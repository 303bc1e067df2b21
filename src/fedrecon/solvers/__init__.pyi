from ._gradient import Solver
from ._implicit_diff import ImplicitDifferentiation
from ._local_solver import AbstractSolver, LocalSolver, as_solver
from ._newton import Newton
from ._optimizers import NamedOptimizer, Schedule, describe, optimizer, schedule, yogi_zero
from ._state import for_state

__all__ = [
    "AbstractSolver",
    "ImplicitDifferentiation",
    "LocalSolver",
    "NamedOptimizer",
    "Newton",
    "Schedule",
    "Solver",
    "as_solver",
    "describe",
    "for_state",
    "optimizer",
    "schedule",
    "yogi_zero",
]
