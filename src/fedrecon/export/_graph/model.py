"""A program as an ONNX model: inputs of any length up to a bound, parameters in the precision asked for."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from fedrecon.export._graph.operations import OPERATIONS
from fedrecon.export._graph.precision import Stored
from fedrecon.export._graph.program import Block, Value
from fedrecon.export._graph.writer import IR_VERSION, OPSET, Writer, onnx_type, write_block


class Input(NamedTuple):
    """An input of an ONNX model.

    Attributes:
        name: Name of the input in the graph.
        dtype: NumPy type of the array.
        shape: The array's dimensions; a string is the name of a length that the caller chooses.
        room: Length of the first axis in the program, to which the graph pads the input with `fill`; None,
            the default, for the length that the caller chooses.
        fill: The number with which the input is padded to `room`; 0 by default.
        given: Whether the program takes one more input after this one: whether the array is not empty; False
            by default.
        high: The last row where the numbers are rows of a table, to which the graph clips them from 0 on;
            None, the default, for numbers that are not clipped.
    """

    name: str
    dtype: Any
    shape: tuple[int | str, ...]
    room: int | None = None
    fill: Any = 0
    given: bool = False
    high: int | None = None


class Output(NamedTuple):
    """An output of an ONNX model.

    Attributes:
        name: Name of the output in the graph.
        shape: The array's dimensions; a string is the name of a length that the caller chooses.
        cut: Name of the input length to which the first axis is cut; None, the default, for an axis that is
            not cut.
    """

    name: str
    shape: tuple[int | str, ...]
    cut: str | None = None


def model_of(
    program: Block,
    inputs: Sequence[Input],
    outputs: Sequence[Output],
    weights: Sequence[Stored],
    reveal: Sequence[Value] = (),
) -> Any:
    """The ONNX model of a program.

    Args:
        program: The simplified program, whose inputs are those that `inputs` describe.
        inputs: The model's inputs, in the order of the program's.
        outputs: The model's outputs, in the order of the program's.
        weights: How each parameter is stored, at the parameter's number.
        reveal: Values of the program that become further outputs, named `value_0`, `value_1`, …; none by
            default.

    Raises:
        ExportError: An operation cannot be written.
    """
    from onnx import helper

    writer = Writer(operations=OPERATIONS)
    _name_weights(writer, program, weights)
    slots = iter(program.inputs)
    for one in inputs:
        _write_input(writer, one, slots)
    write_block(writer, program)
    names = [(output.name, value) for output, value in zip(outputs, program.outputs, strict=True)]
    names += [(f"value_{i}", value) for i, value in enumerate(reveal)]
    cuts = {output.name: output.cut for output in outputs}
    copies = []
    for name, value in names:
        made = writer.name(value)
        cut = cuts.get(name)
        if cut is not None:
            made = writer.op("Slice", made, writer.ints(0), writer.dims[cut])
        copies.append(helper.make_node("Identity", [made], [name]))
    writer.nodes += copies  # last, where `_rename` expects them
    _rename(writer, [name for name, _ in names])
    shapes = {output.name: output.shape for output in outputs}
    read = _read_names(writer.nodes)
    graph = helper.make_graph(
        writer.nodes,
        "fedrecon",
        [helper.make_tensor_value_info(x.name, onnx_type(x.dtype), x.shape) for x in inputs],
        [helper.make_tensor_value_info(n, onnx_type(v.dtype), shapes.get(n)) for n, v in names],
        [x for x in writer.initializers if x.name in read],
    )
    opsets = [helper.make_opsetid("", OPSET)]
    return helper.make_model(graph, ir_version=IR_VERSION, opset_imports=opsets, producer_name="fedrecon")


def _name_weights(writer: Writer, program: Block, weights: Sequence[Stored]) -> None:
    for value in dict.fromkeys([*program.reads()]):
        if value.weight is not None:
            writer.names[value] = weights[value.weight].write(writer, f"w{value.weight}")


def _write_input(writer: Writer, one: Input, slots: Any) -> None:
    value = next(slots)
    name = one.name
    for axis, d in enumerate(one.shape):
        if isinstance(d, str) and d not in writer.dims and d not in ("n", "m"):
            writer.dims[d] = writer.op("Shape", name, start=axis, end=axis + 1)
    if one.room is not None:
        rest = [d for d in one.shape[1:] if isinstance(d, int)]
        fill = writer.op("Expand", writer.scalar(one.fill, one.dtype), writer.ints(one.room, *rest))
        name = writer.op("Concat", name, fill, axis=0)
        name = writer.op("Slice", name, writer.ints(0), writer.ints(one.room))
    if one.high is not None:
        low, high = (writer.scalar(x, one.dtype) for x in (0, one.high))
        name = writer.op("Min", writer.op("Max", name, low), high)
    writer.names[value] = name
    if one.given:
        length = writer.op("Shape", one.name, start=0, end=1)
        writer.names[next(slots)] = writer.op(
            "Greater", writer.op("Squeeze", length), writer.scalar(0, np.int64)
        )


def _rename(writer: Writer, outputs: Sequence[str]) -> None:
    """Renames the tensors that are outputs, so that most of the nodes that copy them can be removed."""
    bodies = [a.g for node in writer.nodes for a in node.attribute if a.HasField("g")]
    inside = {name for body in bodies for name in (*_read_names(body.node), *(o.name for o in body.output))}
    copies = writer.nodes[len(writer.nodes) - len(outputs) :]
    made = {name: node for node in writer.nodes[: -len(outputs) or None] for name in node.output}
    new: dict[str, str] = {}
    for node in copies:
        old = node.input[0]
        if old in made and old not in new and old not in inside:
            new[old] = node.output[0]
            writer.nodes.remove(node)
    for node in writer.nodes:
        for names in (node.input, node.output):
            for i, name in enumerate(names):
                names[i] = new.get(name, name)


def _read_names(nodes: Iterable[Any]) -> set[str]:
    """The names of all tensors that nodes read, those in bodies of loops and conditions included."""
    names: set[str] = set()
    for node in nodes:
        names.update(node.input)
        for attribute in node.attribute:
            if attribute.HasField("g"):
                names |= _read_names(attribute.g.node) | {output.name for output in attribute.g.output}
    return names


def ranges_of(program: Block, inputs: Sequence[Input]) -> Mapping[Value, tuple[int, int]]:
    """The lowest and the highest number of the program's inputs that are rows of a table."""
    slots, ranges = iter(program.inputs), {}
    for one in inputs:
        value = next(slots)
        if one.high is not None:
            ranges[value] = (0, one.high)
        if one.given:
            next(slots)
    return ranges
