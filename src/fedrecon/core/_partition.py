"""Models of one tree of parameters, which is cut into global and local leaves by their paths."""

import difflib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax

from fedrecon.core._check_parameters import below, check_parameters, mark_checked
from fedrecon.core._mean import Mean
from fedrecon.core._model import Model, Table, check_part, fully_global, path_of, view_of
from fedrecon.core._state import is_below
from fedrecon.core._types import Batch, Params, PRNGKey


@dataclass(frozen=True)
class is_local:  # noqa: N801 - read as a predicate: `local=is_local("head")`
    """A predicate on the paths of leaves: whether a path is one of the given ones or lies below one.

    Attributes:
        paths: The paths of leaves or subtrees.

    Example:
        >>> local = is_local("head", "layers/2")
        >>> local("head/bias"), local("layers/20/kernel")
        (True, False)
    """

    paths: tuple[str, ...]

    def __init__(self, *paths: str):
        object.__setattr__(self, "paths", paths)

    def __call__(self, path: str) -> bool:
        return any(below(p, path) for p in self.paths)


def split(params: Params, local: Callable[[str], bool]) -> tuple[Params, Params]:
    """Cuts a pytree into `(global_params, local_params)`.

    Args:
        params: The pytree of all parameters.
        local: Says whether a leaf is local, by its path.

    Returns:
        Two pytrees of the structure of `params`, each with None in place of the other's leaves.
    """

    def part(keep: bool) -> Params:
        return jax.tree_util.tree_map_with_path(lambda p, x: x if local(path_of(p)) == keep else None, params)

    return part(False), part(True)


def merge(global_params: Params, local_params: Params) -> Params:
    """Joins the two pytrees that `split` returned."""
    return jax.tree.map(
        lambda g, x: x if g is None else g, global_params, local_params, is_leaf=lambda x: x is None
    )


def partition(
    init: Callable[[PRNGKey], Params],
    loss: Callable[[Params, Batch, Any], Mean],
    metrics: Callable[[Params, Batch], dict[str, Mean]] | None = None,
    *,
    local: Callable[[str], bool],
    predict: Callable[[Params, Any], Any] | None = None,
    penalty: Callable[[Params], Any] | None = None,
    tables: tuple[Table, ...] = (),
    frozen: tuple[str, ...] = (),
    state: tuple[str, ...] = (),
    next_state: Callable[[Params, Batch, Any], Params] | None = None,
) -> Model:
    """Makes a `Model` from functions of one tree of parameters.

    Args:
        init: Draws the parameters, `key -> params`, a pytree of floating-point arrays.
        loss: Measures the loss, `(params, batch, key) -> Mean`, with one entry per example.
        metrics: Measures the metrics, `(params, batch) -> dict of Mean`, each with one entry per example;
            None, the default, for no metrics.
        local: Says whether a leaf is local by its path, such as `"head/bias"`: `is_local("head")`, or any
            function from a path to a bool.
        predict: Predicts for serving and export, `(params, features) -> predictions`; None, the default, for
            a model that is only trained and evaluated.
        penalty: Measures a penalty, `params -> scalar`, which is added to the sum of the loss over a solver's
            examples; None, the default, for none.
        tables: The embedding tables among the global leaves; none by default.
        frozen: Paths of leaves, or of what they lie below, that get no gradient, such as `("embedding",)` for
            embeddings that were trained elsewhere; none by default. They stay as they start, unless an
            optimiser changes parameters without a gradient, as weight decay does.
        state: Paths of leaves, or of what they lie below, that a forward pass changes, such as the statistics
            of batch normalisation; none by default. They have no gradient. Those that are not local are
            averaged over the clients as global parameters are; local ones stay on their client. Frozen ones
            stay as they start.
        next_state: Computes the state after a forward pass, `(params, batch, key) -> params`, of which only
            the leaves in `state` are read; rows where `batch["example_mask"]` is false must not change it.
            None, the default, without `state`.

    Raises:
        TypeError: `local` is not a function, or `tables`, `frozen` or `state` is not a tuple.
        ValueError: `local` selects every leaf; `local`, `frozen` or `state` names a path that no leaf has; a
            leaf is not a floating-point array; the parameters hold mutable state that is not declared so: a
            type of Flax NNX or Equinox for it, or a collection of Flax Linen beside `"params"` that is
            neither local nor frozen nor state nor a table; or only one of `state` and `next_state` is given.
    """
    if not callable(local):
        raise TypeError(f"local must be is_local(...) or a function of a leaf's path, got {local!r}")
    if isinstance(tables, Table):
        raise TypeError(f"tables must be a tuple, such as ({tables!r},), got a Table")
    if isinstance(frozen, str):
        raise TypeError(f"frozen must be a tuple of paths, such as ({frozen!r},), got {frozen!r}")
    if isinstance(state, str):
        raise TypeError(f"state must be a tuple of paths, such as ({state!r},), got {state!r}")
    shapes = jax.eval_shape(init, jax.random.key(0))
    names = [path_of(p) for p, _ in jax.tree_util.tree_leaves_with_path(shapes)]
    _check_paths("frozen", frozen, names)
    _check_paths("state", state, names)
    named = is_local(*frozen, *(table.leaf for table in tables))
    check_parameters(shapes, lambda leaf: local(leaf) or named(leaf), (*frozen, *state))
    _check_paths("local", local.paths if isinstance(local, is_local) else (), names)
    if all(local(name) for name in names):
        raise ValueError(f"local must leave a leaf to federate, but it selects all of {names}")

    is_frozen = is_local(*frozen)

    def held(params: Params) -> Params:
        if not frozen:
            return params
        return jax.tree_util.tree_map_with_path(
            lambda p, x: jax.lax.stop_gradient(x) if is_frozen(path_of(p)) else x, params
        )

    def whole_metrics(g: Params, x: Params, batch: Batch) -> dict[str, Mean]:
        return {} if metrics is None else metrics(merge(g, x), batch)

    def whole_penalty(g: Params, x: Params) -> Any:
        return 0.0 if penalty is None else penalty(held(merge(g, x)))

    def whole_predict(g: Params, x: Params, features: Batch) -> Any:
        return None if predict is None else predict(merge(g, x), features)

    def whole_next_state(g: Params, x: Params, batch: Batch, key: PRNGKey) -> tuple[Params, Params]:
        assert next_state is not None, "a model with state computes the next one"
        return split(next_state(merge(g, x), batch, key), local)

    changing = is_local(*state)
    moving = tuple(name for name in names if changing(name) and not is_frozen(name))
    if state and not moving:  # all of it is frozen
        next_state = None
    model = Model(
        init_global=lambda key: split(init(key), local)[0],
        init_local=lambda global_params, key: split(init(key), local)[1],
        loss=lambda g, x, batch, key: loss(held(merge(g, x)), batch, key),
        metrics=whole_metrics,
        predict=None if predict is None else whole_predict,
        penalty=whole_penalty,
        tables=tables,
        frozen=tuple(f"{int(local(name))}/{name}" for name in names if is_frozen(name)),
        state=tuple(f"{int(local(name))}/{name}" for name in moving),
        next_state=next_state and whole_next_state,
    )
    mark_checked(model)
    return model


