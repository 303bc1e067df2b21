"""State of models: leaves that a forward pass changes, such as the statistics of batch normalisation.

State lies among the parameters. It has no gradient; a step of a solver replaces it by what the model's
`next_state` computes from the step's batch. State among the global leaves is averaged over the clients like
every global leaf, state among the local ones stays on its client.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
from jax.tree_util import KeyPath

from fedrecon.core._types import Params


def path_of(path: KeyPath) -> str:
    """A leaf's path as this library writes it: `"item/factors"`, `"layers/2/kernel"`."""
    return jax.tree_util.keystr(path, simple=True, separator="/")


def is_below(paths: Sequence[str], leaf: str) -> bool:
    """Whether a leaf has one of some paths or lies below one; the empty path stands for the whole tree."""
    return any(path in ("", leaf) or leaf.startswith(path + "/") for path in paths)


def state_within(part: str, state: Sequence[str]) -> tuple[str, ...]:
    """The paths of state in one tree of a pair.

    Args:
        part: The tree of the pair, `"0"` or `"1"`.
        state: Paths of leaves or subtrees in the pair, such as `"0/norm/mean"`.
    """
    return tuple(path[len(part) + 1 :] for path in state if is_below((part,), path))


def state_leaves(params: Params, state: Sequence[str]) -> list[str]:
    """The paths of all leaves of a pytree that are state.

    Args:
        params: The pytree, with arrays or with shapes.
        state: Paths of leaves, or of what they lie below.
    """
    names = [path_of(path) for path, _ in jax.tree_util.tree_leaves_with_path(params)]
    return [name for name in names if is_below(state, name)]


def with_state(params: Params, state: Sequence[str], source: Params) -> Params:
    """`params` with the state of another pytree of the same structure."""
    new = {path_of(path): x for path, x in jax.tree_util.tree_leaves_with_path(source)}
    return _replaced(params, {name: new[name] for name in state_leaves(params, state)})


def without_state(params: Params, state: Sequence[str]) -> Params:
    """`params` with None in place of state."""
    return _replaced(params, dict.fromkeys(state_leaves(params, state)))


def only_state(params: Params, state: Sequence[str]) -> Params:
    """`params` with None in place of what is no state."""
    return jax.tree_util.tree_map_with_path(
        lambda path, x: x if is_below(state, path_of(path)) else None, params
    )


def stop_state_gradient(params: Params, state: Sequence[str]) -> Params:
    """`params` with the gradient stopped at state."""
    return jax.tree_util.tree_map_with_path(
        lambda path, x: jax.lax.stop_gradient(x) if is_below(state, path_of(path)) else x, params
    )


def _replaced(params: Params, new: Mapping[str, Any]) -> Params:
    return jax.tree_util.tree_map_with_path(lambda path, x: new.get(path_of(path), x), params)
