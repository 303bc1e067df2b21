"""Parameters as they are stored: in 32 bits, or tables in 16 or 8 bits, which the graph widens."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from fedrecon.export._graph.writer import Writer, onnx_type

PRECISIONS = ("float32", "float16", "int8")
# Parameters of fewer numbers stay as they are: they are no table, and little is won.
_LEAST = 256


@dataclass(frozen=True, eq=False)
class Stored:
    """A parameter as it is stored.

    Attributes:
        array: What the graph computes with, after it was stored and read again.
        parts: What is written: the array itself, the array in 16 bits, or rows in 8 bits and their scales.
    """

    array: Any
    parts: tuple[Any, ...]

    def write(self, writer: Writer, name: str) -> str:
        """Writes the parameter and returns the name of the array in its own type."""
        stored = writer.constant(self.parts[0], name)
        if len(self.parts) == 2:
            scale = writer.op("Cast", writer.constant(self.parts[1], name + "s"), to=onnx_type(np.float32))
            return writer.op("DequantizeLinear", stored, scale, axis=0)
        if self.parts[0].dtype == self.array.dtype:
            return stored
        return writer.op("Cast", stored, to=onnx_type(self.array.dtype))


def stored(array: Any, precision: str) -> Stored:
    """A parameter in a precision.

    Args:
        array: Any parameter; those that are no large arrays of 32-bit numbers stay as they are.
        precision: `"int8"` stores matrices row by row, with a scale for each, and long vectors in 16 bits.

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
