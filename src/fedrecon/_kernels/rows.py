"""Rows instead of tables: lets a solver or a client work on the rows of an embedding table that it touches.

A loss that only indexes a table gives the same result on the rows that its batch touches, if the ids are
renumbered to match (federated select, Charles et al., 2022). Ids are renumbered by first occurrence, so that
an id that occurs twice has one row and one gradient.
"""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Int, PyTreeDef

from fedrecon._kernels.gathered_rows import StepGathers, origin, step_gathers
from fedrecon._kernels.optimizer_step import optimizer_step
from fedrecon.core._examples import Examples
from fedrecon.core._model import Table, leaf_at, path_of
from fedrecon.core._types import Batch, Number, Params

Locality = Literal["step", "client", "dense"]
_SCALES = (1e-4, 1.0, 1e4)  # factors on the gradients with which an optimiser is tried


@dataclass(frozen=True)
class Group:
    """Tables that are indexed by the same fields, and therefore share their rows' numbers.

    Attributes:
        leaves: The paths of the tables of the group.
        fields: The batch fields that index the tables' rows.
    """

    leaves: tuple[str, ...]
    fields: tuple[str, ...]

    @property
    def name(self) -> str:
        return "+".join(self.fields)


def groups(tables: Sequence[Table]) -> tuple[Group, ...]:
    """Groups tables that share a field or a leaf.

    They belong together, since a field can be renumbered and a leaf be cut in one way only.
    """
    merged: list[tuple[set[str], set[str]]] = []
    for table in tables:
        leaves, fields = {table.leaf}, set(table.fields)
        for other in [m for m in merged if m[0] & leaves or m[1] & fields]:
            merged.remove(other)
            leaves |= other[0]
            fields |= other[1]
        merged.append((leaves, fields))
    return tuple(Group(tuple(sorted(a)), tuple(sorted(b))) for a, b in merged)


def num_rows(params: Params, group: Group) -> int:
    """The number of rows of a group's tables.

    Raises:
        ValueError: A leaf is missing, or tables that share a field differ in their number of rows.
    """
    sizes = {leaf: leaf_at(params, leaf).shape[0] for leaf in group.leaves}
    if len(set(sizes.values())) > 1:
        raise ValueError(f"tables that share the fields {group.fields} must have as many rows, got {sizes}")
    return next(iter(sizes.values()))


def ids_of(data: Batch, group: Group) -> Int[Array, "*id"]:
    """All ids of a group's fields in one vector, field after field; the fields are `[example, ...]`."""
    return jnp.concatenate([jnp.asarray(data[f]).reshape(-1) for f in group.fields])


def renumbered(data: Batch, group: Group, ids: Int[Any, "id"]) -> Any:
    """`data` with the fields of a group replaced by `ids`, which have the order of `ids_of`."""
    new, start = dict(data), 0
    for f in group.fields:
        size = int(np.prod(jnp.shape(data[f])))
        new[f] = ids[start : start + size].reshape(jnp.shape(data[f]))
        start += size
    return new


def first_occurrence(ids: Int[Array, "id"]) -> Int[Array, "id"]:
    """The position of the first occurrence of each id, `[id]`."""
    return jnp.argmax(ids[:, None] == ids[None, :], axis=1)


def step_ids(batches: Examples, group: Group) -> Int[Any, "step id"]:
    """The ids of each step's batch; a NumPy array if they are known before tracing."""
    if len(group.fields) == 1:
        ids = batches.data[group.fields[0]]
        return ids.reshape(ids.shape[0], -1)
    return jax.vmap(lambda data: ids_of(data, group))(batches.data)


def distinct(batches: Examples, group: Group) -> bool:
    """Whether a client touches no row of a group twice."""
    field = group.fields[0]
    return len(group.fields) == 1 and field in batches.positional and batches.data[field].ndim == 2


def without_padding(ids: Int[Any, "step id"], batches: Examples, size: int) -> Int[Any, "step id"]:
    """Ids of `distinct` rows, those of padding set to `size`, past the table's end: they may be any rows'.

    Ids that are known before tracing stay as they are: splits that leave examples in place leave those of
    padding in their places, too.
    """
    return ids if isinstance(ids, np.ndarray) else jnp.where(batches.mask, ids, size)


class Slices(NamedTuple):
    """The rows of each step where they are neighbours in a table.

    Attributes:
        table: The table, `[row, ...]`.
        start: The first row of the first step.
        stride: The number of rows from one step's first row to the next step's.
        width: The number of rows of a step.
    """

    table: Array
    start: int
    stride: int
    width: int

    def at(self, step: Number) -> Array:
        """The rows of one step, `[id, ...]`."""
        return jax.lax.dynamic_slice_in_dim(self.table, self.start + step * self.stride, self.width)

    def all(self, steps: int) -> Array:
        """The rows of the first steps, `[step, id, ...]`."""
        stop = self.start + steps * self.stride
        return self.table[self.start : stop].reshape(steps, self.stride, *self.table.shape[1:])[
            :, : self.width
        ]


