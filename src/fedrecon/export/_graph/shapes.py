"""Operations that move numbers or put several together, as ONNX."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from fedrecon.export._graph.elementwise import Write
from fedrecon.export._graph.program import ExportError, Node, Value
from fedrecon.export._graph.writer import Writer, onnx_type

_INT64 = 7


def _broadcast(w: Writer, node: Node, x: list[str]) -> str:
    """Writes the array with axes of length 1 instead of repeated ones; a reader that needs it expands it."""
    shape, at = node.params["shape"], [int(d) for d in node.params["broadcast_dimensions"]]
    old, name = node.inputs[0].shape, x[0]
    new = [1] * len(shape)
    for axis, size in zip(at, old, strict=True):
        new[axis] = size
    if tuple(new) != tuple(old) and len(shape) > len(old):
        added = [axis for axis in range(len(shape)) if axis not in at]
        # Leading axes need no Unsqueeze: broadcasting adds them by itself.
        if added != list(range(len(added))):
            name = w.op("Unsqueeze", name, w.ints(*added))
    if all(isinstance(d, int) for d in shape) and tuple(new) == tuple(shape) and len(shape) == len(old):
        return name
    w.loose[node.outputs[0]] = name
    return ""


def reshape_to(w: Writer, name: str, shape: Sequence[Any]) -> str:
    """An array in another shape, of which one dimension may be symbolic."""
    symbolic = [i for i, d in enumerate(shape) if not isinstance(d, int)]
    if len(symbolic) <= 1:
        return w.op("Reshape", name, w.ints(*(d if isinstance(d, int) else -1 for d in shape)))
    return w.op("Reshape", name, w.shape(shape, w.dims))


def _reshape(w: Writer, node: Node, x: list[str]) -> str:
    return reshape_to(w, x[0], node.outputs[0].shape)


def _squeeze(w: Writer, node: Node, x: list[str]) -> str:
    return w.op("Squeeze", x[0], w.ints(*(int(d) for d in node.params["dimensions"])))


def _transpose(w: Writer, node: Node, x: list[str]) -> str:
    return w.op("Transpose", x[0], perm=[int(d) for d in node.params["permutation"]])


def slice_axis(w: Writer, name: str, axis: int, start: int, stop: int, step: int = 1) -> str:
    """A part of an array along one axis."""
    return w.op("Slice", name, w.ints(start), w.ints(stop), w.ints(axis), w.ints(step))


def _slice(w: Writer, node: Node, x: list[str]) -> str:
    shape, params = node.inputs[0].shape, node.params
    strides = params["strides"] or (1,) * len(shape)
    parts = []
    for axis, (start, stop, step) in enumerate(
        zip(params["start_indices"], params["limit_indices"], strides, strict=True)
    ):
        if not (start == 0 and stop == shape[axis] and step == 1):
            if not (isinstance(start, int) and (isinstance(stop, int) or stop == shape[axis])):
                raise ExportError("a slice whose bounds depend on a length cannot be written")
            parts.append((axis, start, stop if isinstance(stop, int) else 2**31 - 1, step))
    if not parts:
        return x[0]
    axes, starts, stops, steps = zip(*parts, strict=True)
    more = [] if all(step == 1 for step in steps) else [w.ints(*steps)]
    return w.op("Slice", x[0], w.ints(*starts), w.ints(*stops), w.ints(*axes), *more)


def _rev(w: Writer, node: Node, x: list[str]) -> str:
    axes = [int(d) for d in node.params["dimensions"]]
    ends = w.ints(*[-(2**31)] * len(axes))
    return w.op("Slice", x[0], w.ints(*[-1] * len(axes)), ends, w.ints(*axes), w.ints(*[-1] * len(axes)))


def _concatenate(w: Writer, node: Node, x: list[str]) -> str:
    return x[0] if len(x) == 1 else w.op("Concat", *x, axis=int(node.params["dimension"]))


def _stack(w: Writer, node: Node, x: list[str]) -> str:
    axis = int(node.params["axis"])
    return w.op("Concat", *(w.op("Unsqueeze", name, w.ints(axis)) for name in x), axis=axis)


def _split(w: Writer, node: Node, x: list[str]) -> list[str]:
    sizes = [int(s) for s in node.params["sizes"]]
    return w.ops("Split", [x[0], w.ints(*sizes)], len(sizes), axis=int(node.params["axis"]))


def _pad(w: Writer, node: Node, x: list[str]) -> str:
    name, shape = x[0], list(node.inputs[0].shape)
    config = node.params["padding_config"]
    for axis, (_, _, between) in enumerate(config):
        if between:  # pads on an axis behind each entry, merges both axes, and cuts the padding at the end
            size = shape[axis]
            wide = w.op("Unsqueeze", name, w.ints(axis + 1))
            pads = [0] * 2 * (len(shape) + 1)
            pads[len(shape) + 1 + axis + 1] = between
            wide = w.op("Pad", wide, w.ints(*pads), x[1])
            shape[axis] = size * (between + 1)
            name = slice_axis(w, reshape_to(w, wide, shape), axis, 0, shape[axis] - between)
            shape[axis] -= between
    low, high = [c[0] for c in config], [c[1] for c in config]
    if any(v > 0 for v in (*low, *high)):
        name = w.op("Pad", name, w.ints(*(max(v, 0) for v in (*low, *high))), x[1])
    for axis, (before, after, _) in enumerate(config):
        if before < 0 or after < 0:
            name = slice_axis(w, name, axis, max(-before, 0), after if after < 0 else 2**31 - 1)
    return name


def _iota(w: Writer, node: Node, x: list[str]) -> str:
    out, axis = node.outputs[0], node.params["dimension"]
    size = out.shape[axis]
    if isinstance(size, int):
        name = w.known(np.arange(size, dtype=out.dtype))
    else:
        length = w.op("Squeeze", w.op("Cast", w.dims[str(size)], to=onnx_type(out.dtype)))
        name = w.op("Range", w.scalar(0, out.dtype), length, w.scalar(1, out.dtype))
    if len(out.shape) == 1:
        return name
    name = reshape_to(w, name, [size if i == axis else 1 for i in range(len(out.shape))])
    w.loose[out] = name
    return ""


def start_of(w: Writer, index: Value, name: str, most: int) -> str:
    """The start of a dynamic slice, clipped to the range from 0 to `most`, as a vector of one number.

    Args:
        w: The writer of the graph.
        index: The start as a value of the program, a scalar.
        name: Name of the start in the graph.
        most: The last start at which the slice lies inside the array; JAX clips to it, ONNX would shorten the
            slice instead.
    """
    if index.known is not None:
        return w.ints(min(max(int(np.asarray(index.known)), 0), most))
    wide = w.op("Cast", reshape_to(w, name, (1,)), to=_INT64)
    return w.op("Min", w.op("Max", wide, w.ints(0)), w.ints(most))


def _dynamic_slice(w: Writer, node: Node, x: list[str]) -> str:
    name, sizes = x[0], node.params["slice_sizes"]
    for axis, (size, length) in enumerate(zip(sizes, node.inputs[0].shape, strict=True)):
        if size != length:
            start = start_of(w, node.inputs[1 + axis], x[1 + axis], length - size)
            name = w.op("Slice", name, start, w.op("Add", start, w.ints(size)), w.ints(axis))
    return name


def _dynamic_update_slice(w: Writer, node: Node, x: list[str]) -> str:
    whole, part = node.inputs[:2]
    axes = [i for i, (a, b) in enumerate(zip(whole.shape, part.shape, strict=True)) if a != b]
    if not axes:
        return x[1]
    if len(axes) > 1:
        raise ExportError("an update of a part along several axes cannot be written")
    (axis,) = axes
    size, length = part.shape[axis], whole.shape[axis]
    start = start_of(w, node.inputs[2 + axis], x[2 + axis], length - size)
    before = w.op("Slice", x[0], w.ints(0), start, w.ints(axis))
    after = w.op("Slice", x[0], w.op("Add", start, w.ints(size)), w.ints(length), w.ints(axis))
    return w.op("Concat", before, x[1], after, axis=axis)


def _reduce(kind: str) -> Write:
    def write(w: Writer, node: Node, x: list[str]) -> str:
        axes = [int(a) for a in node.params["axes"]]
        if not axes:
            return x[0]
        logical = node.inputs[0].dtype == bool
        name = w.op("Cast", x[0], to=6) if logical else x[0]  # as int32: ONNX has no maximum of booleans
        name = w.op(kind, name, w.ints(*axes), keepdims=0)
        return w.op("Cast", name, to=9) if logical else name

    return write


def _argument(kind: str) -> Write:
    def write(w: Writer, node: Node, x: list[str]) -> str:
        (axis,) = node.params["axes"]
        name = w.op("Cast", x[0], to=6) if node.inputs[0].dtype == bool else x[0]
        index = w.op(kind, name, axis=int(axis), keepdims=0)
        return w.op("Cast", index, to=onnx_type(node.outputs[0].dtype))

    return write


def _cumsum(w: Writer, node: Node, x: list[str]) -> str:
    axis = w.scalar(int(node.params["axis"]), np.int64)
    return w.op("CumSum", x[0], axis, reverse=int(node.params["reverse"]))


def _sort(w: Writer, node: Node, x: list[str]) -> list[str]:
    """A sort by the first operands: TopK keeps the order of equal numbers, as JAX's stable sort does.

    So after sorts by the last key up to the first, the order is that by all keys.
    """
    axis, count = int(node.params["dimension"]), node.params["num_keys"]
    size = node.inputs[0].shape[axis]
    for place in range(count - 1, -1, -1):
        key, dtype = x[place], np.dtype(node.inputs[place].dtype)
        if dtype.kind in "bu":  # TopK takes signed numbers only
            key = w.op("Cast", key, to=6 if dtype.kind == "b" else _INT64)
        _, order = w.ops("TopK", [key, w.ints(size)], 2, axis=axis, largest=0, sorted=1)
        x = [w.op("GatherElements", name, order, axis=axis) for name in x]
    return x


def _top_k(w: Writer, node: Node, x: list[str]) -> list[str]:
    axis = int(node.params.get("axis", len(node.inputs[0].shape) - 1))
    values, places = w.ops("TopK", [x[0], w.ints(int(node.params["k"]))], 2, axis=axis, largest=1, sorted=1)
    return [values, w.op("Cast", places, to=onnx_type(node.outputs[1].dtype))]


SHAPES: dict[str, Write] = {
    "broadcast_in_dim": _broadcast,
    "reshape": _reshape,
    "squeeze": _squeeze,
    "transpose": _transpose,
    "slice": _slice,
    "rev": _rev,
    "concatenate": _concatenate,
    "stack": _stack,
    "split": _split,
    "pad": _pad,
    "iota": _iota,
    "dynamic_slice": _dynamic_slice,
    "dynamic_update_slice": _dynamic_update_slice,
    "reduce_sum": _reduce("ReduceSum"),
    "reduce_max": _reduce("ReduceMax"),
    "reduce_min": _reduce("ReduceMin"),
    "reduce_prod": _reduce("ReduceProd"),
    "reduce_and": _reduce("ReduceMin"),
    "reduce_or": _reduce("ReduceMax"),
    "argmax": _argument("ArgMax"),
    "argmin": _argument("ArgMin"),
    "cumsum": _cumsum,
    "sort": _sort,
    "top_k": _top_k,
}
