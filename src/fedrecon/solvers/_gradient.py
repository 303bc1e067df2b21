"""The library's only training loop: mini-batch gradient descent over one client's examples."""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.tree_util import KeyPath
from jaxtyping import Array, Bool, Int, PyTree

from fedrecon._kernels import rows, summed_gradients
from fedrecon._kernels.fold_lookups import fold_lookups
from fedrecon._kernels.gathered_rows import note_distinct
from fedrecon._kernels.optimizer_step import optimizer_step
from fedrecon._kernels.step_rows import counted, frozen_rows, with_ids, without
from fedrecon.core._costs import EXAMPLE_PASSES, GRADIENT_STEPS
from fedrecon.core._examples import Examples
from fedrecon.core._model import Objective, Table, check_loss, leaf_at, path_of, with_leaves
from fedrecon.core._random import fold_in
from fedrecon.core._state import stop_state_gradient, with_state
from fedrecon.core._tags import tagged
from fedrecon.core._types import Batch, Metrics, Number, Numbers, OptState, Params, PRNGKey, RoundNumber
from fedrecon.errors import store_whole_numbers
from fedrecon.solvers._local_solver import AbstractSolver
from fedrecon.solvers._minibatches import Steps, plan_steps
from fedrecon.solvers._optimizers import NamedOptimizer, describe
from fedrecon.solvers._sequential import sequentially
from fedrecon.solvers._state import state_change, without_empty_mask


