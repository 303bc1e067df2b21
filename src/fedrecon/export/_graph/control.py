"""Loops and conditions as ONNX; loops stay loops."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from fedrecon.export._graph.elementwise import Write
from fedrecon.export._graph.program import Block, Node, Value
from fedrecon.export._graph.writer import Writer, onnx_type, write_block


def _scan(w: Writer, node: Node, x: list[str]) -> list[str]:
    from onnx import TensorProto, helper

    block, carried = node.blocks[0], node.params["num_carry"]
    stacked, made = len(block.inputs) - carried, len(block.outputs) - carried
    inner = Writer(w)
    names = _given(inner, block.inputs)
    infos = [_info(name, value) for name, value in zip(names, block.inputs, strict=True)]
    results = _written(inner, block, block.outputs)
    outputs = [_info(name, value) for name, value in zip(results, block.outputs, strict=True)]
    if stacked:
        reverse = int(node.params["reverse"])
        directions: dict[str, Any] = {}
        if reverse:
            directions["scan_input_directions"] = [1] * stacked
            if made:
                directions["scan_output_directions"] = [1] * made
        body = helper.make_graph(inner.nodes, "b", infos, outputs)
        return w.ops("Scan", x, len(node.outputs), body=body, num_scan_inputs=stacked, **directions)
    step, going = inner.fresh(), inner.fresh()
    on = inner.op("Identity", going)
    head = [
        helper.make_tensor_value_info(step, TensorProto.INT64, []),
        helper.make_tensor_value_info(going, TensorProto.BOOL, []),
    ]
    tail = helper.make_tensor_value_info(on, TensorProto.BOOL, [])
    body = helper.make_graph(inner.nodes, "b", [*head, *infos], [tail, *outputs])
    length = w.scalar(node.params["length"], np.int64)
    return w.ops("Loop", [length, w.scalar(True, bool), *x], len(node.outputs), body=body)


def _while(w: Writer, node: Node, x: list[str]) -> list[str]:
    from onnx import TensorProto, helper

    test, block = node.blocks
    w.names.update(zip(test.inputs, x, strict=True))
    (first,) = _written(w, test, test.outputs)
    inner = Writer(w)
    names = _given(inner, block.inputs)
    infos = [_info(name, value) for name, value in zip(names, block.inputs, strict=True)]
    results = _written(inner, block, block.outputs)
    inner.names.update(zip(test.inputs, results, strict=True))
    (on,) = _written(inner, test, test.outputs)
    step, going = inner.fresh(), inner.fresh()
    head = [
        helper.make_tensor_value_info(step, TensorProto.INT64, []),
        helper.make_tensor_value_info(going, TensorProto.BOOL, []),
    ]
    tail = helper.make_tensor_value_info(on, TensorProto.BOOL, [])
    outputs = [_info(name, value) for name, value in zip(results, block.outputs, strict=True)]
    body = helper.make_graph(inner.nodes, "b", [*head, *infos], [tail, *outputs])
    return w.ops("Loop", ["", first, *x], len(node.outputs), body=body)


def _cond(w: Writer, node: Node, x: list[str]) -> list[str]:
    """Nested `If` nodes: the first block where the index is 0 or below, the last where it is too high."""
    return _chosen(w, node, x[0], 0)


def _chosen(w: Writer, node: Node, index: str, first: int) -> list[str]:
    from onnx import helper

    value = node.inputs[0]
    later = index
    if value.dtype != bool:
        later = w.op("Greater", index, w.scalar(first, value.dtype))
    then, other = Writer(w), Writer(w)
    blocks = node.blocks
    if first + 2 == len(blocks):
        high = _written(then, blocks[-1], blocks[-1].outputs)
    else:
        high = _chosen(then, node, index, first + 1)
    low = _written(other, blocks[first], blocks[first].outputs)
    graphs = [
        helper.make_graph(
            writer.nodes, "b", [], [_info(n, v) for n, v in zip(names, node.outputs, strict=True)]
        )
        for writer, names in ((then, high), (other, low))
    ]
    return w.ops("If", [later], len(node.outputs), then_branch=graphs[0], else_branch=graphs[1])


def _given(inner: Writer, values: Sequence[Value]) -> list[str]:
    """Gives the inputs of a body fresh names, and returns them."""
    names = [inner.fresh() for _ in values]
    inner.names.update(zip(values, names, strict=True))
    return names


def _written(inner: Writer, block: Block, outputs: Sequence[Value]) -> list[str]:
    """Writes a body and returns the names of its results.

    ONNX wants each result of a body to be computed inside of it and no two results to share a name, so that
    a result which breaks this is copied.
    """
    write_block(inner, block)
    made = {name for node in inner.nodes for name in node.output}
    names: list[str] = []
    for value in outputs:
        name = inner.name(value)
        made.update(name for name in inner.nodes[-1].output) if inner.nodes else None
        if name not in made or name in names:
            # `ops` and not `op`: the latter would return the name of an equal node that was written before.
            (name,) = inner.ops("Identity", [name], 1)
        names.append(name)
    return names


def _info(name: str, value: Value) -> Any:
    from onnx import helper

    return helper.make_tensor_value_info(name, onnx_type(value.dtype), None)


CONTROL: dict[str, Write] = {"scan": _scan, "while": _while, "cond": _cond}
