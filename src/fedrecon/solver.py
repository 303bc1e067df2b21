"""The library's only training loop: mini-batch gradient descent over one client's examples."""

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any, Literal, Protocol

import jax
import jax.numpy as jnp
import optax

from . import rows
from .data import Examples
from .model import Objective, Params, check_loss, with_leaves
from .optimizers import describe
from .stats import Mean
from .steps import plan_steps

Metrics = dict[str, Mean]


class Stage(Protocol):
    """Fits the parameters of an objective to examples: `Solver`, `Newton`, or a function of one's own.

    It returns the fitted parameters and the means of the loss (`"loss"`) and of the objective's metrics,
    every prediction made before the step that its batch took. A stage that has a method `locality` as
    `Solver` has may be given rows instead of tables.
    """

    def __call__(
        self, objective: Objective, params: Params, examples: Examples, key: Any, round: Any = None
    ) -> tuple[Params, Metrics]: ...


@dataclass(frozen=True, eq=False)
class Solver:
    """Mini-batch gradient descent with any Optax optimiser.

    The optimiser's state starts afresh at each call. Examples are taken in their own order, the paper's,
    in batches of which the last may be short; its loss is the mean over itself. A batch without a valid
    example changes nothing, the optimiser's state included.

    Attributes:
        optimizer: Optax transformation.
        batch_size: Examples per step; None for all of them at once.
        epochs: Passes over the examples.
        max_steps: Limit on the number of steps over all epochs; None for no limit.
        shuffle: Whether every epoch takes the examples in a new random order.
        reduction: Whether a step descends the `"mean"` of its batch's loss or the `"sum"`.
        growing_epochs: Whether round r, counted from 1, makes min(r, `epochs`) passes: adaptive
            reconstruction.
        schedule: Factor on the updates as a function of the rounds done, for schedules over rounds; None
            for 1. (A schedule inside `optimizer` counts the steps of one call.)

    Raises:
        ValueError: A number is out of its range.
    """

    optimizer: optax.GradientTransformation
    batch_size: int | None
    epochs: int = 1
    max_steps: int | None = None
    shuffle: bool = False
    reduction: Literal["mean", "sum"] = "mean"
    growing_epochs: bool = False
    schedule: Callable[[Any], Any] | None = None

    def __post_init__(self) -> None:
        for name, optional in (("batch_size", True), ("epochs", False), ("max_steps", True)):
            value = getattr(self, name)
            if not (optional and value is None) and not (isinstance(value, int) and value >= 1):
                raise ValueError(f"{name} must be a whole number of at least 1, got {value!r}")
        if self.reduction not in ("mean", "sum"):
            raise ValueError(f"reduction must be 'mean' or 'sum', got {self.reduction!r}")

    def __repr__(self) -> str:
        shown = [f"{f.name}={getattr(self, f.name)!r}" for f in fields(self)[1:] if getattr(self, f.name) != f.default]
        return f"Solver({', '.join([describe(self.optimizer), *shown])})"

    def locality(self, params: Params, tables: Any) -> rows.Locality:
        """How finely tables among the parameters it fits may be cut into rows: see `rows.locality`."""
        return rows.locality(self.optimizer, params, tables)

    def __call__(
        self, objective: Objective, params: Params, examples: Examples, key: Any, round: Any = None
    ) -> tuple[Params, Metrics]:
        """Descends `objective` from `params`.

        Args:
            objective: What is minimised.
            params: Where to start.
            examples: The client's, valid ones first.
            key: For the order of the examples and for the loss.
            round: Rounds done before this one; None counts as the first.

        Returns:
            The last parameters, and the means over all steps taken.
        """
        k_order, k_loss = jax.random.split(key)
        passes = self.epochs
        if self.growing_epochs:
            passes = jnp.minimum((0 if round is None else round) + 1, self.epochs)
        plan = plan_steps(examples, self.batch_size, self.epochs, passes, self.max_steps, self.shuffle, k_order)
        batches = plan.batches(examples)
        factor = 1.0 if self.schedule is None else self.schedule(0 if round is None else round)

        frozen_rows, batches = _frozen_rows(objective, batches)
        cut = rows.groups(objective.tables) if self._cuts(objective, params) else ()
        cut = tuple(g for g in cut if _num_ids(batches, g) < rows.num_rows(params, g))
        ids = tuple(_ids(batches, g) for g in cut)
        for group, i in zip(cut, ids, strict=True):
            first = jnp.arange(i.shape[1]) if _distinct(batches, group) else jax.vmap(rows.first_occurrence)(i)
            batches = _renumbered(batches, group, first)
        count = examples.count()

        def descend(params: Params, opt_state: Any, step: Any) -> Any:
            """One step's updates: of the rows alone where tables are cut."""
            t, batch, ids, frozen = step
            frozen = with_leaves(objective.frozen, frozen)
            for group, i in zip(cut, ids, strict=True):
                params = rows.gather(params, group, i)
            value = lambda p: self._value(objective, p, frozen, batch, count, jax.random.fold_in(k_loss, t))
            grads, metrics = jax.grad(value, has_aux=True)(params)
            updates, new_state = self.optimizer.update(grads, opt_state, params)
            taken = batch.mask[0]  # valid rows come first
            updates = jax.tree.map(lambda u: jnp.where(taken, u * factor, 0), updates)
            return updates, jax.tree.map(lambda a, b: jnp.where(taken, a, b), new_state, opt_state), metrics

        def apply(params: Params, updates: Params, ids: Any) -> Params:
            where = {leaf: i for group, i in zip(cut, ids, strict=True) for leaf in group.leaves}
            return rows.add(params, updates, where)

        xs = (jnp.arange(plan.valid.shape[0]), batches, ids, frozen_rows)
        opt_state = self.optimizer.init(params)
        if plan.in_order and cut and self._commutes(objective, params, opt_state, batches, cut):
            updates, _, metrics = jax.vmap(lambda step: descend(params, opt_state, step))(xs)
            flat = jax.tree.map(lambda u: u.reshape(-1, *u.shape[2:]), updates)
            params = apply(params, flat, tuple(i.reshape(-1) for i in ids))
        else:

            def step(carry: Any, x: Any) -> Any:
                params, opt_state = carry
                updates, opt_state, metrics = descend(params, opt_state, x)
                return (apply(params, updates, x[2]), opt_state), metrics

            (params, _), metrics = jax.lax.scan(step, (params, opt_state), xs)
        return params, {name: mean.sum() for name, mean in metrics.items()}

    def _value(self, objective: Objective, params: Params, frozen: Params, batch: Examples, count: Any, key: Any) -> Any:
        """A step's objective: the batch's loss, and its share, by examples, of the stage's penalty."""
        losses = objective.fn(params, frozen, batch.data, key)
        check_loss(losses, batch.size)
        metrics = {"loss": losses, **objective.metrics(params, frozen, batch.data)}
        metrics = {name: mean.where(batch.mask).sum() for name, mean in metrics.items()}
        loss = metrics["loss"]
        value = loss.total
        penalty = objective.penalty(params, frozen)
        if not (isinstance(penalty, (int, float)) and penalty == 0):
            value = value + penalty * jnp.sum(batch.mask) / jnp.maximum(count, 1)
        if self.reduction == "mean":
            value = value / jnp.where(loss.weight == 0, 1, loss.weight)
        return value, metrics

    def _cuts(self, objective: Objective, params: Params) -> bool:
        """Whether a step may see its batch's rows instead of the tables."""
        return bool(objective.tables) and self.locality(params, objective.tables) == "step"

    def _commutes(self, objective: Objective, params: Params, opt_state: Any, batches: Examples, cut: Any) -> bool:
        """Whether no step reads what another one writes, so that all can be made at once.

        So it is where all parameters are rows, no row comes in two batches, and nothing else is carried
        from step to step.
        """
        all_rows = len(jax.tree.leaves(params)) == sum(len(g.leaves) for g in cut)
        return all_rows and not jax.tree.leaves(opt_state) and all(_distinct(batches, g) for g in cut)


