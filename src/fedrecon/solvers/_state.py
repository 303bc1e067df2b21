"""Lets any solver fit an objective with state, such as the statistics of batch normalisation."""

from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp

from fedrecon.core._examples import Examples
from fedrecon.core._model import Objective, Table
from fedrecon.core._partition import merge
from fedrecon.core._state import only_state, without_state
from fedrecon.core._types import Batch, Metrics, Number, Params, PRNGKey, RoundNumber, Rows
from fedrecon.solvers._local_solver import AbstractSolver, LocalSolver, as_solver


def for_state(solver: LocalSolver, objective: Objective) -> AbstractSolver:
    """The solver, in a form that replaces the state of an objective.

    A solver that does not so itself fits the other parameters with the state held as it is; then the state
    after one forward pass over all examples, under the parameters before the fit, takes its place.

    Args:
        solver: The solver.
        objective: The objective that is to be fitted.
    """
    own = as_solver(solver)
    return own if not objective.state or own.replaces_state() else _StateHeld(own)


@dataclass(frozen=True)
class _StateHeld(AbstractSolver):
    """A solver that is given the parameters alone, before the state is replaced once.

    Attributes:
        solver: The solver that fits the parameters.
    """

    solver: AbstractSolver

    def __call__(
        self,
        objective: Objective,
        params: Params,
        examples: Examples,
        key: PRNGKey,
        round: RoundNumber | None = None,
    ) -> tuple[Params, Metrics]:
        trained, state = _apart(objective, params)
        new, metrics = self.solver(_held(objective, state), trained, examples, key, round)
        change = state_change(objective, params, objective.frozen, examples, key)
        return merge(new, jax.tree.map(jnp.add, state, change)), metrics

    def solve_delta(
        self,
        objective: Objective,
        params: Params,
        examples: Examples,
        key: PRNGKey,
        round: RoundNumber | None = None,
    ) -> tuple[Params, Rows, Metrics]:
        trained, state = _apart(objective, params)
        delta, rows, metrics = self.solver.solve_delta(_held(objective, state), trained, examples, key, round)
        change = state_change(objective, params, objective.frozen, examples, key)
        return merge(delta, change), rows, metrics

    def replaces_state(self) -> bool:
        return True

    def cost(self, examples: Examples, round: RoundNumber | None = None) -> dict[str, Number]:
        return self.solver.cost(examples, round)


def state_change(
    objective: Objective, params: Params, frozen: Params, examples: Examples, key: PRNGKey
) -> Params:
    """The change of the state by a forward pass over a batch, zeros if the batch has no valid example.

    Args:
        objective: The objective, with state.
        params: The parameters before the pass.
        frozen: The parameters that stay unchanged.
        examples: The batch, valid examples first.
        key: The random key that the loss of the same step was given.

    Returns:
        New minus old, with None in place of what is no state.
    """
    assert objective.next_state is not None, "an objective with state computes the next one"
    old = only_state(params, objective.state)
    batch = without_empty_mask(examples).batch
    new = only_state(objective.next_state(params, frozen, batch, key), objective.state)
    some = examples.mask[0]  # valid rows come first
    return jax.tree.map(lambda a, b: jnp.where(some, a - b, 0).astype(b.dtype), new, old)


def without_empty_mask(examples: Examples) -> Examples:
    """The examples, all of which are taken to be valid where none is.

    What is computed of padding alone is thrown away, but its derivative must be finite all the same, and a
    layer that normalises a batch may divide by the number of its valid examples.
    """
    return replace(examples, mask=examples.mask | ~examples.mask[0])


def _apart(objective: Objective, params: Params) -> tuple[Params, Params]:
    """The parameters without the state, and the state."""
    return without_state(params, objective.state), only_state(params, objective.state)


def _held(objective: Objective, state: Params) -> Objective:
    """The objective as a function of what is no state, with the state among the frozen parameters.

    Among them and not closed over, since a solver may differentiate by frozen parameters.
    """
    both = objective.both

    def measure(params: Params, frozen: Params, batch: Batch, key: PRNGKey) -> Any:
        assert both is not None, "the objective measures both at once"
        return both(merge(params, frozen[1]), frozen[0], batch, key)

    return replace(
        objective,
        fn=lambda params, frozen, batch, key: objective.fn(merge(params, frozen[1]), frozen[0], batch, key),
        frozen=(objective.frozen, state),
        frozen_tables=tuple(Table(f"0/{t.leaf}", t.fields) for t in objective.frozen_tables),
        penalty=lambda params, frozen: objective.penalty(merge(params, frozen[1]), frozen[0]),
        metrics=lambda params, frozen, batch: objective.metrics(merge(params, frozen[1]), frozen[0], batch),
        both=both and measure,
        state=(),
        next_state=None,
    )


def check_no_state(objective: Objective, solver: object) -> None:
    """Raises ValueError for an objective with state, for solvers that would take state for parameters."""
    if objective.state:
        raise ValueError(
            f"{solver!r} fits no state, but the objective has {objective.state}; call the solver through "
            "fedrecon.solvers.for_state(solver, objective)"
        )
