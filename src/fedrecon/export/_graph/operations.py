"""How each of JAX's operations is written in ONNX, by its name."""

from collections.abc import Mapping

from fedrecon.export._graph.control import CONTROL
from fedrecon.export._graph.elementwise import ELEMENTWISE
from fedrecon.export._graph.indexing import INDEXING
from fedrecon.export._graph.linear import LINEAR
from fedrecon.export._graph.shapes import SHAPES
from fedrecon.export._graph.writer import Operation

OPERATIONS: Mapping[str, Operation] = {
    **{name: Operation(write, elementwise=True) for name, write in ELEMENTWISE.items()},
    **{name: Operation(write) for name, write in {**SHAPES, **INDEXING, **LINEAR, **CONTROL}.items()},
}
