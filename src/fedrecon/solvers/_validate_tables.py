"""Checks on a batch that a model uses its declared tables for look-ups only."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.extend import core
from jaxtyping import PyTree

from fedrecon._kernels.rows import Group, num_rows
from fedrecon.core._model import leaves_of, with_leaves
from fedrecon.core._types import Params

_TOLERANCE = 1e-4  # the difference that counts as rounding, relative to the largest number of an array


class Found(NamedTuple):
    """The results of a model on a batch.

    Attributes:
        values: Pytrees of arrays by their names in error messages, such as `"loss"`.
        gradients: The gradient of the loss by each global leaf, by the leaf's path.
    """

    values: dict[str, Any]
    gradients: dict[str, Any]


class Trial(NamedTuple):
    """A model on a batch, to be run again with other parameters and other ids.

    Attributes:
        run: A function `(global_params, batch) -> Found` that evaluates the loss.
        params: The global parameters at which the tables are tried.
        batch: The fields of a batch, NumPy arrays `[example, ...]`.
        tables: The declared tables to try.
        start: The result of `run` for the unchanged `params` and `batch`.
    """

    run: Callable[..., Found]
    params: Params
    batch: dict[str, Any]
    tables: Sequence[Group]
    start: Found


def check_lookups(trial: Trial) -> None:
    """Checks that tables are used as their declaration promises.

    The model is run again with NaN in the rows that the batch does not name, then with tables of the named
    rows only and ids renumbered by first occurrence, and once more in the opposite order. No result may
    change.

    Args:
        trial: The model, the batch and the declared tables.

    Raises:
        ValueError: A result changes; the message names the leaf and the field.
    """
    every = [(group, leaf) for group in trial.tables for leaf in group.leaves]
    if _first_change(trial, _poison(trial, every), trial.batch):
        for which in [*([one] for one in every), every]:
            if what := _first_change(trial, _poison(trial, which), trial.batch):
                fields = {f for group, _ in which for f in group.fields}
                raise ValueError(
                    f"the {what} reads rows of the table {_names(x for _, x in which)} that no field in "
                    f"{sorted(fields)} names; declare a table only if it is looked up and no more: no "
                    "penalty on it, no product with all its rows"
                )
    for backwards in (False, True):
        rows = [_ids_named_by(trial.batch, g)[:: -1 if backwards else 1] for g in trial.tables]
        try:
            what = _first_change(trial, *_rows_alone(trial, rows), rows)
        except (TypeError, ValueError, IndexError) as error:
            raise ValueError(
                f"the model fails where the table {_names(x for _, x in every)} has only the rows that a "
                f"batch names; its number of rows must not matter: {error}"
            ) from error
        if what:
            leaves, names = _to_blame(trial)
            raise ValueError(
                f"the {what} changes when the rows of the table {_names(leaves)} are renumbered: the field "
                f"{_names(names)} must index its rows and be used for nothing else, such as a target, a "
                "comparison with a number, or a leaf that is no table; give the same ids in another field "
                "for that"
            )


def check_no_look(
    fn: Callable[..., Any], name: str, global_params: Params, tables: Sequence[Group], *args: Any
) -> None:
    """Checks that a function which gets no ids does not read the declared tables.

    Args:
        fn: The function to check, `(global_params, *args) -> pytree of arrays`.
        name: The function's name in the error message.
        global_params: The global parameters that the function is given.
        tables: The declared tables, which the function must not read.
        *args: The function's other arguments.

    Raises:
        ValueError: The function's result depends on a table; the message names the leaf.
    """
    graph = jax.make_jaxpr(fn)(global_params, *args).jaxpr
    read = {v for v in graph.outvars if isinstance(v, core.Var)}
    for equation in reversed(graph.eqns):
        if read & set(equation.outvars):
            read |= {v for v in equation.invars if isinstance(v, core.Var)}
    for leaf, variable in zip(leaves_of(global_params), graph.invars, strict=False):
        if variable in read and any(leaf in group.leaves for group in tables):
            raise ValueError(
                f"{name} reads the table {leaf!r}, of which a client has only the rows that its examples "
                "name; declare a table only if it is looked up and no more"
            )


def _names(names: Iterable[str]) -> str:
    return " or ".join(repr(name) for name in names)


def _ids_named_by(batch: dict[str, Any], group: Group) -> np.ndarray:
    """The ids of a group's rows that a batch names, in the order of their first occurrence."""
    ids = np.concatenate([batch[f].reshape(-1) for f in group.fields])
    _, first = np.unique(ids, return_index=True)
    return ids[np.sort(first)]