def _frozen_rows(objective: Objective, batches: Examples) -> tuple[dict[str, Any], Examples]:
    """The rows of the frozen tables that every step reads, gathered for all steps at once."""
    found: dict[str, Any] = {}
    for group in rows.groups(objective.frozen_tables):
        ids = _ids(batches, group)
        for name in group.leaves:
            found[name] = rows.leaf_at(objective.frozen, name)[ids]
        batches = _renumbered(batches, group, jnp.arange(ids.shape[1]))
    return found, batches


def _ids(batches: Examples, group: rows.Group) -> Any:
    return jax.vmap(lambda data: rows.ids_of(data, group))(batches.data)


def _num_ids(batches: Examples, group: rows.Group) -> int:
    return jax.eval_shape(lambda: _ids(batches, group)).shape[1]


def _renumbered(batches: Examples, group: rows.Group, ids: Any) -> Examples:
    axis = None if ids.ndim == 1 else 0
    data = jax.vmap(lambda d, i: rows.renumbered(d, group, i), (0, axis))(batches.data, ids)
    return Examples(data, batches.mask, batches.distinct)


def _distinct(batches: Examples, group: rows.Group) -> bool:
    """Whether the host knows that no row comes twice among a client's examples."""
    return len(group.fields) == 1 and group.fields[0] in batches.distinct
