"""Operations on one number at a time, as ONNX."""

from collections.abc import Callable

import jax
import numpy as np

from fedrecon.export._graph.program import ExportError, Node
from fedrecon.export._graph.writer import Writer, onnx_type

Write = Callable[[Writer, Node, list[str]], str | list[str]]


def _same(kind: str) -> Write:
    return lambda w, node, x: w.op(kind, *x)


def _bitwise(logical: str, bits: str) -> Write:
    """Writes one operation for boolean arrays and another for arrays of whole numbers."""
    return lambda w, node, x: w.op(logical if node.inputs[0].dtype == bool else bits, *x)


def _shift(direction: str) -> Write:
    def write(w: Writer, node: Node, x: list[str]) -> str:
        dtype = np.dtype(node.inputs[0].dtype)
        if dtype.kind != "u":  # ONNX shifts unsigned numbers only
            bits = np.dtype(f"u{dtype.itemsize}")
            x = [w.op("Cast", name, to=onnx_type(bits)) for name in x]
            return w.op("Cast", w.op("BitShift", *x, direction=direction), to=onnx_type(dtype))
        return w.op("BitShift", *x, direction=direction)

    return write


def _integer_pow(w: Writer, node: Node, x: list[str]) -> str:
    y = node.params["y"]
    if y == 2:
        return w.op("Mul", x[0], x[0])
    if y == -1:
        return w.op("Reciprocal", x[0])
    return w.op("Pow", x[0], w.scalar(y, node.inputs[0].dtype))


def _bits_as_number(w: Writer, node: Node, x: list[str]) -> str:
    """A bit cast from uint32 to float32, for bit patterns of numbers from 1 to below 2 only.

    ONNX has no bit cast. JAX draws uniform numbers with such patterns, whose value is 1 + mantissa / 2^23.
    """
    if "fraction" not in node.notes:
        raise ExportError("bits cannot be read as another type in ONNX")
    bits = node.inputs[0].known
    if bits is None:
        fraction = w.op("Cast", w.op("BitwiseAnd", x[0], w.scalar(2**23 - 1, np.uint32)), to=1)
    else:  # stored as 2 + 1 bytes instead of 4; the sum of both parts is exact in float32
        whole = np.asarray(bits) & np.uint32(2**23 - 1)
        low = w.op("Cast", w.constant(whole.astype(np.uint16)), to=1)
        high = w.op("Cast", w.constant((whole >> 16).astype(np.uint8)), to=1)
        fraction = w.op("Add", low, w.op("Mul", high, w.scalar(65536, np.float32)))
    return w.op("Add", w.op("Mul", fraction, w.scalar(2.0**-23, np.float32)), w.scalar(1, np.float32))


# Coefficients of Giles' approximation, for small arguments and for large ones, from the highest power.
_SMALL = (
    *(2.81022636e-08, 3.43273939e-07, -3.5233877e-06, -4.39150654e-06, 0.00021858087),
    *(-0.00125372503, -0.00417768164, 0.246640727, 1.50140941),
)
_LARGE = (
    *(-0.000200214257, 0.000100950558, 0.00134934322, -0.00367342844, 0.00573950773),
    *(-0.0076224613, 0.00943887047, 1.00167406, 2.83297682),
)


def _erf_inv(w: Writer, node: Node, x: list[str]) -> str:
    """The inverse of the error function, as XLA approximates it.

    Source: Giles, Approximating the erfinv function, GPU Computing Gems, 2010.
    """

    def number(value: float | int) -> str:
        return w.scalar(value, np.float32)

    squared = w.op("Mul", x[0], x[0])
    width = w.op("Neg", w.op("Log", w.op("Sub", number(1), squared)))
    small = w.op("Less", width, number(5))
    root = w.op("Sub", w.op("Sqrt", width), number(3))
    t = w.op("Where", small, w.op("Sub", width, number(2.5)), root)
    total = w.op("Where", small, number(_SMALL[0]), number(_LARGE[0]))
    for a, b in zip(_SMALL[1:], _LARGE[1:], strict=True):
        total = w.op("Add", w.op("Where", small, number(a), number(b)), w.op("Mul", total, t))
    return w.op("Mul", total, x[0])


def _convert(w: Writer, node: Node, x: list[str]) -> str:
    return w.op("Cast", x[0], to=onnx_type(node.params["new_dtype"]))


def _select(w: Writer, node: Node, x: list[str]) -> str:
    dtype = np.dtype(node.inputs[1].dtype)
    if dtype.kind == "u":  # the browser's runtime (1.30) chooses between signed numbers only
        x = [x[0], *(w.op("Cast", name, to=onnx_type(np.dtype(np.int64))) for name in x[1:])]
    if node.inputs[0].dtype == bool:
        chosen = w.op("Where", x[0], x[2], x[1])
    else:
        chosen = x[-1]
        for i in range(len(x) - 3, -1, -1):
            at = w.op("Equal", x[0], w.scalar(i, node.inputs[0].dtype))
            chosen = w.op("Where", at, x[1 + i], chosen)
    return w.op("Cast", chosen, to=onnx_type(dtype)) if dtype.kind == "u" else chosen


def _clamp(w: Writer, node: Node, x: list[str]) -> str:
    return w.op("Min", w.op("Max", x[1], x[0]), x[2])


