"""Models of one tree of parameters, which is cut into global and local leaves by their paths."""

import difflib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from fedrecon.core._mean import Mean
from fedrecon.core._model import Model, Table, check_part, fully_global, path_of
from fedrecon.core._types import Batch, Params, PRNGKey

# Types in which Flax NNX and Equinox keep mutable state: the package and the name of each, so that neither
# package has to be imported.
_STATE = {
    ("flax", "BatchStat"),
    ("flax", "RngState"),
    ("flax", "Cache"),
    ("flax", "Intermediate"),
    ("equinox", "State"),
    ("equinox", "StateIndex"),
}
# Collections of Flax Linen that a forward pass changes.
_MUTABLE = ("batch_stats", "cache", "intermediates")


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
        return any(path == p or path.startswith(p + "/") for p in self.paths)


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

    Raises:
        TypeError: `local` is not a function, or `tables` is a single table.
        ValueError: `local` selects every leaf or names a path that no leaf has; a leaf is not a
            floating-point array; or the parameters hold mutable state, which pure functions cannot have.
    """
    if not callable(local):
        raise TypeError(f"local must be is_local(...) or a function of a leaf's path, got {local!r}")
    if isinstance(tables, Table):
        raise TypeError(f"tables must be a tuple, such as ({tables!r},), got a Table")
    shapes = jax.eval_shape(init, jax.random.key(0))
    _check_leaves(shapes)
    names = [path_of(p) for p, _ in jax.tree_util.tree_leaves_with_path(shapes)]
    for path in local.paths if isinstance(local, is_local) else ():
        if not any(is_local(path)(name) for name in names):
            near = difflib.get_close_matches(path, names, 1, 0.3)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise ValueError(f"local names the path {path!r}, but the model has the leaves {names}{hint}")
    if all(local(name) for name in names):
        raise ValueError(f"local must leave a leaf to federate, but it selects all of {names}")

    def whole_metrics(g: Params, x: Params, batch: Batch) -> dict[str, Mean]:
        return {} if metrics is None else metrics(merge(g, x), batch)

    def whole_penalty(g: Params, x: Params) -> Any:
        return 0.0 if penalty is None else penalty(merge(g, x))

    def whole_predict(g: Params, x: Params, features: Batch) -> Any:
        return None if predict is None else predict(merge(g, x), features)

    return Model(
        init_global=lambda key: split(init(key), local)[0],
        init_local=lambda global_params, key: split(init(key), local)[1],
        loss=lambda g, x, batch, key: loss(merge(g, x), batch, key),
        metrics=whole_metrics,
        predict=None if predict is None else whole_predict,
        penalty=whole_penalty,
        tables=tables,
    )


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
    predict, both = model.predict, model.loss_and_metrics
    return Model(
        init_global=lambda key: split(whole.init_global(key), own)[0],
        init_local=init_local,
        loss=lambda g, x, batch, key: model.loss(*join(g, x), batch, key),
        metrics=lambda g, x, batch: model.metrics(*join(g, x), batch),
        predict=predict and (lambda g, x, features: predict(*join(g, x), features)),
        penalty=lambda g, x: model.penalty(*join(g, x)),
        tables=tables,
        local_tables=copies,
        loss_and_metrics=both and (lambda g, x, batch, key: both(*join(g, x), batch, key)),
    )


def _shapes(model: Model) -> Params:
    return jax.eval_shape(model.init_global, jax.random.key(0))


def _is_state(x: Any) -> bool:
    """Whether a part of a model is mutable state, by the names of its type and of the type's package."""
    return any((kind.__module__.partition(".")[0], kind.__name__) in _STATE for kind in type(x).__mro__)


def _check_leaves(shapes: Params) -> None:
    if isinstance(shapes, Mapping):
        for name in _MUTABLE:
            if name in shapes:
                raise ValueError(
                    f"the parameters hold the mutable collection {name!r}, which a forward pass changes; "
                    "only stateless models can be trained: replace such layers (batch by layer or group "
                    "normalisation) or freeze them"
                )
    for path, x in jax.tree_util.tree_leaves_with_path(shapes, is_leaf=_is_state):
        if _is_state(x):
            raise ValueError(
                f"the parameters hold {path_of(path)!r} of the type {type(x).__name__}, state that a forward "
                "pass changes; only stateless models can be trained: replace such layers (batch by layer or "
                "group normalisation) or leave their state out of the parameters"
            )
    for path, x in jax.tree_util.tree_leaves_with_path(shapes):
        if not jnp.issubdtype(x.dtype, jnp.floating):
            raise ValueError(
                f"parameters must be floating-point arrays, {path_of(path)!r} is of {x.dtype}; keep counters "
                "and other state out of the parameters"
            )
