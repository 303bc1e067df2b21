"""All that an algorithm knows of a model: pure functions of global and local parameters."""

from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp

from fedrecon.core._mean import Mean
from fedrecon.core._model_functions import (
    InitGlobalFn,
    InitLocalFn,
    LossAndMetricsFn,
    LossFn,
    MetricsFn,
    ObjectiveLossAndMetricsFn,
    ObjectiveLossFn,
    ObjectiveMetricsFn,
    ObjectivePenaltyFn,
    PenaltyFn,
    PredictFn,
)
from fedrecon.core._types import Batch, Params, PRNGKey
from fedrecon.errors import did_you_mean


@dataclass(frozen=True, eq=False)
class Table:
    """An embedding table among the global leaves, of which a client touches few rows.

    Declaring one changes the speed and the count of bytes, never the numbers.

    Attributes:
        leaf: Path of the leaf `[row, ...]` in the global parameters, for instance `"item/factors"`.
        fields: Batch fields that index its rows *and are used for nothing else* in the model's functions.
    """

    leaf: str
    fields: tuple[str, ...]

    def __post_init__(self) -> None:
        if isinstance(self.fields, str):
            raise TypeError(
                f"fields must be a tuple of names, such as ({self.fields!r},), got {self.fields!r}"
            )


def _no_penalty(global_params: Params, local_params: Params, /) -> float:
    return 0.0


@dataclass(frozen=True, eq=False, kw_only=True)
class Model:
    """A partially local model: a record of pure functions, each with a `Protocol` that says what it promises.

    Attributes:
        init_global: A function `key -> global_params` that draws the global parameters before the first
            round.
        init_local: `(global_params, key) -> local_params`. It sees the global parameters, so that "start
            from a copy of them" is one case of it.
        loss: `(global_params, local_params, batch, key) -> Mean`, one entry per example.
        metrics: `(global_params, local_params, batch) -> dict of Mean`, one entry per example.
        predict: `(global_params, local_params, features) -> predictions`: serving and export. None if the
            model is only trained and evaluated.
        penalty: `(global_params, local_params) -> scalar`, added to the *sum* of the loss over a solver's
            examples. It must not read a leaf that is declared as a table: what belongs to a table's rows
            goes into the loss of the examples that touch them.
        tables: Embedding tables among the global leaves.
        local_tables: Embedding tables among the local leaves, as a copy of global ones has them. They share
            no field with `tables`.
        loss_and_metrics: `(global_params, local_params, batch, key) -> (Mean, dict of Mean)`: what a step
            measures, for a model whose loss and metrics share work that a compiler does not find, or that
            measures less while it is trained. None for `loss` and `metrics`.
        frozen: Paths of leaves, or of what they lie below, that get no gradient on purpose, in the model's
            parameters taken together, `(global_params, local_params)`: `"0/embedding"` is a global one. The
            functions must stop the gradient there, as those that `partition` makes do. A leaf without a
            gradient that is not declared so is warned about.
        origin: The model that this one is a view of; None for a model that is no view.
    """

    init_global: InitGlobalFn
    init_local: InitLocalFn
    loss: LossFn
    metrics: MetricsFn
    predict: PredictFn | None = None
    penalty: PenaltyFn = _no_penalty
    tables: tuple[Table, ...] = ()
    local_tables: tuple[Table, ...] = ()
    loss_and_metrics: LossAndMetricsFn | None = None
    frozen: tuple[str, ...] = ()
    origin: "Model | None" = None


def origin_of(model: Model) -> Model:
    """The model that a model is a view of; itself if it is no view."""
    return model if model.origin is None else model.origin


