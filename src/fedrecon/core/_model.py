"""Models as records of pure functions of global and local parameters, and views of them."""

from dataclasses import dataclass, field, replace
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
    NextStateFn,
    ObjectiveLossAndMetricsFn,
    ObjectiveLossFn,
    ObjectiveMetricsFn,
    ObjectiveNextStateFn,
    ObjectivePenaltyFn,
    OutputLayerFn,
    PenaltyFn,
    PredictFn,
)
from fedrecon.core._state import path_of as path_of
from fedrecon.core._state import state_leaves, state_within, with_state
from fedrecon.core._types import Batch, Params, PRNGKey
from fedrecon.errors import did_you_mean


@dataclass(frozen=True, eq=False)
class Table:
    """An embedding table among the global leaves, of which a client touches few rows.

    Declaring a table changes the speed and the count of bytes, never the numbers.

    Attributes:
        leaf: Path of the leaf `[row, ...]` in the global parameters, for instance `"item/factors"`.
        fields: Names of the batch fields that index the table's rows *and are used for nothing else* in the
            model's functions.
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
    """A partially local model: a record of pure functions, each of which a `Protocol` describes.

    Attributes:
        init_global: Draws the global parameters before the first round, `key -> global_params`.
        init_local: Draws a client's local parameters, `(global_params, key) -> local_params`; they may be a
            copy of global ones.
        loss: Measures the loss of a batch, `(global_params, local_params, batch, key) -> Mean`, with one
            entry per example.
        metrics: Measures the metrics of a batch, `(global_params, local_params, batch) -> dict of Mean`, each
            with one entry per example.
        predict: Predicts, for serving and export, `(global_params, local_params, features) -> predictions`;
            None, the default, for a model that is only trained and evaluated.
        penalty: Measures a penalty, `(global_params, local_params) -> scalar`, which is added to the *sum* of
            the loss over a solver's examples; by default 0. It must not read a leaf that is declared as a
            table: a term on a table's rows belongs to the loss of the examples that touch them.
        tables: The embedding tables among the global leaves; none by default.
        local_tables: The embedding tables among the local leaves, as a copy of global ones has them; none by
            default. They share no field with `tables`.
        loss_and_metrics: Measures loss and metrics in a training step at once, `(global_params, local_params,
            batch, key) -> (Mean, dict of Mean)`: for a model whose loss and metrics share work that a
            compiler does not find, or that measures fewer metrics in training. None, the default, for `loss`
            and `metrics`.
        frozen: Paths of leaves, or of what they lie below, that get no gradient on purpose, in the model's
            parameters taken together, `(global_params, local_params)`: `"0/embedding"` is a global one. The
            functions must stop the gradient there, as those that `partition` makes do; a leaf without a
            gradient that is not declared so causes a warning. None by default.
        state: Paths of leaves, or of what they lie below, that a forward pass changes, in the pair
            `(global_params, local_params)`, such as the statistics of batch normalisation. They have no
            gradient. State among the global leaves is averaged over the clients, and sent, clipped and noised
            with them; state among the local ones stays on the client. None by default.
        next_state: Computes the state after a forward pass, `(global_params, local_params, batch, key) ->
            (global_params, local_params)`; None, the default, for a model without `state`.
        output_layer: Computes the inputs, the matrix and the bias of a linear output layer, whose product
            `predict` returns, `(global_params, local_params, features) -> (inputs, kernel, bias)`, for what a
            client learns of its scores when it is served; None, the default, for a model without one.
        origin: The model that this one is a view of, set by `view_of`; None, the default, for a model that is
            no view. A copy that `dataclasses.replace` makes of a view has none: its functions may be other
            ones, which are checked as those of a model of its own.
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
    state: tuple[str, ...] = ()
    next_state: NextStateFn | None = None
    output_layer: OutputLayerFn | None = None
    origin: "Model | None" = field(default=None, init=False)

    def __post_init__(self) -> None:
        if isinstance(self.state, str):
            raise TypeError(f"state must be a tuple of paths, such as ({self.state!r},), got {self.state!r}")
        if bool(self.state) != (self.next_state is not None):
            given, missing = ("state", "next_state") if self.state else ("next_state", "state")
            raise ValueError(f"a model with {given} must have {missing} as well, got {missing} empty")


def view_of(model: Model, view: Model) -> Model:
    """`view`, a new record, with the note that it is a view of a model, or of what that is a view of."""
    object.__setattr__(view, "origin", origin_of(model))
    return view


def origin_of(model: Model) -> Model:
    """The model that a model is a view of; itself if it is no view."""
    return model if model.origin is None else model.origin