@tagged("solver/gradient_descent", names={"adaptive_epochs": "growing_epochs", "sequential": "one_by_one"})
@dataclass(frozen=True, eq=False)
class Solver(AbstractSolver):
    """Mini-batch gradient descent with any Optax optimiser.

    The optimiser's state starts afresh at each call. Examples are taken in their own order, the paper's,
    in batches of which the last may be short; its loss is the mean over itself. A batch without a valid
    example changes nothing, the optimiser's state included. State of the model, such as the statistics of
    batch normalisation, has no gradient: after each step it is what a forward pass over the step's batch,
    under the parameters before the step, makes of it.

    Attributes:
        optimizer: The Optax transformation that turns gradients into updates.
        batch_size: Examples per step; None for all of them at once.
        epochs: The number of passes over the examples, at least 1; 1 by default.
        max_steps: Limit on the number of steps over all epochs; None, the default, for no limit.
        shuffle: Whether every epoch takes the examples in a new random order; False by default.
        reduction: Whether a step descends the `"mean"` of its batch's loss or the `"sum"`; `"mean"` by
            default.
        adaptive_epochs: Whether round r, counted from 1, makes min(r, `epochs`) passes: adaptive
            reconstruction; False by default.
        schedule: Factor on the updates as a function of the rounds done, for schedules over rounds; None, the
            default, for 1. (A schedule inside `optimizer` counts the steps of one call.)
        sequential: Whether clients of a block take this solver one after the other instead of side by side.
            Where every client changes large matrices of its own, a CPU multiplies them faster so. It changes
            the speed alone. An objective that closes over arrays cannot be fitted so: see `vectorized`. The
            default is False.

    Raises:
        ValueError: `batch_size`, `epochs`, `max_steps` or `reduction` is out of its range.
    """

    optimizer: optax.GradientTransformation
    batch_size: int | None
    epochs: int = 1
    max_steps: int | None = None
    shuffle: bool = False
    reduction: Literal["mean", "sum"] = "mean"
    adaptive_epochs: bool = False
    schedule: Callable[[Any], Any] | None = None
    sequential: bool = False

    def __post_init__(self) -> None:
        store_whole_numbers(self, 1, "epochs")
        store_whole_numbers(self, 1, "batch_size", "max_steps", optional=True)
        if self.reduction not in ("mean", "sum"):
            raise ValueError(f"reduction must be 'mean' or 'sum', got {self.reduction!r}")

    def __repr__(self) -> str:
        shown = [
            f"{f.name}={getattr(self, f.name)!r}"
            for f in fields(self)[1:]
            if getattr(self, f.name) != f.default
        ]
        return f"Solver({', '.join([describe(self.optimizer), *shown])})"

    def locality(self, params: Params, tables: Sequence[Table]) -> rows.Locality:
        """How finely tables among the parameters it fits may be cut into rows: see `rows.locality`."""
        if self._is_plain:
            return "step"  # known, and spared the second that the trial takes to compile
        return rows.locality(self.optimizer, params, tables)

    def takes_one_gradient(self) -> bool:
        """Whether it is plain gradient descent with a single batch of all examples."""
        return self._is_plain and self.batch_size is None and self.epochs == 1 and not self.sequential

    def cost(self, examples: Examples, round: RoundNumber | None = None) -> dict[str, Any]:
        """What a call with these examples takes: gradient steps and example passes, see `core._costs`."""
        taken = self.examples_per_step(examples, round)
        return {GRADIENT_STEPS: jnp.sum(taken > 0), EXAMPLE_PASSES: jnp.sum(taken)}

    def examples_per_step(self, examples: Examples, round: RoundNumber | None = None) -> Int[Array, "step"]:
        """How many examples each step of a call takes; 0 for one that is not made."""
        return jnp.sum(self._plan(examples, round, shuffle=False, key=None).valid, axis=1)

    def __call__(
        self,
        objective: Objective,
        params: Params,
        examples: Examples,
        key: PRNGKey,
        round: RoundNumber | None = None,
    ) -> tuple[Params, Metrics]:
        """Descends `objective` from `params`.

        Args:
            objective: The objective to minimise.
            params: The parameters from which the descent starts.
            examples: The client's examples, valid ones first.
            key: Random key for the order of the examples and for the loss.
            round: Rounds done before this one; None, the default, counts as the first.

        Returns:
            The last parameters, and the means over all steps taken.
        """
        new, _, touched, metrics = self._descend(objective, params, examples, key, round)
        added = {leaf: rows.add(leaf_at(params, leaf), ids, u) for leaf, (ids, u) in touched.items()}
        return with_leaves(new, added), metrics

    def solve_delta(
        self,
        objective: Objective,
        params: Params,
        examples: Examples,
        key: PRNGKey,
        round: RoundNumber | None = None,
    ) -> tuple[Params, dict[str, Any], Metrics]:
        """As a call, but the change of the parameters; of tables only the rows that it touched, if those are
        known before tracing.

        Returns:
            The change, in which such a table has `[step, id, ...]`; for these tables the rows' numbers,
            `[step, id]`, none twice but on padding; and the means.
        """
        _, change, touched, metrics = self._descend(objective, params, examples, key, round)
        delta = with_leaves(change, {leaf: updates for leaf, (_, updates) in touched.items()})
        return delta, {leaf: ids for leaf, (ids, _) in touched.items()}, metrics

    def replaces_state(self) -> bool:
        """True: every step replaces the state by what a forward pass over its batch makes of it."""
        return True

    def vectorized(self) -> "Solver":
        """The same without `sequential`."""
        return replace(self, sequential=False)

    def _descend(
        self,
        objective: Objective,
        params: Params,
        examples: Examples,
        key: PRNGKey,
        round: RoundNumber | None,
    ) -> tuple[Params, Params, dict[str, tuple[Any, Any]], Metrics]:
        """The last parameters and their change, but for tables whose updates are all made at the end.

        Of each of these the ids and the updates, both `[step, id, ...]`.
        """
        if not self.sequential:
            return self._steps(objective, params, examples, key, round)

        def alone(
            frozen: Params,
            params: Params,
            data: Batch,
            mask: Bool[Any, "example"],
            key: PRNGKey,
            round: RoundNumber | None,
        ) -> Any:
            own = Examples(data, mask, examples.positional)
            return self._steps(replace(objective, frozen=frozen), params, own, key, round)

        done = jnp.asarray(0 if round is None else round)
        return sequentially(alone)(objective.frozen, params, examples.data, examples.mask, key, done)

    def _steps(
        self,
        objective: Objective,
        params: Params,
        examples: Examples,
        key: PRNGKey,
        round: RoundNumber | None,
    ) -> tuple[Params, Params, dict[str, tuple[Any, Any]], Metrics]:
        k_order, k_loss = fold_in(key, 0) if self.shuffle else None, fold_in(key, 1)
        plan = self._plan(examples, round, self.shuffle, k_order)
        batches = plan.batches(examples)
        factor = 1.0 if self.schedule is None else self.schedule(0 if round is None else round)

        gathered, sliced, batches, known = frozen_rows(objective, batches)
        cut, batches, more = self._cut(objective, params, batches)
        known |= more
        count = examples.count()

        def given(step: tuple[Array, Examples, dict[str, Array], Array]) -> tuple[Any, ...]:
            """What `_value` takes of a step besides the parameters."""
            t, batch, frozen, share = step
            batch = Examples({**batch.data, **known}, batch.mask) if known else batch
            frozen = with_leaves(objective.frozen, frozen | {leaf: s.at(t) for leaf, s in sliced.items()})
            return frozen, batch, count, share, fold_in(k_loss, t)

        def descend(params: Params, opt_state: OptState, step: tuple[Any, ...]) -> Any:
            """One step's updates; `params` holds the batch's rows where tables are cut."""
            inputs = given(step)
            value = functools.partial(self._value, objective)
            taken = inputs[1].mask[0]  # valid rows come first
            if objective.state:
                filled = inputs[0], without_empty_mask(inputs[1]), *inputs[2:]
                grads, metrics = jax.grad(value, has_aux=True)(params, *filled)
                metrics = jax.tree.map(lambda x: jnp.where(taken, x, 0), metrics)
            else:
                grads, metrics = jax.grad(value, has_aux=True)(params, *inputs)
            updates, new_state = optimizer_step(self.optimizer, grads, opt_state, params)
            updates = jax.tree.map(lambda u: jnp.where(taken, u * factor, 0).astype(u.dtype), updates)
            if objective.state:
                frozen, batch, _, _, k_step = inputs
                change = state_change(objective, params, frozen, batch, k_step)
                updates = with_state(updates, objective.state, change)
            return updates, jax.tree.map(lambda a, b: jnp.where(taken, a, b), new_state, opt_state), metrics

        # What a mean over its examples multiplies each one with, of all steps at once.
        shares = 1 / jnp.maximum(jnp.sum(plan.valid, 1, dtype=float), 1)
        xs = (jnp.arange(plan.valid.shape[0]), batches, gathered, shares)
        opt_state = self.optimizer.init(params)
        if plan.in_order and _commute(params, opt_state, cut):
            new, change, touched, metrics = _at_once(descend, params, opt_state, xs, cut)
        elif plan.valid.shape[0] == 1 and not cut:
            new, change, touched, metrics = _single(descend, params, opt_state, xs)
            if summed_gradients.is_collecting() and self._is_plain and not objective.state:
                self._note(change, objective, params, given(jax.tree.map(lambda x: x[0], xs)), factor)
        else:
            new, change, touched, metrics = _in_turn(descend, params, opt_state, xs, cut)
        return new, change, touched, {name: mean.sum() for name, mean in metrics.items()}

    @property
    def _is_plain(self) -> bool:
        """Whether the optimiser multiplies the gradient with a number and does nothing else."""
        return isinstance(self.optimizer, NamedOptimizer) and self.optimizer.plain

    def _note(
        self,
        change: Params,
        objective: Objective,
        params: Params,
        inputs: tuple[Params, Examples, Number, Number, PRNGKey],
        factor: Number,
    ) -> None:
        """Notes for `summed_gradients` how a single step of plain gradient descent made `change`."""
        step = summed_gradients.step(
            lambda params, *inputs: self._value(objective, params, *inputs)[0],
            params,
            inputs,
            lambda gradient: optimizer_step(self.optimizer, gradient, self.optimizer.init(params), params)[0],
            jnp.where(inputs[1].mask[0], factor, 0),
        )
        if step is not None:
            summed_gradients.note(change, step)

    def _plan(
        self, examples: Examples, round: RoundNumber | None, shuffle: bool, key: PRNGKey | None
    ) -> Steps:
        passes: Any = self.epochs
        if self.adaptive_epochs:
            passes = jnp.minimum((0 if round is None else round) + 1, self.epochs)
        return plan_steps(examples, self.batch_size, self.epochs, passes, self.max_steps, shuffle, key)

    def _value(
        self,
        objective: Objective,
        params: Params,
        frozen: Params,
        batch: Examples,
        count: Number,
        share: Number,
        key: PRNGKey,
    ) -> Any:
        """A step's objective: the batch's loss, and its share, by examples, of the solver's penalty."""
        if objective.state:
            params = stop_state_gradient(params, objective.state)
        losses, metrics = fold_lookups(objective.measure)(params, frozen, batch.batch, key)
        check_loss(losses, batch.size)
        metrics = {"loss": losses, **metrics}
        metrics = {name: mean.where(batch.mask).sum() for name, mean in metrics.items()}
        loss = metrics["loss"]
        value = loss.total
        penalty = objective.penalty(params, frozen)
        if not (isinstance(penalty, (int, float)) and penalty == 0):
            value = value + penalty * jnp.sum(batch.mask) / jnp.maximum(count, 1)
        if self.reduction == "mean":
            # Where a loss is known to count its examples, no step of a loop has to do so again.
            counts = isinstance(losses.weight, np.ndarray) and np.all(losses.weight == 1)
            value = (
                value * jnp.asarray(share, value.dtype)
                if counts
                else value / jnp.where(loss.weight == 0, 1, loss.weight)
            )
        return value, metrics

    def _cut(
        self, objective: Objective, params: Params, batches: Examples
    ) -> tuple[list["_Cut"], Examples, dict[str, Any]]:
        """The tables of which a step sees its batch's rows alone, and the batches with ids to match."""
        cut: list[_Cut] = []
        known: dict[str, Any] = {}
        if not objective.tables or self.locality(params, objective.tables) != "step":
            return cut, batches, known
        for group in rows.groups(objective.tables):
            ids = rows.step_ids(batches, group)
            if ids.shape[1] >= rows.num_rows(params, group):
                continue
            apart = rows.distinct(batches, group)
            if apart:
                known |= counted(batches, group)
                ids = rows.without_padding(ids, batches, rows.num_rows(params, group))
            else:
                batches = with_ids(batches, group, jax.vmap(rows.first_occurrence)(jnp.asarray(ids)))
            cut += [_Cut(leaf, ids, apart) for leaf in group.leaves]
        return cut, without(batches, known), known


