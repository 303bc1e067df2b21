"""Newton's method on the local parameters: exact in one step where the objective is quadratic."""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Bool, Float, Int

from fedrecon._kernels.cholesky import solve
from fedrecon._kernels.fold_lookups import fold_lookups
from fedrecon._kernels.hessian import hessian
from fedrecon._kernels.step_rows import with_rows
from fedrecon.core._costs import EXAMPLE_PASSES, SOLVES
from fedrecon.core._examples import Examples
from fedrecon.core._model import Objective, check_loss
from fedrecon.core._tags import tagged
from fedrecon.core._types import Metrics, Params, PRNGKey, RoundNumber
from fedrecon.errors import plain, store_whole_numbers
from fedrecon.solvers._local_solver import AbstractSolver
from fedrecon.solvers._state import check_no_state

_MOST_PARAMETERS = 2000
_PIECE = 128  # examples whose rows, and what is made of them, fit in a core's cache


@tagged("solver/newton")
@dataclass(frozen=True)
class Newton(AbstractSolver):
    """Minimises the *sum* of the loss over all of a client's examples, plus the penalty.

    Every iteration solves (H + damping I) d = -gradient by Cholesky's method. The first of several
    iterations need not be near the minimum, so that where there is more than one, a step is halved until
    the objective falls. An iteration that finds no finite step changes nothing. With no examples the
    penalty's optimum is the result, and without a penalty the start.

    Attributes:
        iterations: The number of Newton steps. 1, the default, is exact for a quadratic objective such as
            matrix factorisation's.
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

    def occupies_one_thread(self) -> bool:
        """True: its linear systems are solved one after the other, see `cholesky.solve`."""
        return True

    def __call__(
        self,
        objective: Objective,
        params: Params,
        examples: Examples,
        key: PRNGKey,
        round: RoundNumber | None = None,
    ) -> tuple[Params, Metrics]:
        """Fits `params`; arguments and result as for `Solver`, metrics at the start."""
        check_no_state(objective, self)
        start, unravel = ravel_pytree(params)
        if start.size > _MOST_PARAMETERS:
            raise ValueError(
                f"Newton takes at most {_MOST_PARAMETERS:,} parameters, got {start.size:,}; use a Solver"
            )
        local_problem = _LocalProblem(objective, unravel, examples, key)
        if not start.size:
            return params, local_problem.value(start)[1]
        expand = local_problem.expand
        if self.iterations == 1 and examples.size >= 2 * _PIECE and local_problem.is_separable(start):
            expand = local_problem.expand_by_pieces

        def iterate(flat: Float[Array, "parameter"], _: None) -> Any:
            gradient, matrix, metrics = expand(flat)
            step = solve(matrix + self.damping * jnp.eye(flat.size), -gradient)
            if self.iterations > 1:
                step = step * _fraction(lambda x: local_problem.value(x)[0], flat, step)
            return jnp.where(jnp.all(jnp.isfinite(step)), flat + step, flat), metrics

        solution, metrics = jax.lax.scan(iterate, start, length=self.iterations)
        return unravel(solution), {name: jax.tree.map(lambda x: x[0], mean) for name, mean in metrics.items()}


class _LocalProblem:
    """A client's objective as a function of its parameters in one vector.

    Args:
        objective: The objective to minimise.
        unravel: Makes the objective's parameters of the vector.
        examples: The client's examples, valid ones first.
        key: Random key for the loss.
    """

    def __init__(
        self,
        objective: Objective,
        unravel: Callable[[Float[Array, "parameter"]], Params],
        examples: Examples,
        key: PRNGKey,
    ):
        self._all, self._unravel, self._examples, self._key = objective, unravel, examples, key
        self._rows = with_rows(objective, examples)

    def value(self, flat: Float[Array, "parameter"]) -> tuple[Any, Metrics]:
        """The sum of the loss over all examples plus the penalty, and the sums of the metrics."""
        loss, metrics = self._loss(*self._rows, flat)
        return loss + self._penalty(flat), metrics

    def expand(self, flat: Float[Array, "parameter"]) -> tuple[Any, Any, Metrics]:
        """The gradient, the Hessian and the metrics at a point."""
        gradient, metrics = jax.grad(self.value, has_aux=True)(flat)
        return gradient, hessian(lambda x: self.value(x)[0], flat), metrics

    def expand_by_pieces(self, flat: Float[Array, "parameter"]) -> tuple[Any, Any, Metrics]:
        """As `expand`, from one piece of the examples after the other, as far as the valid ones go.

        Rows are gathered and multiplied while they are in the cache, and padding takes no time: of a slot
        for clients with 2,000 examples most have a few hundred.
        """
        pieces = -(-self._examples.size // _PIECE)
        padded = self._examples.padded(pieces * _PIECE)

        def piece(index: Int[Array, ""]) -> tuple[Any, Any, Metrics]:
            def cut(x: Any) -> Any:
                return jax.lax.dynamic_slice_in_dim(jnp.asarray(x), index * _PIECE, _PIECE)

            part = Examples(jax.tree.map(cut, padded.data), cut(padded.mask), padded.positional)
            objective, part = with_rows(self._all, part)
            loss = functools.partial(self._loss, objective, part)
            gradient, metrics = jax.grad(loss, has_aux=True)(flat)
            return gradient, hessian(lambda x: loss(x)[0], flat), metrics

        sums = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(piece, 0))
        count = -(-self._examples.count() // _PIECE)
        gradient, matrix, metrics = jax.lax.fori_loop(
            0, count, lambda index, sums: jax.tree.map(jnp.add, sums, piece(index)), sums
        )
        gradient = gradient + jax.grad(self._penalty)(flat)
        return gradient, matrix + hessian(self._penalty, flat), metrics

    def is_separable(self, flat: Float[Array, "parameter"]) -> bool:
        """Whether an example's loss and metrics are the same whichever other examples are in its batch.

        So it is by the contract of a model where they read neither `EXAMPLE_MASK` nor the random key, whose
        draws are numbered by the examples' places.
        """
        objective, examples = self._rows

        def terms(mask: Bool[Array, "example"], key: PRNGKey) -> Any:
            batch = Examples(examples.data, mask, examples.positional).batch
            local = self._unravel(flat)
            loss = objective.fn(local, objective.frozen, batch, key)
            return loss, objective.metrics(local, objective.frozen, batch)

        jaxpr = jax.make_jaxpr(terms)(examples.mask, self._key).jaxpr
        read = {id(x) for eqn in jaxpr.eqns for x in eqn.invars} | {id(x) for x in jaxpr.outvars}
        return not any(id(x) in read for x in jaxpr.invars)

    def _loss(
        self, objective: Objective, examples: Examples, flat: Float[Array, "parameter"]
    ) -> tuple[Float[Array, ""], Metrics]:
        local = self._unravel(flat)
        losses = fold_lookups(objective.fn)(local, objective.frozen, examples.batch, self._key)
        check_loss(losses, examples.size)
        metrics = {"loss": losses, **objective.metrics(local, objective.frozen, examples.batch)}
        metrics = {name: mean.where(examples.mask).sum() for name, mean in metrics.items()}
        return metrics["loss"].total, metrics

    def _penalty(self, flat: Float[Array, "parameter"]) -> Any:
        return jnp.asarray(self._all.penalty(self._unravel(flat), self._all.frozen), flat.dtype)


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