def _poison(trial: Trial, which: Sequence[tuple[Group, str]]) -> Params:
    """The parameters with NaN in those rows of some tables that the batch does not name."""
    leaves, new = leaves_of(trial.params), {}
    for group, leaf in which:
        other = np.ones(num_rows(trial.params, group), bool)
        other[_ids_named_by(trial.batch, group)] = False
        new[leaf] = np.array(leaves[leaf])
        new[leaf][other] = np.nan
    return with_leaves(trial.params, new)


def _rows_alone(trial: Trial, rows: Sequence[np.ndarray]) -> tuple[Params, dict[str, Any]]:
    """The parameters with only the given rows of each group's tables, and the batch with matching ids."""
    leaves, batch = leaves_of(trial.params), dict(trial.batch)
    new: dict[str, Any] = {}
    for group, rows_of_group in zip(trial.tables, rows, strict=True):
        new |= {leaf: np.asarray(leaves[leaf])[rows_of_group] for leaf in group.leaves}
        order = np.argsort(rows_of_group)
        for f in group.fields:
            batch[f] = order[np.searchsorted(rows_of_group, batch[f], sorter=order)].astype(batch[f].dtype)
    return with_leaves(trial.params, new), batch


def _first_change(
    trial: Trial, params: Params, batch: dict[str, Any], rows: Sequence[np.ndarray] | None = None
) -> str | None:
    """The name of the first result that changes; None if none does.

    Args:
        trial: The model with its results at the start.
        params: The changed parameters.
        batch: The batch with matching ids.
        rows: The rows that each group's tables in `params` have; None, the default, for whole tables.
    """
    outcome = trial.run(params, batch)
    for what, x in trial.start.values.items():
        if not _same(x, outcome.values[what]):
            return what
    named: dict[str, Any] = {}
    for i, group in enumerate(trial.tables):
        ids = _ids_named_by(trial.batch, group)
        named |= {leaf: (ids, ids) if rows is None else (rows[i], slice(None)) for leaf in group.leaves}
    for leaf, x in trial.start.gradients.items():
        before, after = named.get(leaf, ((), ()))
        if not _same(np.asarray(x)[before], np.asarray(outcome.gradients[leaf])[after]):
            return f"gradient by {leaf!r}"
    return None


def _to_blame(trial: Trial) -> tuple[list[str], list[str]]:
    """The leaves and the field to name in the error message.

    For each field the rows that it names are copied to the tables' end, and its ids moved there. The field
    whose move changes a result is used for more than the look-up.
    """
    leaves = leaves_of(trial.params)
    for group in trial.tables:
        for field in group.fields:
            ids = trial.batch[field]
            rows, place = np.unique(ids, return_inverse=True)
            new = {x: np.concatenate([leaves[x], np.asarray(leaves[x])[rows]]) for x in group.leaves}
            moved = (num_rows(trial.params, group) + place.reshape(ids.shape)).astype(ids.dtype)
            outcome = trial.run(with_leaves(trial.params, new), {**trial.batch, field: moved})
            if not all(_same(x, outcome.values[what]) for what, x in trial.start.values.items()):
                return list(group.leaves), [field]
    return [x for g in trial.tables for x in g.leaves], [f for g in trial.tables for f in g.fields]


def _same(a: PyTree, b: PyTree) -> bool:
    """Whether two pytrees hold the same numbers, up to rounding."""
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        if np.shape(x) != np.shape(y):
            return False
        scale = float(np.max(np.abs(x), initial=1e-30))
        if not np.allclose(x, y, rtol=_TOLERANCE, atol=_TOLERANCE * scale):
            return False
    return True
