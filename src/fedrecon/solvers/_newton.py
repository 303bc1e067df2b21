"""Newton's method on the local parameters: exact in one step where the objective is quadratic."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float

from fedrecon._kernels.cholesky import solve
from fedrecon.core._costs import EXAMPLE_PASSES, SOLVES
from fedrecon.core._examples import Examples
from fedrecon.core._model import Objective, check_loss
from fedrecon.core._tags import tagged
from fedrecon.core._types import Metrics, Params, PRNGKey, RoundNumber
from fedrecon.errors import plain, store_whole_numbers
from fedrecon.solvers._local_solver import AbstractSolver

_MOST_PARAMETERS = 2000


@tagged("solver/newton")
@dataclass(frozen=True)
class Newton(AbstractSolver):
    """Minimises the *sum* of the loss over all of a client's examples, plus the penalty.

    Every iteration solves (H + damping I) d = -gradient by Cholesky's method. The first of several
    iterations need not be near the minimum, so that where there is more than one, a step is halved until
    the objective falls. An iteration that finds no finite step changes nothing. With no examples the
    penalty's optimum is the result, and without a penalty the start.

    Attributes:
        iterations: Newton steps; 1 is exact for a quadratic objective such as matrix factorisation's.
        damping: A number that is added to the Hessian's diagonal, at least 0; 0 by default.

    Raises:
        ValueError: A number is out of its range, or at the call: more than 2,000 parameters, for which the
            Hessian would take more memory and time than a client has.
    """

    iterations: int = 1
    damping: float = 0.0

    def __post_init__(self) -> None:
        store_whole_numbers(self, 1, "iterations")
        if self.damping < 0:
            raise ValueError(f"damping must not be negative, got {plain(self.damping)}")

    def cost(self, examples: Examples, round: RoundNumber | None = None) -> dict[str, Any]:
        """What a call with these examples takes: solves and example passes, see `core._costs`."""
        return {SOLVES: self.iterations, EXAMPLE_PASSES: self.iterations * examples.count()}

    def __call__(
        self,
        objective: Objective,
        params: Params,
        examples: Examples,
        key: PRNGKey,
        round: RoundNumber | None = None,
    ) -> tuple[Params, Metrics]:
        """Fits `params`; arguments and result as for `Solver`, metrics at the start."""
        start, unravel = ravel_pytree(params)
        if start.size > _MOST_PARAMETERS:
            raise ValueError(
                f"Newton takes at most {_MOST_PARAMETERS:,} parameters, got {start.size:,}; use a Solver"
            )

        def total(flat: Float[Array, "parameter"]) -> Any:
            local = unravel(flat)
            losses = objective.fn(local, objective.frozen, examples.batch, key)
            check_loss(losses, examples.size)
            metrics = {"loss": losses, **objective.metrics(local, objective.frozen, examples.batch)}
            metrics = {name: mean.where(examples.mask).sum() for name, mean in metrics.items()}
            return metrics["loss"].total + objective.penalty(local, objective.frozen), metrics

        if not start.size:
            return params, total(start)[1]

        def iterate(flat: Float[Array, "parameter"], _: None) -> Any:
            gradient, metrics = jax.grad(total, has_aux=True)(flat)
            hessian = jax.hessian(lambda x: total(x)[0])(flat)
            step = solve(hessian + self.damping * jnp.eye(flat.size), -gradient)
            if self.iterations > 1:
                step = step * _fraction(lambda x: total(x)[0], flat, step)
            return jnp.where(jnp.all(jnp.isfinite(step)), flat + step, flat), metrics

        solution, metrics = jax.lax.scan(iterate, start, length=self.iterations)
        return unravel(solution), {name: jax.tree.map(lambda x: x[0], mean) for name, mean in metrics.items()}


def _fraction(
    value: Callable[[Float[Array, "parameter"]], Float[Array, ""]],
    flat: Float[Array, "parameter"],
    step: Float[Array, "parameter"],
) -> Any:
    """The largest of 1, 1/2, … 1/128, and 0, at which the objective is not above its value at the start.

    Up to rounding: close to the minimum a good step changes the objective by less than that.
    """
    fractions = 0.5 ** jnp.arange(8)
    start, values = value(flat), jax.vmap(lambda f: value(flat + f * step))(fractions)
    bound = start + 4 * jnp.finfo(values.dtype).eps * jnp.abs(start)
    falls = jnp.isfinite(values) & (values <= bound)
    return jnp.where(jnp.any(falls), fractions[jnp.argmax(falls)], 0.0)
