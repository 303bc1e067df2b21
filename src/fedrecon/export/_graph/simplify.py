"""Simplifies a program: decided comparisons, repeated operations and unread values are removed."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from fedrecon.export._graph.folding import fold, substitute
from fedrecon.export._graph.patterns import bits_of_fractions, find_solves, splat_of
from fedrecon.export._graph.program import Block, Node, Value
from fedrecon.export._graph.random import write_out_draws

Range = tuple[int, int]
_MOVES = (
    "broadcast_in_dim",
    "reshape",
    "squeeze",
    "transpose",
    "slice",
    "rev",
    "dynamic_slice",
    "expand_dims",
)
_NOT_COMPARED = ("sharding", "out_sharding", "update_jaxpr", "update_consts", "weak_type", "precision")


def reduce_program(program: Block, ranges: dict[Value, Range]) -> None:
    """Folds constants and removes operations that are not needed, in place.

    Args:
        program: The program as it was traced.
        ranges: The lowest and the highest number that an input of whole numbers can hold.
    """
    bits_of_fractions(program)
    fold(program)
    if write_out_draws(program):
        fold(program)
    before = -1
    while before != count(program):
        before = count(program)
        _forward(program, dict(ranges), program)
        find_solves(program)
        _merge(program, {}, program)
        _share_constants(program, {})
        remove_dead(program)


def count(block: Block) -> int:
    """Number of operations of a block, those in bodies of loops and conditions included."""
    return sum(1 + sum(count(inner) for inner in node.blocks) for node in block.nodes)


def _forward(block: Block, ranges: dict[Value, Range], program: Block) -> None:
    """Decides comparisons of numbers whose range is known, and removes operations that change nothing."""
    decided: dict[Value, bool] = {}
    new: dict[Value, Value] = {}
    keep = []
    for node in block.nodes:
        node.inputs = [_last(new, value) for value in node.inputs]
        same = _unchanged(node, decided)
        if same is not None:
            new[node.outputs[0]] = same
            continue
        keep.append(node)
        bounds = [_range(value, ranges) for value in node.inputs]
        if node.op in ("lt", "ge", "gt", "le") and bounds[0] and bounds[1]:
            answer = _decide_comparison(node.op, bounds[0], bounds[1])
            if answer is not None:
                decided[node.outputs[0]] = answer
        elif node.op == "broadcast_in_dim" and node.inputs[0] in decided:
            decided[node.outputs[0]] = decided[node.inputs[0]]
        if node.op.startswith(("gather", "scatter")) and bounds[1]:
            node.notes["index_range"] = bounds[1]
        out = _range_after(node, bounds)
        if out is not None:
            ranges[node.outputs[0]] = out
        for inner in node.blocks:
            substitute(inner, new)
            _forward(inner, ranges, program)
        if node.op == "scan":  # a value that every step passes on unchanged is read from outside instead
            body = node.blocks[0]
            fixed = [i for i in range(node.params["num_carry"]) if body.outputs[i] is body.inputs[i]]
            substitute(body, {body.inputs[i]: node.inputs[i] for i in fixed})
            new |= {node.outputs[i]: node.inputs[i] for i in fixed}
    block.nodes = keep
    substitute(program, new)


def _last(new: dict[Value, Value], value: Value) -> Value:
    while value in new:
        value = new[value]
    return value


def _unchanged(node: Node, decided: dict[Value, bool]) -> Value | None:
    """The input that an operation returns unchanged; None for an operation that changes its inputs."""
    out, first = node.outputs[0], node.inputs[0] if node.inputs else None
    if node.op == "select_n" and first in decided and node.inputs[1].shape == out.shape:
        return node.inputs[2 if decided[first] else 1]
    if node.op == "select_n" and first is not None and splat_of(first) is not None:
        chosen = node.inputs[1 + int(splat_of(first) or 0)]
        return chosen if chosen.shape == out.shape else None
    if node.op in ("reshape", "broadcast_in_dim", "convert_element_type", "transpose", "slice", "squeeze"):
        moved = node.op == "transpose" and tuple(node.params["permutation"]) != tuple(range(len(out.shape)))
        strided = node.op == "slice" and any(s not in (None, 1) for s in node.params["strides"] or ())
        if first is not None and first.shape == out.shape and first.dtype == out.dtype:
            return None if moved or strided else first
    neutral = {"add": 0, "add_any": 0, "sub": 0, "mul": 1, "div": 1}.get(node.op)
    if neutral is not None and len(node.inputs) == 2:
        for here, there in ((0, 1), (1, 0)) if node.op in ("add", "add_any", "mul") else ((0, 1),):
            value = node.inputs[here]
            if splat_of(node.inputs[there]) == neutral and value.shape == out.shape:
                return value
    return None


def _range(value: Value, ranges: dict[Value, Range]) -> Range | None:
    if value in ranges:
        return ranges[value]
    if value.known is None or value.weight is not None or np.dtype(value.dtype).kind not in "iu":
        return None
    array = np.asarray(value.known)
    return (int(array.min()), int(array.max())) if array.size else None


def _decide_comparison(op: str, a: Range, b: Range) -> bool | None:
    if op in ("gt", "le"):
        below = a[1] <= b[0]
        above = a[0] > b[1]
        return (op == "le") if below else ((op == "gt") if above else None)
    below, above = a[1] < b[0], a[0] >= b[1]
    return (op == "lt") if below else ((op == "ge") if above else None)


def _range_after(node: Node, bounds: Sequence[Range | None]) -> Range | None:
    if not node.outputs or getattr(node.outputs[0].dtype, "kind", "") not in "iu":
        return None
    if node.op in _MOVES and bounds[0]:
        return bounds[0]
    if node.op == "convert_element_type" and bounds[0]:
        return bounds[0]
    if node.op == "gather" and bounds[0] and "FILL" not in str(node.params["mode"]):
        return bounds[0]
    if node.op == "iota":
        size = node.outputs[0].shape[node.params["dimension"]]
        return (0, size - 1) if isinstance(size, int) else None
    if node.op in ("select_n", "concatenate"):
        cases = bounds[1:] if node.op == "select_n" else bounds
        real = [b for b in cases if b is not None]
        return (min(b[0] for b in real), max(b[1] for b in real)) if len(real) == len(cases) else None
    if node.op in ("min", "max", "add", "clamp") and all(bounds):
        low, high = zip(*[b for b in bounds if b], strict=True)
        if node.op == "clamp":
            return max(low[0], min(low[1], high[2])), min(high[2], max(high[1], low[0]))
        joins: dict[str, Any] = {"min": min, "max": max, "add": sum}
        join = joins[node.op]
        made = join(low), join(high)
        return made if made[0] >= -(2**31) and made[1] < 2**31 else None
    return None


def _merge(block: Block, seen: dict[Any, Node], program: Block) -> None:
    """Merges operations with equal parameters and inputs, so that each is computed once."""
    new: dict[Value, Value] = {}
    seen = dict(seen)
    keep = []
    for node in block.nodes:
        node.inputs = [_last(new, value) for value in node.inputs]
        for inner in node.blocks:
            substitute(inner, new)
            _merge(inner, seen, inner)
        if not node.blocks:
            shown = {k: v for k, v in node.params.items() if k not in _NOT_COMPARED}
            key = node.op, repr(sorted(shown.items(), key=lambda x: x[0])), *map(id, node.inputs)
            if key in seen:
                new.update(zip(node.outputs, seen[key].outputs, strict=True))
                continue
            seen[key] = node
        keep.append(node)
    block.nodes = keep
    substitute(program, new)
    if program is not block:
        substitute(block, new)


def _share_constants(block: Block, interned: dict[Any, Value]) -> None:
    """Makes equal small constants one value, so that `_merge` recognises operations that read them."""

    def shared(value: Value) -> Value:
        if value.known is None or value.weight is not None or value.size > 64:
            return value
        array = np.asarray(value.known)
        return interned.setdefault((array.dtype.str, array.shape, array.tobytes()), value)

    for node in block.nodes:
        node.inputs = [shared(value) for value in node.inputs]
        for inner in node.blocks:
            _share_constants(inner, interned)
    block.outputs = [shared(value) for value in block.outputs]


def remove_dead(block: Block) -> None:
    """Removes, in place, operations that nothing reads and carried values that only their update reads."""
    needed = set(block.outputs)
    keep = []
    for node in reversed(block.nodes):
        if not any(value in needed for value in node.outputs):
            continue
        if node.op in ("scan", "while"):
            _trim_loop(node, needed)
        elif node.op == "cond":
            live = [i for i, value in enumerate(node.outputs) if value in needed]
            node.outputs = [node.outputs[i] for i in live]
            for inner in node.blocks:
                inner.outputs = [inner.outputs[i] for i in live]
        for inner in node.blocks:
            remove_dead(inner)
        keep.append(node)
        needed.update(node.reads())
    block.nodes = keep[::-1]


def _trim_loop(node: Node, needed: set[Value]) -> None:
    body = node.blocks[-1]
    carried = node.params.get("num_carry", len(node.inputs))
    inputs = len(body.inputs)
    stacked = [i for i in range(carried, len(node.outputs)) if node.outputs[i] in needed]
    live = {i for i in range(carried) if node.outputs[i] in needed}
    if node.op == "while":
        test = node.blocks[0]
        asked = _reachable(test, test.outputs)
        live |= {i for i in range(carried) if test.inputs[i] in asked}
    while True:
        asked = _reachable(body, [body.outputs[i] for i in [*sorted(live), *stacked]])
        more = live | {i for i in range(carried) if body.inputs[i] in asked}
        if more == live:
            break
        live = more
    kept = sorted(live)
    read = [i for i in range(carried, inputs) if body.inputs[i] in asked]
    if node.op == "while":
        node.blocks[0].inputs = [node.blocks[0].inputs[i] for i in kept]
    body.outputs = [body.outputs[i] for i in [*kept, *stacked]]
    body.inputs = [body.inputs[i] for i in [*kept, *read]]
    node.outputs = [node.outputs[i] for i in [*kept, *stacked]]
    node.inputs = [node.inputs[i] for i in [*kept, *read]]
    if node.op == "scan":
        node.params["num_carry"] = len(kept)


def _reachable(block: Block, outputs: Sequence[Value]) -> set[Value]:
    """All values that the given outputs of a block depend on."""
    needed = set(outputs)
    for node in reversed(block.nodes):
        if any(value in needed for value in node.outputs):
            needed.update(node.reads())
    return needed
