"""A second thread that asks for computations, so that two programs are computed at the same time on a CPU.

JAX computes what one thread asks for on a CPU in that order, one program after the other, and what two
threads ask for at the same time. Most programs share their work among all cores by themselves; one that
solves a system for each client, see `cholesky.solve`, does not.
"""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import jax
import jax.numpy as jnp

from fedrecon.algorithms._base import Algorithm
from fedrecon.solvers._local_solver import AbstractSolver


class SecondThread:
    """The second thread, which starts with the first call and ends with this object."""

    def __init__(self) -> None:
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="fedrecon-second")

    def call(self, program: Callable[..., Any], *arguments: Any) -> "Future[Any]":
        """Calls a program that is compiled already, since two threads may compile the same program twice."""
        wide = jnp.result_type(float) == jnp.float64  # what `jax.enable_x64` sets, it sets for a thread

        def run() -> Any:
            with jax.enable_x64(wide):
                return program(*arguments)

        return self._executor.submit(run)


def result_of(value: Any) -> Any:
    """What a call returned, whichever thread made it."""
    return value.result() if isinstance(value, Future) else value


def gains_from_second_thread(algorithm: Algorithm) -> bool:
    """Whether a solver of an algorithm leaves a core without work, on a CPU."""
    solvers = [x for x in algorithm.hyperparameters.values() if isinstance(x, AbstractSolver)]
    return jax.default_backend() == "cpu" and any(solver.occupies_one_thread() for solver in solvers)
