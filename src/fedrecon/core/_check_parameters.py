"""Whether a model's parameters are parameters: arrays of floating-point numbers, and no undeclared state.

State is what a forward pass changes, such as the statistics of batch normalisation. A model that does not
declare it in `Model.state` would be trained and served with that of its start.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any
from weakref import WeakSet

import jax
import jax.numpy as jnp

from fedrecon.core._model import Model, leaves_of, origin_of, path_of
from fedrecon.core._types import Params
from fedrecon.errors import did_you_mean

# Types in which Flax NNX and Equinox keep it.
_STATE = {
    ("flax", "BatchStat"),
    ("flax", "RngState"),
    ("flax", "Cache"),
    ("flax", "Intermediate"),
    ("equinox", "State"),
    ("equinox", "StateIndex"),
}
_VARIABLE, _PARAMETER = ("flax", "Variable"), ("flax", "Param")
# Collections in which Flax Linen keeps it, and the one that holds parameters.
_MUTABLE = ("batch_stats", "cache", "intermediates")
_PARAMETERS = "params"
_ADVICE = (
    "declare it with `state`, and with `next_state` what it becomes, as fedrecon.models.from_nnx, from_linen "
    "and from_equinox do; leave it out of the parameters; or declare what shall stay as it starts with "
    "`frozen`"
)
_CHECKED: WeakSet[Model] = WeakSet()  # models whose parameters were checked in this process


def check_model_parameters(model: Model) -> None:
    """Checks the parameters of the model that a model is a view of, once per model and process.

    Raises:
        ValueError: A leaf is no floating-point array or there is mutable state, as for `check_parameters`; or
            `frozen` or `state` names a path that no leaf has.
    """
    model = origin_of(model)
    if model in _CHECKED:
        return
    key = jax.random.key(0)
    global_params = jax.eval_shape(model.init_global, key)
    local_params = jax.eval_shape(model.init_local, global_params, key)
    names = [f"{part}/{x}" for part in (0, 1) for x in leaves_of((global_params, local_params)[part])]
    for what, paths in (("frozen", model.frozen), ("state", model.state)):
        for path in paths:
            if not any(below(path, name) for name in names):
                raise ValueError(
                    f"{what} names the path {path!r}, but the parameters, (global, local), have "
                    f"{sorted(names)}{did_you_mean(path, names)}"
                )
    named = (*model.frozen, *model.state)
    declared = [[x[2:] for x in named if x.startswith(f"{part}/")] for part in (0, 1)]
    shared = [*declared[0], *(table.leaf for table in model.tables)]
    check_parameters(global_params, lambda leaf: any(below(path, leaf) for path in shared), declared[0])
    check_parameters(local_params, lambda leaf: True, declared[1])
    _CHECKED.add(model)


def mark_checked(model: Model) -> None:
    """Notes that the parameters of a model were checked as it was made."""
    _CHECKED.add(model)


def below(path: str, leaf: str) -> bool:
    """Whether a leaf has a path or lies below it."""
    return leaf == path or leaf.startswith(path + "/")


def check_parameters(
    params: Params, declared: Callable[[str], bool], frozen: tuple[str, ...] | list[str] = ()
) -> None:
    """Refuses parameters that are none.

    Args:
        params: Arrays, or their shapes, in the containers in which a library keeps them.
        declared: A predicate that says of a leaf's path whether the model names it as local, as frozen or as
            a table. A collection of Flax Linen beside `"params"` must have been named so.
        frozen: Paths of leaves that stay as they start or that the model declares as state, or of nodes above
            such leaves; the default is none.

    Raises:
        ValueError: A leaf is no floating-point array; or there is a model's mutable state, of which the
            message gives the name and the type or the collection.
    """

    def is_frozen(path: str) -> bool:
        return any(below(x, path) for x in frozen)

    for path, variables in _mappings(params, ""):
        beside = _has_leaves(variables.get(_PARAMETERS)) and isinstance(variables[_PARAMETERS], Mapping)
        for name, collection in variables.items():
            leaves = [join(path, str(name), leaf) for leaf in leaves_of(collection)]
            if name == _PARAMETERS or not leaves or all(map(is_frozen, leaves)):
                continue
            if name in _MUTABLE and (beside or not path):
                raise ValueError(
                    f"the parameters hold the mutable collection {join(path, name)!r}, which a forward pass "
                    f"changes; {_ADVICE}. Parameters that are no such collection need another name"
                )
            if beside and not all(map(declared, leaves)):
                raise ValueError(
                    f"the parameters hold the collection {join(path, str(name))!r} beside "
                    f"{join(path, _PARAMETERS)!r}, where Flax Linen keeps what a forward pass changes; "
                    f"{_ADVICE}. Parameters of your own go beside the whole of what Linen made, as in "
                    f"{{'net': variables, {str(name)!r}: ...}}"
                )
    for tree_path, x in jax.tree_util.tree_leaves_with_path(params, is_leaf=_is_variable):
        path = path_of(tree_path)
        # What has no leaves holds nothing, such as the place of an array in Equinox' `State`.
        if not (_is_variable(x) and _has_leaves(x)) or is_frozen(path):
            continue
        if _is_state(x) or not declared(path):
            changes = "state that a forward pass changes" if _is_state(x) else "which is no kind of nnx.Param"
            raise ValueError(
                f"the parameters hold {path!r} of the type {type(x).__name__}, {changes}; {_ADVICE}"
            )
    for tree_path, x in jax.tree_util.tree_leaves_with_path(params):
        if not jnp.issubdtype(x.dtype, jnp.floating):
            raise ValueError(
                f"parameters must be floating-point arrays, {path_of(tree_path)!r} is of "
                f"{x.dtype}; keep counters and other state out of the parameters"
            )


def join(*parts: str) -> str:
    """Parts of a path, of which some may be empty, as one path."""
    return "/".join(part for part in parts if part)


def _mappings(tree: Any, path: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """All mappings of a tree with their paths, from the outermost on."""
    children: Any = ()
    named = getattr(tree, "_asdict", None) if isinstance(tree, tuple) else None
    if isinstance(tree, Mapping):
        yield path, tree
        children = tree.items()
    elif named is not None:
        children = named().items()
    elif isinstance(tree, list | tuple):
        children = enumerate(tree)
    for name, child in children:
        yield from _mappings(child, join(path, str(name)))


def _has_leaves(tree: Any) -> bool:
    return bool(jax.tree.leaves(tree))


def _kinds(x: object) -> set[tuple[str, str]]:
    """The classes of an object by library and name, so that no library is imported."""
    return {(kind.__module__.partition(".")[0], kind.__name__) for kind in type(x).__mro__}


def _is_state(x: object) -> bool:
    """Whether a forward pass changes this part of a model."""
    return bool(_kinds(x) & _STATE)


def _is_variable(x: object) -> bool:
    """Whether a library keeps this apart from parameters: state, or a variable of Flax that is no `Param`."""
    kinds = _kinds(x)
    return bool(kinds & _STATE) or (_VARIABLE in kinds and _PARAMETER not in kinds)
