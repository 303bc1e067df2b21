"""The interface of local solvers: a function that fits parameters, and optional further abilities."""

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
    """Fits the parameters of an objective to examples: `Solver`, `Newton`, or any function of this form.

    A class that derives from `AbstractSolver` can have further abilities, such as telling its cost.
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

        The loss and metrics of a batch are measured before the step on that batch. The amount of padding must
        change neither result.

        Args:
            objective: The objective to minimise. `objective.measure` gives the loss and metrics of a batch;
                `objective.penalty` is added to the sum of the loss over all examples.
            params: The parameters from which the solver starts.
            examples: The client's examples, valid ones first.
            key: The random key of all draws of the solver.
            round: The number of rounds done before this one; None, the default, counts as 0.
        """


class AbstractSolver(abc.ABC):
    """A solver with further abilities; each method but the call has a default.

    `as_solver` turns a plain function into a solver with all the defaults.
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
        """The fitted parameters and means by name, as `LocalSolver` describes."""

    def solve_delta(
        self,
        objective: Objective,
        params: Params,
        examples: Examples,
        key: PRNGKey,
        round: RoundNumber | None = None,
    ) -> tuple[Params, Rows, Metrics]:
        """Fits the parameters as a call does, and returns their change; by default computed as a difference.

        Returns:
            The change, new minus old; the row numbers of the tables of which the change has some rows only,
            by the table's path; and the means by name.
        """
        new, metrics = self(objective, params, examples, key, round)
        return jax.tree.map(jnp.subtract, new, params), {}, metrics

    def cost(self, examples: Examples, round: RoundNumber | None = None) -> dict[str, Number]:
        """The cost of a call with these examples, by the names of `COSTS`; by default nothing is counted."""
        return {}

    def examples_per_step(
        self, examples: Examples, round: RoundNumber | None = None
    ) -> Int[Array, "step"] | None:
        """The number of examples in each step of a call; by default None: the solver does not tell it."""
        return None

    def locality(self, params: Params, tables: Sequence[Table]) -> Locality:
        """How far the tables among the fitted parameters may be cut into rows; by default not at all.

        Args:
            params: The parameters that are fitted, or their shapes.
            tables: The tables among the leaves of `params`.

        Returns:
            `"dense"` for a solver that needs whole tables, `"client"` for one that may be given all rows that
            a client touches, and `"step"` for one whose steps may be given the rows of their batch only.
        """
        return "dense"

    def occupies_one_thread(self) -> bool:
        """Whether most of its work on a CPU cannot be shared by threads, so that two programs side by side
        are faster than one; by default False.
        """
        return False

    def takes_one_gradient(self) -> bool:
        """Whether the change of the parameters is their gradient times a number: then a simulation may sum
        the changes of several clients as one gradient, see `summed_gradients`. By default False.
        """
        return False

    def replaces_state(self) -> bool:
        """Whether a call with an objective that has state replaces it by the objective's `next_state`; by
        default False: then `for_state` fits the other parameters with the solver.
        """
        return False

    def vectorized(self) -> "AbstractSolver":
        """The solver in a form that is vectorised over clients; by default the solver itself.

        Objectives that close over arrays or have to be differentiated need this form: a solver that takes one
        client after the other in a loop allows neither.
        """
        return self


@dataclass(frozen=True)
class _FunctionSolver(AbstractSolver):
    """A function as a solver, with all defaults.

    Attributes:
        function: The function that fits the parameters.
    """

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
    """The solver itself if it derives from `AbstractSolver`, else a solver that calls the function."""
    return solver if isinstance(solver, AbstractSolver) else _FunctionSolver(solver)