@dataclass(frozen=True, eq=False)
class Objective:
    """A model's loss as a function of the parameters that a solver fits.

    Attributes:
        fn: `(params, frozen, batch, key) -> Mean`, one entry per example.
        frozen: The parameters that stay as they are.
        tables: Tables among the leaves of `params`.
        frozen_tables: Tables among the leaves of `frozen`.
        penalty: `(params, frozen) -> scalar`, added to the sum of the loss over the solver's examples.
        metrics: `(params, frozen, batch) -> dict of Mean`, one entry per example.
        both: `(params, frozen, batch, key) -> (Mean, dict of Mean)`: `fn` and metrics in one; None where they
            share nothing.
    """

    fn: ObjectiveLossFn
    frozen: Params = ()
    tables: tuple[Table, ...] = ()
    frozen_tables: tuple[Table, ...] = ()
    penalty: ObjectivePenaltyFn = _no_penalty
    metrics: ObjectiveMetricsFn = lambda params, frozen, batch: {}
    both: ObjectiveLossAndMetricsFn | None = None

    def measure(self, params: Params, frozen: Params, batch: Batch, key: PRNGKey) -> tuple[Any, Any]:
        """The loss and the metrics of a batch, as the functions give them."""
        if self.both is not None:
            return self.both(params, frozen, batch, key)
        return self.fn(params, frozen, batch, key), self.metrics(params, frozen, batch)


def on_local(model: Model, global_params: Params) -> Objective:
    """The loss as a function of the local parameters, the global ones frozen."""
    both = model.loss_and_metrics
    return Objective(
        fn=lambda local, frozen, batch, key: model.loss(frozen, local, batch, key),
        frozen=global_params,
        tables=model.local_tables,
        frozen_tables=model.tables,
        penalty=lambda local, frozen: model.penalty(frozen, local),
        metrics=lambda local, frozen, batch: model.metrics(frozen, local, batch),
        both=both and (lambda local, frozen, batch, key: both(frozen, local, batch, key)),
    )


def on_global(model: Model, local_params: Params) -> Objective:
    """The loss as a function of the global parameters, the local ones frozen."""
    return Objective(
        fn=model.loss,
        frozen=local_params,
        tables=model.tables,
        frozen_tables=model.local_tables,
        penalty=model.penalty,
        metrics=model.metrics,
        both=model.loss_and_metrics,
    )


def on_both(model: Model) -> Objective:
    """The loss as a function of `(global_params, local_params)`."""
    both = model.loss_and_metrics
    return Objective(
        fn=lambda params, _, batch, key: model.loss(params[0], params[1], batch, key),
        tables=_below("0", model.tables) + _below("1", model.local_tables),
        penalty=lambda params, _: model.penalty(params[0], params[1]),
        metrics=lambda params, _, batch: model.metrics(params[0], params[1], batch),
        both=both and (lambda params, _, batch, key: both(params[0], params[1], batch, key)),
    )


def fully_global(model: Model) -> Model:
    """The view in which the server holds the local parameters too, one value shared by all clients.

    Its global parameters are `(global_params, local_params)` and it has no local ones.
    """

    def init_global(key: PRNGKey) -> Params:
        k_global, k_local = jax.random.split(key)
        global_params = model.init_global(k_global)
        return global_params, model.init_local(global_params, k_local)

    predict, both = model.predict, model.loss_and_metrics
    return Model(
        init_global=init_global,
        init_local=lambda params, key: (),
        loss=lambda params, _, batch, key: model.loss(params[0], params[1], batch, key),
        metrics=lambda params, _, batch: model.metrics(params[0], params[1], batch),
        predict=predict and (lambda params, _, features: predict(params[0], params[1], features)),
        penalty=lambda params, _: model.penalty(params[0], params[1]),
        tables=_below("0", model.tables) + _below("1", model.local_tables),
        loss_and_metrics=both and (lambda params, _, batch, key: both(params[0], params[1], batch, key)),
        origin=origin_of(model),
    )