class _Cut(NamedTuple):
    """A table of which a step sees the rows `ids`, `[step, id]`; `apart` if none comes twice in a pass."""

    leaf: str
    ids: Any
    apart: bool


def _commute(params: Params, opt_state: OptState, cut: list[_Cut]) -> bool:
    """Whether no step reads what another one writes, so that all can be made at once.

    So it is where all parameters are rows, no row comes in two batches, and nothing else is carried from
    step to step.
    """
    all_cut = bool(cut) and len(jax.tree.leaves(params)) == len(cut)
    return all_cut and all(c.apart for c in cut) and not jax.tree.leaves(opt_state)


def _at_once(
    descend: Callable[..., Any], params: Params, opt_state: OptState, xs: PyTree, cut: list[_Cut]
) -> tuple[Params, Params, dict[str, tuple[Any, Any]], Metrics]:
    """All steps side by side, where none reads what another one writes: see `_commute`."""
    batch_rows = {c.leaf: rows.take(leaf_at(params, c.leaf), c.ids) for c in cut}
    updates, _, metrics = jax.vmap(lambda r, x: descend(with_leaves(params, r), opt_state, x))(batch_rows, xs)
    touched = {c.leaf: (c.ids, leaf_at(updates, c.leaf)) for c in cut}
    for c in cut:
        note_distinct(c.ids)
    return params, jax.tree.map(jnp.zeros_like, params), touched, metrics


