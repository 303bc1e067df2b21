"""Derivatives of an optimum, whichever way it was found."""

from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float

from fedrecon._kernels.cholesky import solve
from fedrecon.core._examples import Examples
from fedrecon.core._model import Objective
from fedrecon.core._tags import tagged
from fedrecon.core._types import Metrics, Params, PRNGKey, RoundNumber
from fedrecon.solvers._local_solver import AbstractSolver, LocalSolver, as_solver


@tagged("solver/implicit", names={"solver": "stage"})
@dataclass(frozen=True)
class ImplicitDifferentiation(AbstractSolver):
    """A solver whose result is differentiated as the optimum that it found, not through its steps.

    At a minimum x of F(x; y), the sum of the loss over the examples plus the penalty, the gradient F_x is 0
    whatever the frozen parameters y, so that dx/dy = -F_xx⁻¹ F_xy. Neither the start nor the steps matter,
    nothing is kept of them, and the cost is that of one Newton step. It holds where the solver ends at a
    minimum with curvature in all directions: there be a penalty, or more examples than parameters. Where
    no derivative is asked for, it costs nothing.

    Attributes:
        solver: The solver that finds the minimum.

    References:
        Rajeswaran et al., Meta-Learning with Implicit Gradients, NeurIPS 2019.
    """

    solver: LocalSolver

    def cost(self, examples: Examples, round: RoundNumber | None = None) -> dict[str, Any]:
        """What the solver takes; a derivative is not counted."""
        return as_solver(self.solver).cost(examples, round)

    def __call__(
        self,
        objective: Objective,
        params: Params,
        examples: Examples,
        key: PRNGKey,
        round: RoundNumber | None = None,
    ) -> tuple[Params, Metrics]:
        """Arguments and result as for the solver."""
        held = jax.lax.stop_gradient((objective.frozen, params))
        optimum, metrics = self.solver(replace(objective, frozen=held[0]), held[1], examples, key, round)
        flat, unravel = ravel_pytree(jax.lax.stop_gradient(optimum))

        def total(x: Float[Array, "parameter"], frozen: Params) -> Any:
            losses = objective.fn(unravel(x), frozen, examples.batch, key)
            return losses.where(examples.mask).sum().total + objective.penalty(unravel(x), frozen)

        hessian = jax.hessian(total)(flat, held[0])
        return unravel(_optimum(flat, hessian, jax.grad(total)(flat, objective.frozen))), metrics


@jax.custom_vjp
def _optimum(
    x: Float[Array, "parameter"],
    hessian: Float[Array, "parameter parameter"],
    gradient: Float[Array, "parameter"],
) -> Any:
    """`x`, which follows from the gradient having to stay 0."""
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