def slices(table: Array, ids: Int[Any, "step id"]) -> Slices | StepGathers | None:
    """The rows of each step as slices of a table; None if the ids are not known to be neighbours.

    They are neighbours under splits and batches that leave the examples in place. On a CPU slices are several
    times as fast as gathers and scatters. If the table was itself gathered, and `gathered_rows` remembers
    from where, each step gathers its rows from there.

    Args:
        table: The table, `[row, ...]`.
        ids: The row numbers of each step, `[step, id]`. Only the values of a NumPy array are known; for a
            traced array the result is None.
    """
    runs = _runs(ids)
    if runs is None:
        return None
    start, stride = runs
    if (gathered := origin(table)) is not None:
        return step_gathers(gathered, start, stride, ids.shape[1], ids.shape[0])
    # The table is padded for ids past its end, which belong to padding: `dynamic_slice` would shift a slice
    # that does not fit, and read other rows.
    short = max(start + ids.shape[0] * stride - table.shape[0], 0)
    padded = jnp.pad(table, [(0, short)] + [(0, 0)] * (table.ndim - 1)) if short else table
    return Slices(padded, start, stride, ids.shape[1])


def take(table: Array, ids: Int[Any, "step id"]) -> Array:
    """Rows of a table, `[step, id, ...]`; ids past its end, which only padding has, give any finite row."""
    sliced = slices(table, ids)
    if sliced is not None:
        return sliced.all(ids.shape[0])
    if (gathered := origin(table)) is not None:
        table, ids = gathered.table, gathered.ids.at[ids].get(mode="clip")
    return table.at[ids].get(mode="clip")


def add(table: Array, ids: Int[Any, "step id"], updates: Array) -> Array:
    """`table` with `updates`, `[step, id, ...]`, added to its rows; those past its end are dropped."""
    runs = _runs(ids)
    if runs is None:
        return table.at[ids].add(updates, mode="drop")
    start, stride = runs
    steps, width = ids.shape
    rest = [(0, 0)] * (table.ndim - 1)
    lead = start if start + width <= stride else 0  # in the gap that every step leaves, if it is wide enough
    spread = jnp.pad(updates, [(0, 0), (lead, stride - width - lead), *rest])
    spread = spread.reshape(steps * stride, *table.shape[1:])
    before, after = start - lead, table.shape[0] - (start - lead) - steps * stride
    if before or after > 0:
        spread = jnp.pad(spread, [(before, max(after, 0)), *rest])
    return table + spread[: table.shape[0]]


def add_rows(table: Array, ids: Int[Array, "client id"], updates: Array, heavy: bool = False) -> Array:
    """Adds the updates of clients to the rows of a table.

    Args:
        table: The table, `[row, ...]`.
        ids: The rows to which each client adds; ids past the table's end are dropped.
        updates: The updates, `[client, id, ...]`.
        heavy: Whether the program is compiled as heavy, see `simulation._compilation`; False by default.
    """
    # On a CPU a loop over the rows, up to each client's last real one, takes at most a quarter of the time of
    # XLA's scatter. In programs that are compiled as heavy a loop runs operation by operation, and takes four
    # times as long as the scatter.
    size = table.shape[0]

    def sequential(table: Array, ids: Int[Array, "client id"], updates: Array) -> Array:
        real = ids < size
        counts = jnp.max(jnp.where(real, jnp.arange(1, ids.shape[1] + 1), 0), axis=1)

        def client(c: Number, out: Array) -> Array:
            def row(i: Number, out: Array) -> Array:
                at = jnp.minimum(ids[c, i], size - 1)
                # Padding adds 0 to the last row: a spare row to take it would cost a copy of the table.
                update = jnp.where(real[c, i], updates[c, i], 0)
                new = jax.lax.dynamic_index_in_dim(out, at, keepdims=True) + update[None]
                return jax.lax.dynamic_update_slice_in_dim(out, new, at, 0)

            return jax.lax.fori_loop(0, counts[c], row, out)

        return jax.lax.fori_loop(0, ids.shape[0], client, table)

    def scattered(table: Array, ids: Int[Array, "client id"], updates: Array) -> Array:
        return table.at[ids].add(updates, mode="drop")

    if heavy:
        return scattered(table, ids, updates)
    return jax.lax.platform_dependent(table, ids, updates, cpu=sequential, default=scattered)


def _runs(ids: Int[Any, "step id"]) -> tuple[int, int] | None:
    """`(start, stride)` of known ids of the form `start + stride * step + 0, 1, 2, …`; None for others."""
    if not isinstance(ids, np.ndarray) or ids.ndim != 2 or not ids.size:
        return None
    start, (steps, width) = int(ids[0, 0]), ids.shape
    stride = int(ids[1, 0]) - start if steps > 1 else width
    wanted = start + stride * np.arange(steps)[:, None] + np.arange(width)
    return (start, stride) if stride >= width and np.array_equal(ids, wanted) else None


