"""Products and systems of linear equations as ONNX.

ONNX Runtime's default optimisation fuses a Transpose and a MatMul with a *vector* into a product that
ignores the transposition. So every product here is one of two matrices: a vector is a row or a column, on the
side where the matrix need not be transposed.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from fedrecon.export._graph.elementwise import Write
from fedrecon.export._graph.program import Node
from fedrecon.export._graph.shapes import reshape_to
from fedrecon.export._graph.writer import Writer, onnx_type

# Conjugate gradients stop when the residual's norm is below this part of the first one's. That is less than
# the rounding of float32 (6e-8), so that stopping adds no error to speak of. In exact arithmetic they take
# one step for each unknown; rounding can make them take more, hence a limit of several.
_TOLERANCE, _STEPS = 2e-8, 4


def _dot_general(w: Writer, node: Node, x: list[str]) -> str:
    (contract_a, contract_b), (batch_a, batch_b) = node.params["dimension_numbers"]
    a, b = node.inputs
    out = node.outputs[0]
    wide = np.dtype(node.params.get("preferred_element_type") or out.dtype)
    x = [
        name if value.dtype == wide else w.op("Cast", name, to=onnx_type(wide))
        for name, value in zip(x, (a, b), strict=True)
    ]
    free_a = [i for i in range(len(a.shape)) if i not in (*contract_a, *batch_a)]
    free_b = [i for i in range(len(b.shape)) if i not in (*contract_b, *batch_b)]
    if not batch_a and not free_a and free_b and len(contract_a) == 1:
        made = _with_vector(w, x[1], b.shape, contract_b[0], x[0])
    elif not batch_a and not free_b and free_a and len(contract_a) == 1:
        made = _with_vector(w, x[0], a.shape, contract_a[0], x[1])
    elif (
        not batch_a
        and len(b.shape) == 2
        and tuple(contract_b) == (0,)
        and (tuple(contract_a) == (len(a.shape) - 1,) and free_a)
    ):
        return w.op("MatMul", *x)
    else:
        left = _arrange(w, x[0], a.shape, batch_a, free_a, contract_a)
        right = _arrange(w, x[1], b.shape, batch_b, contract_b, free_b)
        made = w.op("MatMul", left, right)
        if len(batch_a) + 2 == len(out.shape):
            return made
    return reshape_to(w, made, out.shape)


def _with_vector(w: Writer, matrix: str, shape: Sequence[Any], contract: int, vector: str) -> str:
    """A product of a matrix and a vector, as a row before the matrix or a column after it."""
    # The side is chosen such that a contraction over the first or last axis needs no Transpose, since a fused
    # Transpose is what ONNX Runtime gets wrong.
    size = shape[contract]
    rest = [d for i, d in enumerate(shape) if i != contract]
    if contract == len(shape) - 1:
        if len(shape) > 2:
            matrix = reshape_to(w, matrix, (_product(rest), size))
        return w.op("MatMul", matrix, reshape_to(w, vector, (size, 1)))
    if contract != 0:
        order = [contract, *(i for i in range(len(shape)) if i != contract)]
        matrix = w.op("Transpose", matrix, perm=order)
    if len(shape) > 2:
        matrix = reshape_to(w, matrix, (size, _product(rest)))
    return w.op("MatMul", reshape_to(w, vector, (1, size)), matrix)


def _arrange(
    w: Writer, name: str, shape: Sequence[Any], batch: Any, rows: Sequence[int], columns: Sequence[int]
) -> str:
    """An array as a batch of matrices: the batch axes, then one axis of rows and one of columns."""
    order = [*batch, *rows, *columns]
    if order != list(range(len(order))):
        name = w.op("Transpose", name, perm=[int(i) for i in order])
    if len(rows) == 1 and len(columns) == 1:
        return name
    sizes = [shape[i] for i in batch], [shape[i] for i in rows], [shape[i] for i in columns]
    return reshape_to(w, name, (*sizes[0], _product(sizes[1]), _product(sizes[2])))


def _product(dims: Sequence[Any]) -> Any:
    return math.prod(dims)


def _spd_solve(w: Writer, node: Node, x: list[str]) -> str:
    """Solves X A = B for a symmetric, positive definite A by conjugate gradients, since ONNX has no Cholesky.

    The system is scaled by the root of A's diagonal first, which is Jacobi's preconditioner.

    Source: Hestenes and Stiefel, Methods of Conjugate Gradients, 1952.
    """
    from onnx import TensorProto, helper

    size = node.inputs[0].shape[0]
    rows = node.params["rows"]
    b = x[1] if rows else w.op("Transpose", x[1], perm=[1, 0])
    flat = reshape_to(w, x[0], (size * size,))
    diagonal = w.op("Slice", flat, w.ints(0), w.ints(size * size), w.ints(0), w.ints(size + 1))
    scale = w.op("Reciprocal", w.op("Sqrt", diagonal))
    scaled = w.op("Mul", w.op("Mul", x[0], scale), reshape_to(w, scale, (size, 1)))
    residual = w.op("Mul", b, scale)
    axis = w.ints(1)

    def squares(w: Writer, name: str) -> str:
        return w.op("ReduceSumSquare", name, axis, keepdims=1)

    first = squares(w, residual)
    bound = w.op("Mul", first, w.scalar(_TOLERANCE**2, np.float32))

    def unfinished(w: Writer, now: str) -> str:
        more = w.op("Greater", w.op("ReduceMax", w.op("Sub", now, bound), keepdims=0), zero)
        return more

    zero = w.scalar(0, np.float32)
    inner = Writer(w)
    solution, r, p, rr = (inner.fresh() for _ in range(4))
    step, going = inner.fresh(), inner.fresh()
    product = inner.op("MatMul", p, scaled)
    curvature = inner.op("ReduceSum", inner.op("Mul", p, product), axis, keepdims=1)
    # A row that has converged early has residual 0: the smallest number keeps 0 / 0 from becoming NaN.
    tiny = inner.scalar(np.finfo(np.float32).tiny, np.float32)
    length = inner.op("Div", rr, inner.op("Max", curvature, tiny))
    new = inner.op("Add", solution, inner.op("Mul", length, p))
    new_r = inner.op("Sub", r, inner.op("Mul", length, product))
    new_rr = squares(inner, new_r)
    turn = inner.op("Div", new_rr, inner.op("Max", rr, tiny))
    new_p = inner.op("Add", new_r, inner.op("Mul", turn, p))
    on = unfinished(inner, new_rr)

    def info(name: str, kind: int = TensorProto.FLOAT, shape: Any = None) -> Any:
        return helper.make_tensor_value_info(name, kind, shape)

    body = helper.make_graph(
        inner.nodes,
        "b",
        [info(step, TensorProto.INT64, []), info(going, TensorProto.BOOL, [])]
        + [info(name) for name in (solution, r, p, rr)],
        [info(on, TensorProto.BOOL, [])] + [info(name) for name in (new, new_r, new_p, new_rr)],
    )
    start = w.op("Expand", zero, w.op("Shape", residual))
    limit = w.scalar(_STEPS * size, np.int64)
    carried = [limit, unfinished(w, first), start, residual, residual, first]
    solved = w.op("Mul", w.ops("Loop", carried, 4, body=body)[0], scale)
    return solved if rows else w.op("Transpose", solved, perm=[1, 0])


LINEAR: dict[str, Write] = {"dot_general": _dot_general, "spd_solve": _spd_solve}
