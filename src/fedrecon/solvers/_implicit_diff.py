"""Derivatives of an optimum by the implicit function theorem, for any solver."""

from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float

from fedrecon._kernels.cholesky import solve
from fedrecon._kernels.hessian import hessian
from fedrecon.core._examples import Examples
from fedrecon.core._model import Objective
from fedrecon.core._tags import tagged
from fedrecon.core._types import Metrics, Params, PRNGKey, RoundNumber
from fedrecon.solvers._local_solver import AbstractSolver, LocalSolver, as_solver
from fedrecon.solvers._state import check_no_state


@tagged("solver/implicit", names={"solver": "stage"})
@dataclass(frozen=True)
class ImplicitDifferentiation(AbstractSolver):
    """A solver whose result is differentiated as an optimum, and not through the solver's steps.

    At a minimum x of F(x; y), the sum of the loss over the examples plus the penalty, the gradient F_x is 0
    whatever the frozen parameters y, so that dx/dy = -F_xx⁻¹ F_xy. Neither the start nor the steps matter,
    none of them is stored, and the cost is that of one Newton step; without a derivative there is no cost.
    The formula holds where the solver ends at a minimum with curvature in all directions, as with a penalty
    or with more examples than parameters.

    Attributes:
        solver: The solver that finds the minimum.

    References:
        Rajeswaran et al., Meta-Learning with Implicit Gradients, NeurIPS 2019.
    """

    solver: LocalSolver

    def cost(self, examples: Examples, round: RoundNumber | None = None) -> dict[str, Any]:
        """The cost of the solver by the names of `COSTS`, without that of the derivative."""
        return as_solver(self.solver).cost(examples, round)

    def __call__(
        self,
        objective: Objective,
        params: Params,
        examples: Examples,
        key: PRNGKey,
        round: RoundNumber | None = None,
    ) -> tuple[Params, Metrics]:
        """The parameters and metrics of the solver, with the derivative of an optimum."""
        check_no_state(objective, self)
        held = jax.lax.stop_gradient((objective.frozen, params))
        optimum, metrics = self.solver(replace(objective, frozen=held[0]), held[1], examples, key, round)
        flat, unravel = ravel_pytree(jax.lax.stop_gradient(optimum))

        def total(x: Float[Array, "parameter"], frozen: Params) -> Any:
            losses = objective.fn(unravel(x), frozen, examples.batch, key)
            return losses.where(examples.mask).sum().total + objective.penalty(unravel(x), frozen)

        # The Hessian of frozen copies, so that no derivative of it is taken; the gradient of the parameters
        # that may be differentiated, through which the derivative by them flows.
        matrix = hessian(lambda x: total(x, held[0]), flat)
        return unravel(_optimum(flat, matrix, jax.grad(total)(flat, objective.frozen))), metrics


@jax.custom_vjp
def _optimum(
    x: Float[Array, "parameter"],
    hessian: Float[Array, "parameter parameter"],
    gradient: Float[Array, "parameter"],
) -> Any:
    """`x` itself, with the derivative by `gradient` that keeps the gradient at 0."""
    return x


def _forward(
    x: Float[Array, "parameter"],
    hessian: Float[Array, "parameter parameter"],
    gradient: Float[Array, "parameter"],
) -> tuple[Any, Any]:
    return x, hessian


def _backward(
    hessian: Float[Array, "parameter parameter"], cotangent: Float[Array, "parameter"]
) -> tuple[Any, Any, Any]:
    return jnp.zeros_like(cotangent), jnp.zeros_like(hessian), -solve(hessian, cotangent)


_optimum.defvjp(_forward, _backward)
