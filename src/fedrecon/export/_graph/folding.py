"""Constant folding: values that depend on constants and parameters only are computed during the export."""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from fedrecon.export._graph.program import Block, Node, Value, constant, evaluate_node

# A value computed from parameters replaces its operations only up to this number of entries. A larger one,
# such as a transposed matrix, would store a second copy of a parameter in the file.
MOST_ENTRIES = 4096
MOST_DRAWS = 1024
# Operations that only move numbers of a parameter are folded up to this number of entries.
_FEW = 64
_MOVES = (
    *("reshape", "broadcast_in_dim", "squeeze", "transpose", "slice", "split", "concatenate", "gather"),
    *("pad", "rev", "dynamic_slice", "expand_dims", "convert_element_type", "stack"),
)


def hoist(nodes: list[Node], static: set[Value] | None = None) -> list[Node]:
    """Moves operations that do not change from step to step out of loops.

    Out of conditions and `while` loops, which may not run at all, only operations whose inputs are known
    during the export are moved.

    Args:
        nodes: The operations of a block, in order.
        static: Values that are known during the export, to which those of `nodes` are added; None, the
            default, for none.

    Returns:
        The operations of the block with those that were moved out of its bodies.
    """
    static = set() if static is None else static

    def is_known(value: Value) -> bool:
        return value.known is not None or value in static

    out: list[Node] = []
    for node in nodes:
        for block in node.blocks:
            inside, stay = set(block.inputs), []
            for inner in hoist(block.nodes, static):
                reads = list(inner.reads())
                fixed = not any(value in inside for value in reads)
                if fixed and (node.op == "scan" or all(is_known(value) for value in reads)):
                    out.append(inner)
                    if is_sized(inner) and all(is_known(value) for value in reads):
                        static.update(inner.outputs)
                else:
                    inside.update(inner.outputs)
                    stay.append(inner)
            block.nodes = stay
        out.append(node)
        if is_sized(node) and all(is_known(value) for value in node.reads()):
            static.update(node.outputs)
    return out


def is_sized(node: Node) -> bool:
    """Whether the shapes of a node's results are fixed, whatever lengths the caller chooses."""
    return all(isinstance(d, int) for value in node.outputs for d in value.shape)


def fold(program: Block) -> None:
    """Replaces, in place, values that depend on no input by their content."""
    program.nodes = hoist(program.nodes)
    _fold(program, of_weights=False)
    substitute(program, _identical_rows(program.nodes))
    _fold(program, of_weights=True)


def substitute(block: Block, new: dict[Value, Value]) -> None:
    """Replaces values wherever they are read, in place; a replacement may be replaced itself."""
    if not new:
        return

    def final(value: Value) -> Value:
        while value in new:
            value = new[value]
        return value

    for node in block.nodes:
        node.inputs = [final(value) for value in node.inputs]
        for inner in node.blocks:
            substitute(inner, new)
    block.outputs = [final(value) for value in block.outputs]


def _fold(program: Block, of_weights: bool) -> None:
    weighted: set[Value] = set()
    static: set[Value] = set()

    def is_known(value: Value) -> bool:
        return value in static or (value.known is not None and (of_weights or value.weight is None))

    for node in program.nodes:
        reads = list(node.reads())
        if _foldable(node) and all(is_known(value) for value in reads):
            static.update(node.outputs)
            if any(value.weight is not None or value in weighted for value in reads):
                weighted.update(node.outputs)
    wanted: list[Value] = []
    needed = set(program.outputs)
    keep: list[Node] = []
    for node in reversed(program.nodes):
        asked = [value for value in node.outputs if value in needed]
        if node.outputs and node.outputs[0] in static:
            if all(_writable(node, value, value in weighted) for value in asked):
                wanted += asked
                continue
            if not asked:
                continue
        keep.append(node)
        needed.update(node.reads())
    contents = _evaluate_nodes(program.nodes, wanted)
    substitute(program, dict(zip(wanted, map(constant, contents), strict=True)))
    program.nodes = keep[::-1]


def _foldable(node: Node) -> bool:
    """Whether a node is computed during the export where its inputs are known.

    A large array of random numbers is not: its bits are stored in 3 bytes a number, the numbers in 4.
    """
    many = "fraction" in node.notes and node.outputs[0].size >= MOST_DRAWS
    return is_sized(node) and node.op != "platform_index" and not many


def _writable(node: Node, value: Value, weighted: bool) -> bool:
    if weighted and node.op in _MOVES and value.size > _FEW:
        return False
    if jax.numpy.issubdtype(value.dtype, jax.dtypes.extended):
        return False
    return not weighted or value.size <= MOST_ENTRIES


def _evaluate_nodes(nodes: Sequence[Node], wanted: Sequence[Value]) -> list[np.ndarray]:
    """The arrays of the values in `wanted`, computed by one compiled program."""
    needed, tape = set(wanted), []
    for node in reversed(nodes):
        if any(value in needed for value in node.outputs):
            tape.append(node)
            needed.update(node.reads())
    weights = [value for value in needed if value.weight is not None]

    def everything(arrays: Sequence[Any]) -> list[Any]:
        made = dict(zip(weights, arrays, strict=True))

        def read(value: Value) -> Any:
            return made.get(value, value.known)

        for node in reversed(tape):
            made.update(zip(node.outputs, evaluate_node(node, read), strict=True))
        return [made[value] for value in wanted]

    return [np.asarray(x) for x in jax.jit(everything)([value.known for value in weights])]


def _identical_rows(nodes: Sequence[Node]) -> dict[Value, Value]:
    """Maps the results of gathers of all rows 0, 1, 2, … of a table to the table itself."""
    return {
        node.outputs[0]: node.inputs[0]
        for node in nodes
        if node.op == "gather" and takes_rows(node) and _all_rows(node)
    }


def takes_rows(node: Node) -> bool:
    """Whether a gather takes whole rows along the first axis, in the layout `[*index, *row]`."""
    table, indices, made = node.inputs[0], node.inputs[1], node.outputs[0]
    numbers, sizes = node.params["dimension_numbers"], node.params["slice_sizes"]
    ahead = len(indices.shape) - 1
    return (
        tuple(sizes) == (1, *table.shape[1:])
        and tuple(numbers.collapsed_slice_dims) == (0,)
        and tuple(numbers.start_index_map) == (0,)
        and not numbers.operand_batching_dims
        and tuple(numbers.offset_dims) == tuple(range(ahead, len(made.shape)))
    )


def _all_rows(node: Node) -> bool:
    table, indices = node.inputs[:2]
    if indices.known is None or node.outputs[0].shape != table.shape:
        return False
    return np.array_equal(np.asarray(indices.known).reshape(-1), np.arange(table.shape[0]))