def locality(optimizer: optax.GradientTransformation, params: Params, tables: Sequence[Table]) -> Locality:
    """How far an optimiser lets the tables among `params` be cut into rows, which is found by a trial.

    Args:
        optimizer: The Optax optimiser.
        params: The parameters, or their shapes.
        tables: The tables among the leaves of `params`.

    Returns:
        `"step"` for an optimiser without state for a row, whose steps may see their batch's rows only;
        `"client"` if rows have state but do not mix, so that a client may work on all rows that it touches;
        `"dense"` if rows mix (by a norm over the table, say) or move without a gradient, so that the
        optimiser needs whole tables.
    """
    leaves, treedef = jax.tree_util.tree_flatten_with_path(jax.eval_shape(lambda: params))
    names = frozenset(t.leaf for t in tables)
    is_table = tuple(path_of(path) in names for path, _ in leaves)
    # The trial's tables have six rows, so that tables of all sizes, such as the clients', share one trial.
    shapes = tuple(
        ((6, *x.shape[1:]) if table else x.shape, np.dtype(x.dtype))
        for (_, x), table in zip(leaves, is_table, strict=True)
    )
    return _probe(optimizer, treedef, shapes, is_table)


@functools.lru_cache(maxsize=256)
def _probe(
    optimizer: optax.GradientTransformation,
    treedef: PyTreeDef,
    shapes: tuple[tuple[tuple[int, ...], np.dtype], ...],
    is_table: tuple[bool, ...],
) -> Locality:
    # An Optax transformation does not tell whether it treats rows one by one, so that it is tried: two steps
    # on a small random table with gradients on some rows only, once with the whole table and once with the
    # rows alone. It is not enough to look whether zero gradients give zero updates: LAMB's do, and yet its
    # norm over the table mixes the rows. Small and large gradients are tried, since clipping by a norm mixes
    # rows only from a threshold on.
    rng = np.random.default_rng(0)

    def tree(rows: int, draw: Callable[[tuple[int, ...]], np.ndarray]) -> list[Any]:
        return [
            draw((rows, *shape[1:]) if table else shape).astype(dtype)
            for (shape, dtype), table in zip(shapes, is_table, strict=True)
        ]

    def select(leaves: list[Any], rows: Int[np.ndarray, "row"]) -> Any:
        return treedef.unflatten([x[rows] if t else x for x, t in zip(leaves, is_table, strict=True)])

    # Row 1 is touched by both steps, 0 and 2 by the first, 3 by the second, 4 and 5 by none: state that
    # decays without a gradient, or is shared between rows, shows in one of them.
    touched = (np.array([0, 1, 2]), np.array([1, 3]))
    client, everything = np.arange(4), np.arange(6)
    start = tree(6, rng.standard_normal)
    gradients = [tree(6, rng.standard_normal) for _ in touched]
    for grads, rows in zip(gradients, touched, strict=True):
        off = np.setdiff1d(everything, rows)
        for g, table in zip(grads, is_table, strict=True):
            if table:
                g[off] = 0

    def steps(
        start: list[Array], gradients: list[list[Array]], views: tuple[Int[np.ndarray, "..."], ...]
    ) -> Any:
        params = list(start)
        state = optimizer.init(select(params, views[0]))
        for grads, rows in zip(gradients, views, strict=True):
            updates, state = optimizer_step(optimizer, select(grads, rows), state, select(params, rows))
            params = [
                x.at[rows].add(u) if t else x + u
                for x, u, t in zip(params, jax.tree.leaves(updates), is_table, strict=True)
            ]
        return params

    def init_shapes(rows: int) -> Any:
        return jax.eval_shape(optimizer.init, treedef.unflatten(tree(rows, np.zeros)))

    stateless = init_shapes(3) == init_shapes(2)

    @jax.jit
    def run(start: list[Array], gradients: list[list[Array]]) -> Any:
        start = [jnp.asarray(x) for x in start]
        by_step = steps(start, gradients, touched) if stateless else None
        return (
            steps(start, gradients, (everything,) * 2),
            steps(start, gradients, (client,) * 2),
            by_step,
        )

    # The trial may be called while a program is traced; its results are needed at once all the same.
    with jax.ensure_compile_time_eval():
        scaled = [[[(scale * g).astype(g.dtype) for g in grads] for grads in gradients] for scale in _SCALES]
        trials = [jax.device_get(run(start, grads)) for grads in scaled]

    def same(i: int) -> bool:
        pairs = [pair for trial in trials for pair in zip(trial[0], trial[i], strict=True)]
        return all(np.allclose(x, y, rtol=1e-6, atol=1e-7) for x, y in pairs)

    if not same(1):
        return "dense"
    return "step" if stateless and same(2) else "client"