def _single(
    descend: Callable[..., Any], params: Params, opt_state: OptState, xs: PyTree
) -> tuple[Params, Params, dict[str, tuple[Any, Any]], Metrics]:
    """The only step, on whole tables.

    Its updates are the change: nothing is rounded, and whole tables are passed over less often.
    """
    change, _, metrics = descend(params, opt_state, jax.tree.map(lambda x: x[0], xs))
    metrics = jax.tree.map(lambda x: x[None], metrics)
    return jax.tree.map(jnp.add, params, change), change, {}, metrics


def _in_turn(
    descend: Callable[..., Any], params: Params, opt_state: OptState, xs: PyTree, cut: list[_Cut]
) -> tuple[Params, Params, dict[str, tuple[Any, Any]], Metrics]:
    """One step after the other; of tables that are cut, each sees its batch's rows alone."""

    def step(carry: tuple[Params, OptState], x: tuple[dict[str, Array], PyTree]) -> Any:
        params, opt_state = carry
        ids, one = x
        batch_rows = {leaf: leaf_at(params, leaf)[i] for leaf, i in ids.items()}
        updates, opt_state, metrics = descend(with_leaves(params, batch_rows), opt_state, one)
        return (_added(params, updates, ids), opt_state), metrics

    ids = {c.leaf: jnp.asarray(c.ids) for c in cut}
    (new, _), metrics = jax.lax.scan(step, (params, opt_state), (ids, xs))
    return new, jax.tree.map(jnp.subtract, new, params), {}, metrics


def _added(params: Params, updates: Params, ids: dict[str, Any]) -> Params:
    """`params + updates`, where tables that were cut get their updates at the rows `ids`."""

    def leaf(path: KeyPath, x: Numbers, u: Numbers) -> Any:
        name = path_of(path)
        return x.at[ids[name]].add(u) if name in ids else x + u

    return jax.tree_util.tree_map_with_path(leaf, params, updates)