def _check_paths(what: str, paths: tuple[str, ...], names: list[str]) -> None:
    """Refuses paths that no leaf has; `what` is the parameter that names them."""
    for path in paths:
        if not any(below(path, name) for name in names):
            near = difflib.get_close_matches(path, names, 1, 0.3)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise ValueError(f"{what} names the path {path!r}, but the model has the leaves {names}{hint}")


def with_local(model: Model, part: tuple[str, ...] | None) -> Model:
    """The view of a model in which other leaves are local.

    Args:
        model: The model whose leaves are divided anew.
        part: Paths of the leaves that become local, or of subtrees, in the pair `(global_params,
            local_params)` of the model: `"0/head/bias"` is the leaf `head/bias` of the global parameters, and
            `"1"` are all that are local now. None returns the model itself.

    Returns:
        A model whose global and local parameters both have the structure of that pair, with None in place of
        the other's leaves. Its local parameters start as the model initialises them.

    Raises:
        ValueError: `part` names a path that no leaf has, or selects all or none of them.
    """
    if part is None:
        return model
    whole, own = fully_global(model), is_local(*part)
    check_part(part, whole)
    names = [path_of(p) for p, _ in jax.tree_util.tree_leaves_with_path(_shapes(whole))]
    if all(own(name) for name in names):
        raise ValueError(f"part must leave a leaf to federate, but it selects all of {names}")

    def init_local(global_params: Params, key: PRNGKey) -> Params:
        k_global, k_local = jax.random.split(key)
        # Drawn as the model draws its parameters, global ones first, since its local ones may start from
        # them; of both only the leaves that are local here are used.
        fresh = split((model.init_global(k_global), ()), own)[1]
        known, _ = merge((global_params[0], ()), fresh)
        return split((known, model.init_local(known, k_local)), own)[1]

    def join(g: Params, x: Params) -> tuple[Params, Params]:
        global_params, local_params = merge(g, x)
        return global_params, local_params

    tables = tuple(t for t in whole.tables if not own(t.leaf))
    copies = tuple(t for t in whole.tables if own(t.leaf))
    if {f for t in tables for f in t.fields} & {f for t in copies for f in t.fields}:
        # A field cannot be renumbered for global and local tables at once, so that neither are declared.
        tables = copies = ()
    predict, both, following = model.predict, model.loss_and_metrics, model.next_state
    layer = model.output_layer
    view = Model(
        init_global=lambda key: split(whole.init_global(key), own)[0],
        init_local=init_local,
        loss=lambda g, x, batch, key: model.loss(*join(g, x), batch, key),
        metrics=lambda g, x, batch: model.metrics(*join(g, x), batch),
        predict=predict and (lambda g, x, features: predict(*join(g, x), features)),
        penalty=lambda g, x: model.penalty(*join(g, x)),
        tables=tables,
        local_tables=copies,
        loss_and_metrics=both and (lambda g, x, batch, key: both(*join(g, x), batch, key)),
        state=tuple(f"{int(own(name))}/{name}" for name in names if is_below(model.state, name)),
        next_state=following and (lambda g, x, batch, key: split(following(*join(g, x), batch, key), own)),
        output_layer=layer and (lambda g, x, features: layer(*join(g, x), features)),
    )
    return view_of(model, view)


def _shapes(model: Model) -> Params:
    return jax.eval_shape(model.init_global, jax.random.key(0))
