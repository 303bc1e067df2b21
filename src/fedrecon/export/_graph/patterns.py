"""Recognises groups of operations that ONNX must be given as one: a linear solve, a uniform draw."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import numpy as np

from fedrecon.export._graph.folding import substitute
from fedrecon.export._graph.program import Block, Node, Value


def find_solves(block: Block, outside: Mapping[Value, Node] = MappingProxyType({})) -> None:
    """Replaces two triangular solves with one Cholesky factor by a single `spd_solve`, in place.

    ONNX has neither factorisations nor triangular solves, but the system can be solved iteratively.

    Args:
        block: The operations to search.
        outside: The operation that makes each value of the enclosing blocks; none by default.
    """
    maker = {**outside, **{value: node for node in block.nodes for value in node.outputs}}
    for node in block.nodes:
        for inner in node.blocks:
            find_solves(inner, maker)
        if node.op != "triangular_solve":
            continue
        first = _before(node.inputs[1], maker)
        factor = _cholesky(maker.get(node.inputs[0]), maker)
        rows = not node.params["left_side"]
        if (
            factor is None
            or first is None
            or first.op != "triangular_solve"
            or _cholesky(maker.get(first.inputs[0]), maker) is not factor
            or first.params["left_side"] != node.params["left_side"]
            or node.params["unit_diagonal"]
            or not (node.params["lower"] and first.params["lower"])
            or node.params["transpose_a"] == rows
            or first.params["transpose_a"] != rows
            or len(node.outputs[0].shape) != 2
        ):
            continue
        node.op, node.primitive = "spd_solve", None
        node.params = {"rows": rows}
        node.inputs = [factor.inputs[0], first.inputs[1]]


def _before(value: Value, maker: Mapping[Value, Node]) -> Node | None:
    """The operation that made a value, past reshapes from a matrix to a vector and back."""
    node = maker.get(value)
    while node is not None and node.op in ("broadcast_in_dim", "squeeze", "reshape"):
        if node.inputs[0].size != value.size:
            return None
        node = maker.get(node.inputs[0])
    return node if node is not None and node.outputs[0].shape == value.shape else None


def _cholesky(node: Node | None, maker: dict[Value, Node]) -> Node | None:
    """The Cholesky factorisation of which a node selects the lower triangle; None for another node."""
    if node is None or node.op == "cholesky":
        return node
    if node.op == "select_n" and node.inputs[0].known is not None and splat_of(node.inputs[1]) == 0:
        mask = np.asarray(node.inputs[0].known)
        if mask.ndim == 2 and np.array_equal(mask, np.tril(np.ones_like(mask))):
            return _cholesky(maker.get(node.inputs[2]), maker)
    return None


def bits_of_fractions(program: Block, outside: Mapping[Value, Node] = MappingProxyType({})) -> None:
    """Marks bit casts to numbers from 1 to below 2, and removes pairs that wrap and unwrap a random key.

    Args:
        program: The operations to search.
        outside: The operation that makes each value of the enclosing blocks; none by default.
    """
    maker = {**outside, **{value: node for node in program.nodes for value in node.outputs}}
    new: dict[Value, Value] = {}
    for node in program.nodes:
        for inner in node.blocks:
            bits_of_fractions(inner, maker)
        made = maker.get(node.inputs[0]) if node.inputs else None
        if node.op == "random_unwrap" and made is not None and made.op == "random_wrap":
            new[node.outputs[0]] = made.inputs[0]
        if node.op == "bitcast_convert_type" and made is not None and made.op == "or":
            ones = [splat_of(value) for value in made.inputs]
            shifted = [maker.get(value) for value in made.inputs]
            if 0x3F800000 in ones and any(n is not None and n.op == "shift_right_logical" for n in shifted):
                node.notes["fraction"] = True
    substitute(program, new)


def splat_of(value: Value) -> Any:
    """The number that all entries of a known array equal; None for another array."""
    if value.known is None or value.weight is not None or not hasattr(value.known, "dtype"):
        return None
    array = np.asarray(value.known)
    if not array.size or not np.all(array == array.flat[0]):
        return None
    return array.flat[0]
