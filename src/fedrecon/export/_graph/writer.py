"""Writes the nodes and constants of an ONNX graph, equal ones once."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from fedrecon.export._graph.program import Block, ExportError, Value

OPSET, IR_VERSION = 21, 10
_DIGITS = "0123456789abcdefghijklmnopqrstuvwxyz"
# A constant of more bytes is written as an operation that makes it, such as Expand or Range, where one does.
_SMALL = 64


class Operation(NamedTuple):
    """How an operation of JAX is written.

    Attributes:
        write: Writes a node, `(writer, node, names of its inputs) -> names of its outputs`.
        elementwise: Whether the operation broadcasts, so that an input with axes of length 1 does instead of
            a repeated one; False by default.
    """

    write: Callable[..., str | list[str]]
    elementwise: bool = False


class Writer:
    """Writes the nodes of a graph, or of a body, which also sees all names of the graphs around it.

    Attributes:
        nodes: The ONNX nodes in order.
        names: Names of the values that were written here.
        loose: Names of arrays before they are repeated along some axes, by the repeated value: an operation
            that broadcasts reads them as they are.
        parent: The writer of the enclosing graph; None, the default, for the whole graph.
        operations: How each operation is written, by its name; None by default.
    """

    def __init__(self, parent: "Writer | None" = None, operations: "Mapping[str, Operation] | None" = None):
        self.parent = parent
        self.operations: Mapping[str, Operation] = operations or (parent.operations if parent else {})
        self.nodes: list[Any] = []
        self.names: dict[Value, str] = {}
        self.loose: dict[Value, str] = {}
        self._memo: dict[Any, str] = {}
        if parent is None:
            self.initializers: list[Any] = []
            self._constants: dict[Any, str] = {}
            self._count = 0
            self._dims: dict[str, str] = {}

    @property
    def top(self) -> "Writer":
        """The writer of the whole graph."""
        return self if self.parent is None else self.parent.top

    def fresh(self) -> str:
        """A short name that is not in use; short, since names are a good part of a small file."""
        top = self.top
        number, name = top._count, ""
        top._count += 1
        while True:
            number, digit = divmod(number, 36)
            name = _DIGITS[digit] + name
            if not number:
                return "_" + name

    def op(self, kind: str, *inputs: str, **attributes: Any) -> str:
        """Writes a node with one output and returns its name; equal nodes are written once."""
        key = kind, inputs, repr(sorted(attributes.items()))
        output = self._cached(key) if not _holds_graph(attributes) else None
        if output is None:
            (output,) = self.ops(kind, inputs, 1, **attributes)
            self._memo[key] = output
        return output

    def ops(self, kind: str, inputs: Sequence[str], count: int, **attributes: Any) -> list[str]:
        """Writes a node with several outputs and returns their names."""
        from onnx import helper

        outputs = [self.fresh() for _ in range(count)]
        self.nodes.append(helper.make_node(kind, list(inputs), outputs, **attributes))
        return outputs

    def _cached(self, key: Any) -> str | None:
        if key in self._memo:
            return self._memo[key]
        return None if self.parent is None else self.parent._cached(key)

    def name(self, value: Value) -> str:
        """The name of a value; a known value is written as a constant on its first use."""
        if value in self.names:
            return self.names[value]
        if value in self.loose:
            shape = self.shape(value.shape, self.dims)
            self.names[value] = self.op("Expand", self.loose[value], shape)
            return self.names[value]
        if self.parent is not None and (value.known is None or value.weight is not None):
            return self.parent.name(value)
        if value.known is None:
            raise ExportError("a value is read before it is made")
        if value.weight is not None:
            raise ExportError("a parameter has no name in the graph")
        return self.known(np.asarray(value.known))

    def loosely(self, value: Value) -> str | None:
        """The name of the array that is repeated to make a value; None for a value that repeats nothing."""
        if value in self.loose:
            return self.loose[value]
        if value.known is not None and value.weight is None and value.size > 1:
            array = np.asarray(value.known)
            if np.all(array == array.flat[0]):
                return self.scalar(array.flat[0], array.dtype)
        if value in self.names or self.parent is None:
            return None
        return self.parent.loosely(value)

    def ints(self, *numbers: Any) -> str:
        """A constant int64 vector, the type in which ONNX takes shapes and axes."""
        return self.constant(np.array([int(x) for x in numbers], np.int64))

    def scalar(self, number: Any, dtype: Any) -> str:
        """A constant without axes."""
        return self.constant(np.asarray(number, dtype))

    def constant(self, array: np.ndarray, name: str | None = None) -> str:
        """An initializer of the whole graph, which all bodies see."""
        top = self.top
        array = np.asarray(array)
        key = array.dtype.str, array.shape, array.tobytes()
        if name is None and key in top._constants:
            return top._constants[key]
        from onnx import numpy_helper

        name = name or self.fresh()
        # A copy in C order, since `from_array` writes the bytes as they lie in memory.
        top.initializers.append(numpy_helper.from_array(np.array(array, order="C"), name))
        return top._constants.setdefault(key, name)

    def known(self, array: np.ndarray) -> str:
        """A known array: a constant, or for a large one a shorter way to make it."""
        if array.nbytes <= _SMALL:
            return self.constant(array)
        if np.all(array == array.flat[0]):
            return self.op("Expand", self.scalar(array.flat[0], array.dtype), self.ints(*array.shape))
        top = self.top  # in the whole graph: inside a body the operation would run at every step
        steps = np.diff(array) if array.ndim == 1 and array.dtype.kind == "i" else np.array([])
        if len(steps) and np.all(steps == steps[0]) and steps[0] and array.dtype.itemsize >= 4:
            stop = int(array[-1]) + int(steps[0])
            ends = (int(array[0]), stop, int(steps[0]))
            return top.op("Range", *(self.scalar(x, array.dtype) for x in ends))
        if array.ndim > 2 and np.squeeze(array).ndim == 2 and _diagonal(np.squeeze(array)):
            return self.op("Reshape", self.known(np.squeeze(array)), self.ints(*array.shape))
        diagonal = _diagonal(array)
        if diagonal is not None:
            where, numbers = diagonal
            shape = top.op("Expand", self.scalar(0, np.float32), self.ints(*array.shape))
            ones = top.op("EyeLike", shape, k=where, dtype=1)
            if array.dtype == np.float32 and np.all(numbers == 1):
                return ones
            cast = top.op("Cast", ones, to=onnx_type(array.dtype))
            if np.all(numbers == 1):
                return cast
            same = np.all(numbers == numbers[0])
            # A vector of one number for each column scales the columns.
            scale = self.scalar(numbers[0], array.dtype) if same else top.constant(_columns(array, where))
            return top.op("Mul", cast, scale)
        return self.constant(array)

    def shape(self, dims: Sequence[Any], like: dict[Any, str]) -> str:
        """A shape as a tensor.

        Args:
            dims: The dimensions: whole numbers, or JAX's symbolic dimensions.
            like: Names of the tensors that hold the symbolic dimensions, each a vector of one number.

        Raises:
            ExportError: A symbolic dimension is not in `like`.
        """
        if all(isinstance(d, int) for d in dims):
            return self.ints(*dims)
        parts = []
        for d in dims:
            if isinstance(d, int):
                parts.append(self.ints(d))
            elif str(d) in like:
                parts.append(like[str(d)])
            else:
                raise ExportError(f"a dimension of length {d} cannot be written")
        return parts[0] if len(parts) == 1 else self.op("Concat", *parts, axis=0)

    @property
    def dims(self) -> dict[str, str]:
        """Names of the vectors that hold the lengths of symbolic dimensions."""
        return self.top._dims


def _holds_graph(attributes: dict[str, Any]) -> bool:
    return any(name in ("body", "then_branch", "else_branch") for name in attributes)


def _diagonal(array: np.ndarray) -> tuple[int, np.ndarray] | None:
    """The offset and the numbers of the diagonal outside of which a matrix is 0; None for another matrix.

    None as well where the numbers take as much room as the matrix.
    """
    if array.ndim != 2 or array.dtype.kind not in "fib" or not array.any():
        return None
    row, column = np.unravel_index(int(np.argmax(array != 0)), array.shape)
    k = int(column - row)
    rows, columns = array.shape
    wanted = np.eye(rows, columns, k=k, dtype=bool)
    numbers = array[wanted]
    if np.any(array[~wanted]) or not np.all(np.isfinite(numbers)):
        return None
    if np.all(numbers == numbers[0]):
        return k, numbers
    small = 2 * columns * array.itemsize <= array.nbytes and array.dtype.kind != "b"
    return (k, numbers) if small else None


def _columns(array: np.ndarray, k: int) -> np.ndarray:
    """The numbers on a diagonal by their columns, with zeros for columns that the diagonal does not meet."""
    numbers = np.diagonal(array, k)
    first = max(k, 0)
    vector = np.zeros(array.shape[1], array.dtype)
    vector[first : first + len(numbers)] = numbers
    return vector


def onnx_type(dtype: Any) -> int:
    """The number by which ONNX knows a type.

    Raises:
        ExportError: ONNX Runtime has no such type.
    """
    from onnx import helper

    try:
        return int(helper.np_dtype_to_tensor_dtype(np.dtype(dtype)))
    except (KeyError, TypeError, ValueError):
        raise ExportError(
            f"arrays of {dtype} cannot be written: random numbers may depend on nothing but the seed"
        ) from None


def write_block(writer: Writer, block: Block) -> None:
    """Writes all nodes of a block.

    Raises:
        ExportError: An operation cannot be written; the message names it.
    """
    for node in block.nodes:
        operation = writer.operations.get(node.op)
        if operation is None:
            raise ExportError(
                f"the operation {node.op!r} of JAX cannot be written in ONNX by this version "
                f"(shapes {[value.shape for value in node.inputs]})"
            )
        made = operation.write(writer, node, _names_of_inputs(writer, node, operation.elementwise))
        names = [made] if isinstance(made, str) else made
        # An operation that only repeats an array has no name: it put the array among the loose names.
        writer.names.update((v, n) for v, n in zip(node.outputs, names, strict=True) if n)


def _names_of_inputs(writer: Writer, node: Any, elementwise: bool) -> list[str]:
    shape = node.outputs[0].shape
    if not elementwise or len(node.inputs) < 2:
        return [writer.name(value) for value in node.inputs]
    loose = [writer.loosely(value) for value in node.inputs]
    whole = any(x is None and v.shape == shape for x, v in zip(loose, node.inputs, strict=True))
    if not whole:
        loose = [None, *loose[1:]] if node.inputs[0].shape == shape else [*loose[:-1], None]
    return [
        writer.name(value) if name is None else name for value, name in zip(node.inputs, loose, strict=True)
    ]
