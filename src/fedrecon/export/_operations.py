"""How each of JAX's operations is written in ONNX, by its name."""

from collections.abc import Mapping

from fedrecon.export._control import CONTROL
from fedrecon.export._elementwise import ELEMENTWISE
from fedrecon.export._indexing import INDEXING
from fedrecon.export._linear import LINEAR
from fedrecon.export._shapes import SHAPES
from fedrecon.export._writer import Operation

OPERATIONS: Mapping[str, Operation] = {
    **{name: Operation(write, elementwise=True) for name, write in ELEMENTWISE.items()},
    **{name: Operation(write) for name, write in {**SHAPES, **INDEXING, **LINEAR, **CONTROL}.items()},
}
