"""Storage of parameters in 32 bits, or of tables in 16 or 8 bits, which the graph widens to 32."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from fedrecon.export._graph.writer import Writer, onnx_type

PRECISIONS = ("float32", "float16", "int8")
# Parameters with fewer entries stay in 32 bits: they are biases rather than tables, and little is saved.
_LEAST = 256


@dataclass(frozen=True, eq=False)
class Stored:
    """A parameter as the file stores it.

    Attributes:
        array: The parameter after it was rounded and widened again, as the graph computes with it.
        parts: The arrays that are written: the parameter itself, the parameter as float16, or its rows as
            int8 with one float16 scale for each.
    """

    array: Any
    parts: tuple[Any, ...]

    def write(self, writer: Writer, name: str) -> str:
        """Writes the parameter and returns the name of the widened tensor."""
        part = writer.constant(self.parts[0], name)
        if len(self.parts) == 2:
            scale = writer.op("Cast", writer.constant(self.parts[1], name + "s"), to=onnx_type(np.float32))
            return writer.op("DequantizeLinear", part, scale, axis=0)
        if self.parts[0].dtype == self.array.dtype:
            return part
        return writer.op("Cast", part, to=onnx_type(self.array.dtype))


def to_stored(array: Any, precision: str) -> Stored:
    """A parameter rounded to a precision.

    Args:
        array: The parameter; one that is not float32 or has fewer than 256 entries is stored unchanged.
        precision: `"float32"`, `"float16"`, or `"int8"`, which stores matrices in 8 bits with a scale for
            each row, and vectors in 16 bits.

    Raises:
        ValueError: A number is too large for 16 bits.
    """
    array = np.asarray(array)
    if precision == "float32" or array.dtype != np.float32 or array.size < _LEAST:
        return Stored(array, (array,))
    if precision == "int8" and array.ndim == 2:
        return _rows(array)
    with np.errstate(over="ignore"):
        half = array.astype(np.float16)
    if not np.all(np.isfinite(half) == np.isfinite(array)):
        raise ValueError(
            f"precision must be 'float32' for parameters above {np.finfo(np.float16).max:g}, "
            f"got {precision!r} and {np.max(np.abs(array)):g}"
        )
    return Stored(half.astype(np.float32), (half,))


def _rows(array: Float[np.ndarray, "row column"]) -> Stored:
    scale = (np.max(np.abs(array), axis=1) / 127).astype(np.float16)
    # A scale that is rounded down would cut the largest number off.
    scale = np.where(
        scale.astype(np.float32) * 127 < np.max(np.abs(array), axis=1),
        np.nextafter(scale, np.float16(np.inf)),
        scale,
    )
    wide = scale.astype(np.float32)[:, None]
    whole = np.rint(np.divide(array, wide, out=np.zeros_like(array), where=wide > 0)).astype(np.int8)
    return Stored(whole.astype(np.float32) * wide, (whole, scale))