def personal_copy(model: Model, part: tuple[str, ...] | None = None) -> Model:
    """The view in which every client has a copy of its own of the global parameters, or of a part of them.

    Its local parameters are `(copy, local_params)`, where `copy` is the global parameters with None for
    what is not copied; they start from the server's values. Tables that are copied go along.

    Args:
        model: The model to copy.
        part: Paths of the global leaves that are copied, or of what they lie below; None for all.

    Raises:
        ValueError: `part` is empty or names a path that no global leaf has.
    """
    if part is not None:
        check_part(part, model)

    def own(path: str) -> bool:
        return part is None or any(path == p or path.startswith(p + "/") for p in part)

    def copied(params: Params) -> Params:
        return jax.tree_util.tree_map_with_path(lambda p, x: x if own(path_of(p)) else None, params)

    def merged(params: Params, copy: Params) -> Params:
        return jax.tree.map(lambda x, c: x if c is None else c, params, copy, is_leaf=lambda x: x is None)

    predict, both = model.predict, model.loss_and_metrics
    tables = tuple(t for t in model.tables if not own(t.leaf))
    copies = _below("1", model.local_tables) + _below("0", tuple(t for t in model.tables if own(t.leaf)))
    if {f for t in tables for f in t.fields} & {f for t in copies for f in t.fields}:
        tables = copies = ()  # a field cannot be renumbered for tables of two trees
    return Model(
        init_global=model.init_global,
        init_local=lambda params, key: (copied(params), model.init_local(params, key)),
        loss=lambda g, x, batch, key: model.loss(merged(g, x[0]), x[1], batch, key),
        metrics=lambda g, x, batch: model.metrics(merged(g, x[0]), x[1], batch),
        predict=predict and (lambda g, x, features: predict(merged(g, x[0]), x[1], features)),
        penalty=lambda g, x: model.penalty(merged(g, x[0]), x[1]),
        tables=tables,
        local_tables=copies,
        loss_and_metrics=both and (lambda g, x, batch, key: both(merged(g, x[0]), x[1], batch, key)),
        origin=origin_of(model),
    )


def without_tables(model: Model) -> Model:
    """The same model with its tables dense."""
    return replace(model, tables=(), local_tables=(), origin=origin_of(model))


def _below(prefix: str, tables: tuple[Table, ...]) -> tuple[Table, ...]:
    return tuple(Table(f"{prefix}/{t.leaf}", t.fields) for t in tables)


def check_part(part: tuple[str, ...], model: Model) -> None:
    """Refuses paths that no global leaf of a model has.

    Raises:
        ValueError: Naming the path and the leaves there are.
    """
    names = leaves_of(jax.eval_shape(model.init_global, jax.random.key(0)))
    if isinstance(part, str) or not part:
        raise ValueError(f"part must be a tuple of paths of global leaves, {sorted(names)}, got {part!r}")
    for path in part:
        if not any(name == path or name.startswith(path + "/") for name in names):
            raise ValueError(
                f"part names the path {path!r}, but the global parameters have {sorted(names)}"
                f"{did_you_mean(path, names)}"
            )


def path_of(path: tuple[Any, ...]) -> str:
    """A leaf's path as it is written in this library: `"item/factors"`, `"layers/2/kernel"`."""
    return jax.tree_util.keystr(path, simple=True, separator="/")


def leaves_of(params: Params) -> dict[str, Any]:
    """All leaves by their paths."""
    return {path_of(path): x for path, x in jax.tree_util.tree_leaves_with_path(params)}


def leaf_at(params: Params, name: str) -> Any:
    """The leaf at a path.

    Raises:
        ValueError: No leaf has that path; the message names those there are.
    """
    leaves = leaves_of(params)
    if name not in leaves:
        raise ValueError(
            f"tables names the leaf {name!r}, but the global parameters have {sorted(leaves)}"
            f"{did_you_mean(name, leaves)}"
        )
    return leaves[name]


def with_leaves(params: Params, new: dict[str, Any]) -> Params:
    """`params` with the leaves at some paths replaced."""
    return jax.tree_util.tree_map_with_path(lambda p, x: new.get(path_of(p), x), params)


def check_loss(mean: object, examples: int) -> None:
    """Holds what a model's `loss` returns, arrays or shapes of arrays, to its contract.

    Raises:
        TypeError: The loss is not a `Mean`.
        ValueError: The loss does not have one entry per example.
    """
    if not isinstance(mean, Mean):
        raise TypeError(
            f"a model's loss must return a Mean with one entry per example, got {type(mean).__name__}"
        )
    for name in ("total", "weight"):
        shape = jnp.shape(getattr(mean, name))
        if shape != (examples,):
            raise ValueError(
                f"a model's loss must return a Mean with one entry per example, {name} of shape "
                f"({examples},); got {shape}. Return the sum over an example's parts as its total"
            )