@dataclass(frozen=True, eq=False)
class Objective:
    """A model's loss as a function of the parameters that a solver fits.

    Attributes:
        fn: Measures the loss, `(params, frozen, batch, key) -> Mean`, with one entry per example.
        frozen: The parameters that stay unchanged; `()`, the default, for none.
        tables: The embedding tables among the leaves of `params`; none by default.
        frozen_tables: The embedding tables among the leaves of `frozen`; none by default.
        penalty: Measures a penalty, `(params, frozen) -> scalar`, which is added to the sum of the loss over
            the solver's examples; by default 0.
        metrics: Measures metrics, `(params, frozen, batch) -> dict of Mean`, each with one entry per example;
            by default there are none.
        both: Measures loss and metrics at once, `(params, frozen, batch, key) -> (Mean, dict of Mean)`; None,
            the default, for `fn` and `metrics`.
        state: Paths of the leaves of `params` that are state, see `Model.state`, or of what they lie below;
            none by default. A solver does not differentiate by them and replaces them by what `next_state`
            returns.
        next_state: Computes the state after a forward pass, `(params, frozen, batch, key) -> params`; None,
            the default, without `state`.
    """

    fn: ObjectiveLossFn
    frozen: Params = ()
    tables: tuple[Table, ...] = ()
    frozen_tables: tuple[Table, ...] = ()
    penalty: ObjectivePenaltyFn = _no_penalty
    metrics: ObjectiveMetricsFn = lambda params, frozen, batch: {}
    both: ObjectiveLossAndMetricsFn | None = None
    state: tuple[str, ...] = ()
    next_state: ObjectiveNextStateFn | None = None

    def measure(self, params: Params, frozen: Params, batch: Batch, key: PRNGKey) -> tuple[Any, Any]:
        """The loss and the metrics of a batch, each with one entry per example."""
        if self.both is not None:
            return self.both(params, frozen, batch, key)
        return self.fn(params, frozen, batch, key), self.metrics(params, frozen, batch)


def on_local(model: Model, global_params: Params) -> Objective:
    """The loss as a function of the local parameters, the global ones frozen."""
    both, following = model.loss_and_metrics, model.next_state
    return Objective(
        fn=lambda local, frozen, batch, key: model.loss(frozen, local, batch, key),
        frozen=global_params,
        tables=model.local_tables,
        frozen_tables=model.tables,
        penalty=lambda local, frozen: model.penalty(frozen, local),
        metrics=lambda local, frozen, batch: model.metrics(frozen, local, batch),
        both=both and (lambda local, frozen, batch, key: both(frozen, local, batch, key)),
        state=state_within("1", model.state),
        next_state=following and (lambda local, frozen, batch, key: following(frozen, local, batch, key)[1]),
    )


def on_global(model: Model, local_params: Params) -> Objective:
    """The loss as a function of the global parameters, the local ones frozen."""
    following = model.next_state
    return Objective(
        fn=model.loss,
        frozen=local_params,
        tables=model.tables,
        frozen_tables=model.local_tables,
        penalty=model.penalty,
        metrics=model.metrics,
        both=model.loss_and_metrics,
        state=state_within("0", model.state),
        next_state=following and (lambda params, local, batch, key: following(params, local, batch, key)[0]),
    )


def on_both(model: Model) -> Objective:
    """The loss as a function of `(global_params, local_params)`."""
    both, following = model.loss_and_metrics, model.next_state
    return Objective(
        fn=lambda params, _, batch, key: model.loss(params[0], params[1], batch, key),
        tables=_below("0", model.tables) + _below("1", model.local_tables),
        penalty=lambda params, _: model.penalty(params[0], params[1]),
        metrics=lambda params, _, batch: model.metrics(params[0], params[1], batch),
        both=both and (lambda params, _, batch, key: both(params[0], params[1], batch, key)),
        state=model.state,
        next_state=following and (lambda params, _, batch, key: following(params[0], params[1], batch, key)),
    )


