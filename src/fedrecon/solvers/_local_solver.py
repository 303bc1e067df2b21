"""What solves a client's local problem: any function of the right form, and what else a solver may tell."""

import abc
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int

from fedrecon._kernels.rows import Locality
from fedrecon.core._examples import Examples
from fedrecon.core._model import Objective, Table
from fedrecon.core._types import Metrics, Number, Params, PRNGKey, RoundNumber, Rows


@runtime_checkable
class LocalSolver(Protocol):
    """Fits the parameters of an objective to examples: `Solver`, `Newton`, or a function of one's own.

    Any callable of this form will do. One that derives from `AbstractSolver` can tell more of itself.
    """

    def __call__(
        self,
        objective: Objective,
        params: Params,
        examples: Examples,
        key: PRNGKey,
        round: RoundNumber | None = None,
    ) -> tuple[Params, Metrics]:
        """The fitted parameters, and means by name: of the loss (`"loss"`) and of the objective's metrics.

        Every prediction that the means measure is made before the step that its batch took. How much padding
        the examples have must change neither.

        Args:
            objective: The objective to minimise. `objective.measure` gives the loss and metrics of a batch;
                `objective.penalty` is added to the sum of the loss over all examples.
            params: The parameters from which the solver starts.
            examples: The client's examples, valid ones first.
            key: Random key for all draws of the solver.
            round: Rounds done before this one; None counts as the first.
        """


class AbstractSolver(abc.ABC):
    """A solver that can tell more of itself than its result: each method but the call has a default.

    A plain function has all the defaults, see `as_solver`.
    """

    @abc.abstractmethod
    def __call__(
        self,
        objective: Objective,
        params: Params,
        examples: Examples,
        key: PRNGKey,
        round: RoundNumber | None = None,
    ) -> tuple[Params, Metrics]:
        """The fitted parameters and means by name, see `LocalSolver`."""

    def solve_delta(
        self,
        objective: Objective,
        params: Params,
        examples: Examples,
        key: PRNGKey,
        round: RoundNumber | None = None,
    ) -> tuple[Params, Rows, Metrics]:
        """As a call, but the change of the parameters; by default the difference of a call's result.

        Returns:
            The change; for every table of which it holds rows alone, which these are; the means by name.
        """
        new, metrics = self(objective, params, examples, key, round)
        return jax.tree.map(jnp.subtract, new, params), {}, metrics

    def cost(self, examples: Examples, round: RoundNumber | None = None) -> dict[str, Number]:
        """What a call with these examples takes, by the names of `COSTS`; by default nothing is counted."""
        return {}

    def examples_per_step(
        self, examples: Examples, round: RoundNumber | None = None
    ) -> Int[Array, "step"] | None:
        """How many examples each step of a call takes; by default None: it does not tell."""
        return None

    def locality(self, params: Params, tables: Sequence[Table]) -> Locality:
        """How finely tables among the parameters that it fits may be cut into rows; by default not at all.

        `"dense"`: it needs whole tables. `"client"`: it may be given all rows that a client touches instead.
        `"step"`: each of its steps may be given the rows of its batch alone.
        """
        return "dense"

    def vectorized(self) -> "AbstractSolver":
        """The solver in a form that vectorises over clients: for objectives that close over arrays or have to
        be differentiated. By default the solver itself.
        """
        return self


@dataclass(frozen=True)
class _FunctionSolver(AbstractSolver):
    """A function as a solver, with all defaults."""

    function: LocalSolver

    def __call__(
        self,
        objective: Objective,
        params: Params,
        examples: Examples,
        key: PRNGKey,
        round: RoundNumber | None = None,
    ) -> tuple[Params, Metrics]:
        return self.function(objective, params, examples, key, round)


def as_solver(solver: LocalSolver) -> AbstractSolver:
    """The solver itself if it derives from `AbstractSolver`, and else one that calls it."""
    return solver if isinstance(solver, AbstractSolver) else _FunctionSolver(solver)
