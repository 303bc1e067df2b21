"""Gathers and scatters as ONNX: by rows where they take rows, and else by places in the flattened array.

JAX clips the indices of a gather to the array's range, or fills the results of those outside; ONNX Runtime
counts negative indices from the end and raises an error for others outside. So indices are clipped in the
graph, unless they are known to lie in the range. Sums are written as ScatterElements, since ScatterND with
`reduction="add"` loses additions when it runs on several threads.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from fedrecon.export._graph.elementwise import Write
from fedrecon.export._graph.program import ExportError, Node, Value
from fedrecon.export._graph.shapes import reshape_to, slice_axis
from fedrecon.export._graph.writer import Writer, onnx_type

_REDUCTIONS = {"scatter": "none", "scatter-add": "add", "scatter-mul": "mul"}
_REDUCTIONS |= {"scatter-min": "min", "scatter-max": "max", "scatter_add": "add", "scatter_mul": "mul"}
_REDUCTIONS |= {"scatter_min": "min", "scatter_max": "max"}


def _with_signed_indices(write: Write) -> Write:
    """The same for indices of any type: ONNX takes int32 and int64 only, and JAX searches with uint32."""

    def signed(w: Writer, node: Node, x: list[str]) -> str | list[str]:
        indices = node.inputs[1]
        if np.dtype(indices.dtype) not in (np.int32, np.int64):
            wide = None if indices.known is None else np.asarray(indices.known).astype(np.int64)
            value = Value(indices.shape, np.dtype(np.int64), wide)
            node = replace(node, inputs=[node.inputs[0], value, *node.inputs[2:]])
            x = [x[0], w.op("Cast", x[1], to=onnx_type(value.dtype)), *x[2:]]
        return write(w, node, x)

    return signed


def _gather(w: Writer, node: Node, x: list[str]) -> str:
    numbers = node.params["dimension_numbers"]
    table, sizes = node.inputs[0].shape, tuple(node.params["slice_sizes"])
    at = tuple(int(i) for i in numbers.start_index_map)
    whole = all(i in at or sizes[i] == table[i] for i in range(len(table)))
    if (
        len(at) == 1
        and at == tuple(numbers.collapsed_slice_dims)
        and whole
        and not (numbers.operand_batching_dims)
    ):
        name = _along_axis(w, node, x, at[0])
    elif len(at) == 1 and whole and node.inputs[1].shape == (1,) and not numbers.collapsed_slice_dims:
        name = _slice_from(w, node, x, at[0])
    else:
        name = _by_places(w, node, x)
    return _gather_with_fill(w, node, x, name)


def _along_axis(w: Writer, node: Node, x: list[str], axis: int) -> str:
    """A gather of whole slices along one axis."""
    indices = node.inputs[1]
    last = len(indices.shape) - 1
    name = w.op("Squeeze", x[1], w.ints(last)) if last else reshape_to(w, x[1], ())
    size = node.inputs[0].shape[axis]
    if not _within(node, [size - 1]):
        # ONNX's Gather would read index -1 as the last row, where JAX clips it to row 0.
        name = _held(w, name, indices.dtype, size - 1)
    made = w.op("Gather", x[0], name, axis=axis)
    offsets = set(node.params["dimension_numbers"].offset_dims)
    # The axes of ONNX's result: those of the index stand where the gathered axis was. JAX may want others.
    window = [*range(axis), *range(axis + last, len(node.outputs[0].shape))]
    batch = list(range(axis, axis + last))
    order = [window.pop(0) if i in offsets else batch.pop(0) for i in range(len(node.outputs[0].shape))]
    return made if order == list(range(len(order))) else w.op("Transpose", made, perm=order)


def _slice_from(w: Writer, node: Node, x: list[str], axis: int) -> str:
    """A slice along one axis, as which JAX indexes an array whose other lengths are the caller's."""
    size = node.params["slice_sizes"][axis]
    first = _held(w, x[1], node.inputs[1].dtype, node.inputs[0].shape[axis] - size)
    first = w.op("Cast", first, to=onnx_type(np.dtype(np.int64)))
    return w.op("Slice", x[0], first, w.op("Add", first, w.ints(size)), w.ints(axis))