def _is_finite(w: Writer, node: Node, x: list[str]) -> str:
    # x - x is 0 for finite x, and NaN, which equals nothing, for infinities and NaN.
    return w.op("Equal", w.op("Sub", x[0], x[0]), w.scalar(0, node.inputs[0].dtype))


def _ne(w: Writer, node: Node, x: list[str]) -> str:
    if node.inputs[0].dtype == bool:
        return w.op("Xor", *x)
    return w.op("Not", w.op("Equal", *x))


def _eq(w: Writer, node: Node, x: list[str]) -> str:
    return w.op("Equal", *x)


def _in_total_order(kind: str) -> Write:
    """Writes a comparison in the order of a sort, where NaN is the highest number.

    JAX compares so after it has given zeros one sign.
    """

    def write(w: Writer, node: Node, x: list[str]) -> str:
        below = w.op(kind, *x)
        if np.dtype(node.inputs[0].dtype).kind != "f":
            return below
        first, second = (w.op("IsNaN", name) for name in x)
        if kind == "Less":
            second = w.op("And", second, w.op("Not", first))
        return w.op("Or", below, second)

    return write


def _rsqrt(w: Writer, node: Node, x: list[str]) -> str:
    return w.op("Reciprocal", w.op("Sqrt", x[0]))


def _with_one(kind: str, before: bool) -> Write:
    """Writes log(1 + x) or exp(x) - 1, for which ONNX has no operations of their own."""

    def write(w: Writer, node: Node, x: list[str]) -> str:
        one = w.scalar(1, node.inputs[0].dtype)
        return w.op(kind, w.op("Add", x[0], one)) if before else w.op("Sub", w.op(kind, x[0]), one)

    return write


def _exp2(w: Writer, node: Node, x: list[str]) -> str:
    return w.op("Exp", w.op("Mul", x[0], w.scalar(np.log(2), node.inputs[0].dtype)))


def _rem(w: Writer, node: Node, x: list[str]) -> str:
    return w.op("Mod", *x, fmod=1)


def _round(w: Writer, node: Node, x: list[str]) -> str:
    if node.params["rounding_method"] != jax.lax.RoundingMethod.TO_NEAREST_EVEN:
        raise ExportError("rounding away from zero cannot be written in ONNX")
    return w.op("Round", x[0])


def _sigmoid(w: Writer, node: Node, x: list[str]) -> str:
    return w.op("Sigmoid", x[0])


def _erfc(w: Writer, node: Node, x: list[str]) -> str:
    return w.op("Sub", w.scalar(1, node.inputs[0].dtype), w.op("Erf", x[0]))


def _cbrt(w: Writer, node: Node, x: list[str]) -> str:
    third = w.scalar(1 / 3, node.inputs[0].dtype)
    return w.op("Mul", w.op("Sign", x[0]), w.op("Pow", w.op("Abs", x[0]), third))


def _reduce_precision(w: Writer, node: Node, x: list[str]) -> str:
    bits = node.params["exponent_bits"], node.params["mantissa_bits"]
    kinds = {(5, 10): 10, (8, 7): 16, (8, 23): 1}
    if bits not in kinds:
        raise ExportError(f"numbers of {bits[0]} and {bits[1]} bits cannot be written in ONNX")
    return w.op("Cast", w.op("Cast", x[0], to=kinds[bits]), to=onnx_type(node.outputs[0].dtype))


ELEMENTWISE: dict[str, Write] = {
    "add": _same("Add"),
    "add_any": _same("Add"),
    "sub": _same("Sub"),
    "mul": _same("Mul"),
    "div": _same("Div"),
    "max": _same("Max"),
    "min": _same("Min"),
    "neg": _same("Neg"),
    "abs": _same("Abs"),
    "sign": _same("Sign"),
    "floor": _same("Floor"),
    "ceil": _same("Ceil"),
    "exp": _same("Exp"),
    "log": _same("Log"),
    "sqrt": _same("Sqrt"),
    "tanh": _same("Tanh"),
    "sin": _same("Sin"),
    "cos": _same("Cos"),
    "tan": _same("Tan"),
    "erf": _same("Erf"),
    "pow": _same("Pow"),
    "lt": _same("Less"),
    "le": _same("LessOrEqual"),
    "gt": _same("Greater"),
    "ge": _same("GreaterOrEqual"),
    "lt_to": _in_total_order("Less"),
    "le_to": _in_total_order("LessOrEqual"),
    "square": lambda w, node, x: w.op("Mul", x[0], x[0]),
    "and": _bitwise("And", "BitwiseAnd"),
    "or": _bitwise("Or", "BitwiseOr"),
    "xor": _bitwise("Xor", "BitwiseXor"),
    "not": _bitwise("Not", "BitwiseNot"),
    "shift_left": _shift("LEFT"),
    "shift_right_logical": _shift("RIGHT"),
    "eq": _eq,
    "ne": _ne,
    "integer_pow": _integer_pow,
    "convert_element_type": _convert,
    "select_n": _select,
    "clamp": _clamp,
    "is_finite": _is_finite,
    "bitcast_convert_type": _bits_as_number,
    "erf_inv": _erf_inv,
    "rsqrt": _rsqrt,
    "log1p": _with_one("Log", before=True),
    "expm1": _with_one("Exp", before=False),
    "exp2": _exp2,
    "rem": _rem,
    "round": _round,
    "logistic": _sigmoid,
    "erfc": _erfc,
    "cbrt": _cbrt,
    "reduce_precision": _reduce_precision,
}
