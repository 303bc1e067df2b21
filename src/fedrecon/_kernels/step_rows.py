"""The rows of tables that the steps of a solver read, and their batches with matching ids."""

from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int

from fedrecon._kernels import rows
from fedrecon._kernels.gathered_rows import StepGathers
from fedrecon.core._examples import Examples
from fedrecon.core._model import Objective, leaf_at, with_leaves


def frozen_rows(
    objective: Objective, batches: Examples
) -> tuple[dict[str, Any], dict[str, rows.Slices | StepGathers], Examples, dict[str, Any]]:
    """The rows of the frozen tables that each step reads.

    Args:
        objective: The objective with its frozen parameters and their tables.
        batches: The batches of all steps, with leaves `[step, example, ...]`.

    Returns:
        The rows that are gathered for all steps at once, `[step, id, ...]`, by the table's path; the rows
        that a step slices out by itself, by the table's path; the batches without the fields that index these
        tables; and these fields renumbered, which are the same in all steps.
    """
    gathered: dict[str, Any] = {}
    sliced: dict[str, rows.Slices | StepGathers] = {}
    known: dict[str, Any] = {}
    for group in rows.groups(objective.frozen_tables):
        ids = rows.step_ids(batches, group)
        for leaf in group.leaves:
            table = leaf_at(objective.frozen, leaf)
            slices = rows.slices(table, ids)
            if slices is None:
                gathered[leaf] = rows.take(table, ids)
            else:
                sliced[leaf] = slices
        known |= counted(batches, group)
    return gathered, sliced, without(batches, known), known


def with_rows(objective: Objective, examples: Examples) -> tuple[Objective, Examples]:
    """An objective whose frozen tables are the rows that examples name, and the examples renumbered to match.

    A loss then reads each example's rows in their places, which `fold_lookups` leaves out.
    """
    if not objective.frozen_tables:
        return objective, examples
    one_step = Examples(
        jax.tree.map(lambda x: x[None], examples.data), examples.mask[None], examples.positional
    )
    gathered, sliced, rest, looked_up = frozen_rows(objective, one_step)
    tables = {leaf: x[0] for leaf, x in gathered.items()} | {leaf: s.at(0) for leaf, s in sliced.items()}
    data = {**{f: x[0] for f, x in rest.data.items()}, **looked_up}
    return (
        replace(objective, frozen=with_leaves(objective.frozen, tables)),
        Examples(data, examples.mask, rest.positional),
    )


def counted(batches: Examples, group: rows.Group) -> dict[str, Any]:
    """The fields of a group in one step, with the ids 0, 1, 2, …, as NumPy arrays.

    NumPy arrays are known while the loss is traced, so that `fold_lookups` can remove the look-ups.
    """
    shapes = {f: batches.data[f].shape[1:] for f in group.fields}
    blank = {f: np.zeros(shape, np.int32) for f, shape in shapes.items()}
    total = sum(x.size for x in blank.values())
    counted = rows.renumbered(blank, group, np.arange(total, dtype=np.int32))
    return {f: counted[f] for f in group.fields}


def without(batches: Examples, fields: dict[str, Any]) -> Examples:
    """The batches without the given fields."""
    data = {f: jnp.asarray(x) for f, x in batches.data.items() if f not in fields} if fields else batches.data
    return Examples(data, batches.mask, tuple(f for f in batches.positional if f not in fields))


def with_ids(batches: Examples, group: rows.Group, ids: Int[Array, "step id"]) -> Examples:
    """The batches with the ids of a group replaced by `ids`."""
    data = jax.tree.map(jnp.asarray, batches.data)
    data = jax.vmap(lambda d, i: rows.renumbered(d, group, i))(data, ids)
    return Examples(data, batches.mask, batches.positional)
