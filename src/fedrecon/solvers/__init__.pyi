from ._gradient import Metrics, Solver, Stage
from ._implicit_diff import Implicit
from ._newton import Newton
from ._optimizers import NamedOptimizer, Schedule, describe, optimizer, schedule, yogi_zero

__all__ = [
    "Implicit",
    "Metrics",
    "NamedOptimizer",
    "Newton",
    "Schedule",
    "Solver",
    "Stage",
    "describe",
    "optimizer",
    "schedule",
    "yogi_zero",
]