def fully_global(model: Model) -> Model:
    """The view of a model in which the local parameters are global, one value shared by all clients.

    Its global parameters are `(global_params, local_params)`, and it has no local ones.
    """

    def init_global(key: PRNGKey) -> Params:
        k_global, k_local = jax.random.split(key)
        global_params = model.init_global(k_global)
        return global_params, model.init_local(global_params, k_local)

    def next_state(params: Params, _: Params, batch: Batch, key: PRNGKey) -> tuple[Params, Params]:
        assert model.next_state is not None, "a model with state computes the next one"
        return model.next_state(params[0], params[1], batch, key), ()

    predict, both, layer = model.predict, model.loss_and_metrics, model.output_layer
    view = Model(
        init_global=init_global,
        init_local=lambda params, key: (),
        loss=lambda params, _, batch, key: model.loss(params[0], params[1], batch, key),
        metrics=lambda params, _, batch: model.metrics(params[0], params[1], batch),
        predict=predict and (lambda params, _, features: predict(params[0], params[1], features)),
        penalty=lambda params, _: model.penalty(params[0], params[1]),
        tables=_below("0", model.tables) + _below("1", model.local_tables),
        loss_and_metrics=both and (lambda params, _, batch, key: both(params[0], params[1], batch, key)),
        state=tuple(f"0/{path}" for path in model.state),
        next_state=model.next_state and next_state,
        output_layer=layer and (lambda params, _, features: layer(params[0], params[1], features)),
    )
    return view_of(model, view)


def personal_copy(model: Model, part: tuple[str, ...] | None = None) -> Model:
    """The view of a model in which every client has a personal copy of the global parameters or of some.

    Its local parameters are `(copy, local_params)`, where `copy` is the global parameters with None for
    leaves that are not copied; the copy starts from the server's values. Copied tables become local tables.

    Args:
        model: The model whose global parameters are copied.
        part: Paths of the global leaves to copy, or of subtrees; None, the default, for all.

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

    predict, both, following = model.predict, model.loss_and_metrics, model.next_state
    layer = model.output_layer
    shared = state_leaves(
        jax.eval_shape(model.init_global, jax.random.key(0)), state_within("0", model.state)
    )

    def next_state(g: Params, x: Params, batch: Batch, key: PRNGKey) -> tuple[Params, Params]:
        assert following is not None, "a model with state computes the next one"
        whole = merged(g, x[0])
        new, local = following(whole, x[1], batch, key)
        # The server's own state goes on from its own values, under the parameters of the copy.
        return following(with_state(whole, shared, g), x[1], batch, key)[0], (copied(new), local)

    tables = tuple(t for t in model.tables if not own(t.leaf))
    copies = _below("1", model.local_tables) + _below("0", tuple(t for t in model.tables if own(t.leaf)))
    if {f for t in tables for f in t.fields} & {f for t in copies for f in t.fields}:
        # A field cannot be renumbered for global and local tables at once, so that neither are declared.
        tables = copies = ()
    view = Model(
        init_global=model.init_global,
        init_local=lambda params, key: (copied(params), model.init_local(params, key)),
        loss=lambda g, x, batch, key: model.loss(merged(g, x[0]), x[1], batch, key),
        metrics=lambda g, x, batch: model.metrics(merged(g, x[0]), x[1], batch),
        predict=predict and (lambda g, x, features: predict(merged(g, x[0]), x[1], features)),
        penalty=lambda g, x: model.penalty(merged(g, x[0]), x[1]),
        tables=tables,
        local_tables=copies,
        loss_and_metrics=both and (lambda g, x, batch, key: both(merged(g, x[0]), x[1], batch, key)),
        state=(
            *(f"0/{name}" for name in shared),
            *(f"1/0/{name}" for name in shared if own(name)),
            *(f"1/1/{path}" if path else "1/1" for path in state_within("1", model.state)),
        ),
        next_state=following and next_state,
        output_layer=layer and (lambda g, x, features: layer(merged(g, x[0]), x[1], features)),
    )
    return view_of(model, view)


def without_tables(model: Model) -> Model:
    """The same model without declared tables, so that clients work on whole ones."""
    return view_of(model, replace(model, tables=(), local_tables=()))


def _below(prefix: str, tables: tuple[Table, ...]) -> tuple[Table, ...]:
    return tuple(Table(f"{prefix}/{t.leaf}", t.fields) for t in tables)


def check_part(part: tuple[str, ...], model: Model) -> None:
    """Checks paths of global leaves of a model.

    Args:
        part: The paths, each of a leaf or of a subtree.
        model: The model whose leaves are meant.

    Raises:
        ValueError: `part` is empty or no tuple, or no global leaf has a path; the message names that path and
            the leaves.
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


def leaves_of(params: Params) -> dict[str, Any]:
    """All leaves of a pytree by their paths."""
    return {path_of(path): x for path, x in jax.tree_util.tree_leaves_with_path(params)}


def leaf_at(params: Params, name: str) -> Any:
    """The leaf of the global parameters at the path of a table.

    Raises:
        ValueError: No leaf has that path; the message names the leaves.
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
    """Checks the result of a model's `loss`.

    Args:
        mean: The result, with arrays or with shapes of arrays.
        examples: The number of examples of the batch.

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