def _by_places(w: Writer, node: Node, x: list[str]) -> str:
    numbers, out = node.params["dimension_numbers"], node.outputs[0]
    sizes = tuple(node.params["slice_sizes"])
    gone = {*numbers.collapsed_slice_dims, *numbers.operand_batching_dims}
    window = [i for i in range(len(sizes)) if i not in gone]
    places = _places(
        w,
        node,
        x[1],
        numbers.start_index_map,
        numbers.operand_batching_dims,
        numbers.start_indices_batching_dims,
        sizes,
        window,
    )
    table = node.inputs[0]
    flat = x[0] if len(table.shape) == 1 else reshape_to(w, x[0], (table.size,))
    if isinstance(places, np.ndarray):
        steps = np.diff(places.reshape(-1))
        if places.size > 2 and len(window) == 0 and steps[0] > 0 and np.all(steps == steps[0]):
            start = int(places.flat[0])
            taken = slice_axis(w, flat, 0, start, int(places.flat[-1]) + 1, int(steps[0]))
            return taken if len(out.shape) == 1 else reshape_to(w, taken, out.shape)
        name = w.constant(places.astype(np.int32))
    else:
        name = places
    made = w.op("Gather", flat, name, axis=0)
    ahead = len(out.shape) - len(window)
    offsets = list(numbers.offset_dims)
    batch, last = iter(range(ahead)), iter(range(ahead, len(out.shape)))
    order = [next(last) if i in offsets else next(batch) for i in range(len(out.shape))]
    return made if order == list(range(len(order))) else w.op("Transpose", made, perm=order)


def _gather_with_fill(w: Writer, node: Node, x: list[str], name: str) -> str:
    """Replaces the entries whose index lies outside of the array by the fill value, in JAX's fill mode."""
    if "FILL" not in str(node.params["mode"]):
        return name
    numbers, out = node.params["dimension_numbers"], node.outputs[0]
    most = [node.inputs[0].shape[i] - node.params["slice_sizes"][i] for i in numbers.start_index_map]
    if _within(node, most):
        return name
    there = _inside(w, node.inputs[1], x[1], most)
    window = [i for i in range(len(out.shape)) if i in numbers.offset_dims]
    if window:
        there = w.op("Unsqueeze", there, w.ints(*window))
    fill = node.params["fill_value"]
    if fill is None:
        kind = np.dtype(out.dtype)
        fill = {"f": np.nan, "b": True}.get(kind.kind)
        if fill is None:
            fill = np.iinfo(kind).min if kind.kind == "i" else np.iinfo(kind).max
    return w.op("Where", there, name, w.scalar(fill, out.dtype))


def _scatter(w: Writer, node: Node, x: list[str]) -> str:
    numbers = node.params["dimension_numbers"]
    table, updates = node.inputs[0], node.inputs[2]
    gone = {*numbers.inserted_window_dims, *numbers.operand_batching_dims}
    window = [i for i in range(len(table.shape)) if i not in gone]
    sizes = [1] * len(table.shape)
    for axis, at in zip(window, numbers.update_window_dims, strict=True):
        sizes[axis] = updates.shape[at]
    places = _places(
        w,
        node,
        x[1],
        numbers.scatter_dims_to_operand_dims,
        numbers.operand_batching_dims,
        numbers.scatter_indices_batching_dims,
        sizes,
        window,
    )
    most = [table.shape[i] - sizes[i] for i in numbers.scatter_dims_to_operand_dims]
    flat = x[0] if len(table.shape) == 1 else reshape_to(w, x[0], (table.size,))
    drops = "FILL" in str(node.params["mode"]) and not _within(node, most)
    name = w.constant(places.astype(np.int64)) if isinstance(places, np.ndarray) else places
    if drops:  # JAX drops updates outside of the array: they go to an extra entry at its end, cut off below
        there = _inside(w, node.inputs[1], x[1], most)
        if window:
            there = w.op("Unsqueeze", there, w.ints(*(-1 - i for i in range(len(window)))))
        kind = node.inputs[1].dtype if isinstance(places, str) else np.int64
        name = w.op("Where", there, name, w.scalar(table.size, kind))
        flat = w.op("Concat", flat, w.constant(np.zeros(1, table.dtype)), axis=0)
    # The updates are brought to the layout of the places: scatter axes first, then the window's.
    ahead = [i for i in range(len(updates.shape)) if i not in numbers.update_window_dims]
    order = [*ahead, *numbers.update_window_dims]
    values = x[2]
    if order != list(range(len(order))):
        values = w.op("Transpose", values, perm=order)
    if len(updates.shape) != 1:
        values, name = (w.op("Reshape", part, w.ints(-1)) for part in (values, name))
    # ScatterElements and not ScatterND: in ONNX Runtime 1.32 additions of ScatterND to one place, made by
    # several threads, overwrite each other.
    result = w.op("ScatterElements", flat, name, values, axis=0, reduction=_REDUCTIONS[node.op])
    if drops:
        result = slice_axis(w, result, 0, 0, table.size)
    return result if len(table.shape) == 1 else reshape_to(w, result, table.shape)


def _places(
    w: Writer,
    node: Node,
    name: str,
    at: Any,
    batched: Any,
    batched_in: Any,
    sizes: Any,
    window: Sequence[int],
) -> Any:
    """Places in the flattened array, `[*index, *window]`.

    Returns:
        An array where the indices are known during the export, else the name of the graph's tensor.
    """
    table, indices = node.inputs[:2]
    at, batched, batched_in = ([int(i) for i in axes] for axes in (at, batched, batched_in))
    if not all(isinstance(d, int) for d in table.shape):
        raise ExportError("a gather or scatter in an array of unknown size cannot be written")
    strides = [int(np.prod(table.shape[i + 1 :], dtype=np.int64)) for i in range(len(table.shape))]
    grid = np.zeros([1] * len(window), np.int32)
    for place, axis in enumerate(window):
        steps = np.arange(sizes[axis], dtype=np.int32) * strides[axis]
        grid = grid + steps.reshape([-1 if i == place else 1 for i in range(len(window))])
    most = [table.shape[i] - sizes[i] for i in at]
    ahead = len(indices.shape) - 1
    offsets = np.zeros([1] * ahead, np.int32)  # along the batch axes of the array and the indices
    for axis, place in zip(batched, batched_in, strict=True):
        steps = np.arange(table.shape[axis], dtype=np.int32) * strides[axis]
        offsets = offsets + steps.reshape([-1 if i == place else 1 for i in range(ahead)])
    if indices.known is not None:
        places = np.asarray(indices.known)
        first = sum(
            np.clip(places[..., k].astype(np.int64), 0, most[k]) * strides[axis] for k, axis in enumerate(at)
        )
        spread = (np.asarray(first) + offsets)[(...,) + (None,) * len(window)]
        return np.broadcast_to(spread + grid, (*indices.shape[:-1], *(sizes[i] for i in window)))
    parts = w.ops("Split", [name, w.ints(*[1] * len(at))], len(at), axis=ahead) if len(at) > 1 else [name]
    total = None
    for k, axis in enumerate(at):
        part = w.op("Squeeze", parts[k], w.ints(ahead)) if ahead else reshape_to(w, parts[k], ())
        held = part if _within(node, most) and len(at) == 1 else _held(w, part, indices.dtype, most[k])
        scaled = held
        if strides[axis] != 1:
            scaled = w.op("Mul", held, w.scalar(strides[axis], indices.dtype))
        total = scaled if total is None else w.op("Add", total, scaled)
    assert total is not None
    if batched:
        total = w.op("Add", total, w.known(offsets.astype(indices.dtype)))
    if window:
        total = w.op("Unsqueeze", total, w.ints(*(-1 - i for i in range(len(window)))))
        total = w.op("Add", total, w.known(grid.astype(indices.dtype)))
    return total


def _within(node: Node, most: Sequence[int]) -> bool:
    """Whether all places are known to lie in the array."""
    indices, bounds = node.inputs[1], node.notes.get("index_range")
    if indices.known is not None:
        known = np.asarray(indices.known)
        return not known.size or bool(np.all(known >= 0) and np.all(known <= np.array(most)))
    return bounds is not None and bounds[0] >= 0 and bounds[1] <= min(most)


def _held(w: Writer, name: str, dtype: Any, most: int) -> str:
    return w.op("Min", w.op("Max", name, w.scalar(0, dtype)), w.scalar(most, dtype))


def _inside(w: Writer, indices: Value, name: str, most: Sequence[int]) -> str:
    """Whether each place lies in the array, `[*index]`."""
    dtype = indices.dtype
    low = w.op("GreaterOrEqual", name, w.scalar(0, dtype))
    high = w.op("LessOrEqual", name, w.constant(np.array(most, dtype)))
    both = w.op("And", low, high)
    last = len(indices.shape) - 1
    if len(most) == 1:
        return w.op("Squeeze", both, w.ints(last)) if last else reshape_to(w, both, ())
    least = w.op("ReduceMin", w.op("Cast", both, to=6), w.ints(last), keepdims=0)
    return w.op("Cast", least, to=onnx_type(bool))


INDEXING: dict[str, Write] = {"gather": _gather, **dict.fromkeys(_REDUCTIONS, _scatter)}
INDEXING = {name: _with_signed_indices(write) for name, write in INDEXING.items()}
