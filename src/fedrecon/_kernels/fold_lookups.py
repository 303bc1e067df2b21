"""Removes look-ups whose indices are known from a function: `table[0, 1, 2, …]` is the table.

A loss that is given the rows of its batch, and the ids 0, 1, 2, …, still gathers the rows one by one, and its
gradient scatters them back. On a CPU that costs more than the arithmetic. Ids that are NumPy arrays while the
function is traced show which gathers are the identity.
"""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.extend import core

from fedrecon.core._types import Leaf

# The operations by which JAX's indexing prepares an index, in NumPy: they are evaluated during the trace
# where all inputs are known. In NumPy, since JAX would compile a program for each of them.
_FOLDED: dict[str, Callable[..., Any]] = {
    "lt": lambda params, a, b: np.less(a, b),
    "add": lambda params, a, b: np.add(a, b),
    "select_n": lambda params, which, *cases: np.choose(np.asarray(which, np.intp), cases),
    "broadcast_in_dim": lambda params, x: _broadcast(
        x, params["shape"], tuple(map(int, params["broadcast_dimensions"]))
    ),
    "reshape": lambda params, x: np.reshape(x, params["new_sizes"]),
    "squeeze": lambda params, x: np.squeeze(x, tuple(params["dimensions"])),
    "convert_element_type": lambda params, x: np.asarray(x, params["new_dtype"]),
    "transpose": lambda params, x: np.transpose(x, params["permutation"]),
    "slice": lambda params, x: x[
        tuple(map(slice, params["start_indices"], params["limit_indices"], params["strides"] or [1] * x.ndim))
    ],
}
# Primitives that call a traced function, whose body is searched as well, and their parameter that holds it.
_CALLS = {"jit": "jaxpr", "pjit": "jaxpr", "closed_call": "call_jaxpr"}


def fold_lookups(fn: Callable[..., Any]) -> Callable[..., Any]:
    """Removes the gathers along the first axis whose indices are known to be 0, 1, 2, … from a function.

    Args:
        fn: A function of pytrees. Leaves of its arguments that are NumPy arrays count as known.

    Returns:
        A function with the same result, to be called while tracing.
    """

    def folded(*args: Any) -> Any:
        leaves, treedef = jax.tree.flatten(args)
        known = {i: x for i, x in enumerate(leaves) if isinstance(x, np.ndarray)}
        if not known:
            return fn(*args)

        def flat(*rest: Any) -> Any:
            free = iter(rest)
            given = [known[i] if i in known else next(free) for i in range(len(leaves))]
            return fn(*jax.tree.unflatten(treedef, given))

        rest = [x for i, x in enumerate(leaves) if i not in known]
        closed, shape = jax.make_jaxpr(flat, return_shape=True)(*rest)
        out = _evaluate(closed.jaxpr, [np.asarray(c) if _is_number(c) else c for c in closed.consts], rest)
        return jax.tree.unflatten(jax.tree.structure(shape), out)

    return folded


def _is_number(x: Leaf) -> bool:
    return isinstance(x, (np.ndarray, np.generic, int, float)) or (
        isinstance(x, jax.Array)
        and not isinstance(x, jax.core.Tracer)
        and jax.numpy.issubdtype(x.dtype, np.number)
    )


def _evaluate(jaxpr: core.Jaxpr, consts: list[Any], args: list[Any]) -> list[Any]:
    """Evaluates a jaxpr, with known values as NumPy arrays and all others as JAX's."""
    values: dict[Any, Any] = dict(zip(jaxpr.constvars, consts, strict=True))
    values.update(zip(jaxpr.invars, args, strict=True))

    def read(atom: core.Var | core.Literal) -> Any:
        return np.asarray(atom.val) if isinstance(atom, core.Literal) else values[atom]

    for eqn in jaxpr.eqns:
        name, inputs = eqn.primitive.name, [read(v) for v in eqn.invars]
        first: Any = eqn.outvars[0].aval if eqn.outvars else None
        if name in _CALLS:
            inner = eqn.params[_CALLS[name]]
            out = _evaluate(inner.jaxpr, list(inner.consts), inputs)
        elif name in _FOLDED and all(isinstance(x, np.ndarray) for x in inputs):
            out = [np.asarray(_FOLDED[name](eqn.params, *inputs)).astype(first.dtype)]
        elif name == "gather" and _is_identity(eqn, inputs):
            out = [jax.numpy.reshape(inputs[0], first.shape)]
        elif name == "split" and isinstance(inputs[0], np.ndarray):
            ends = np.cumsum(eqn.params["sizes"])[:-1]
            out = list(np.split(inputs[0], ends, eqn.params["axis"]))
        elif name == "dot_general" and (selection := _selection(eqn, inputs)) is not None:
            out = [selection]
        else:
            out = apply_equation(jaxpr, eqn, inputs)
        values.update(zip(eqn.outvars, out, strict=True))
    return [read(v) for v in jaxpr.outvars]


def _broadcast(x: np.ndarray, shape: tuple[int, ...], dimensions: tuple[int, ...]) -> Any:
    spread = np.reshape(
        x, [x.shape[dimensions.index(i)] if i in dimensions else 1 for i in range(len(shape))]
    )
    return np.broadcast_to(spread, shape)


def apply_equation(whole: core.Jaxpr, eqn: core.JaxprEqn, inputs: list[Any]) -> list[Any]:
    """Evaluates one equation as a jaxpr of its own, so that JAX handles all kinds of primitives.

    Args:
        whole: The jaxpr that the equation is from.
        eqn: The equation.
        inputs: The values of its inputs; those of literals are not used.

    Returns:
        The values of its outputs.
    """
    given = {v: x for v, x in zip(eqn.invars, inputs, strict=True) if not isinstance(v, core.Literal)}
    alone = core.Jaxpr((), list(given), eqn.outvars, [eqn], debug_info=whole.debug_info)
    return core.jaxpr_as_fun(core.ClosedJaxpr(alone, []))(*given.values())


def _selection(eqn: core.JaxprEqn, inputs: list[Any]) -> Any:
    """A product with a known matrix that holds an identity and else zeros, as a slice with zeros around it.

    The Hessian's product with every direction is of this kind where a loss multiplies its parameters with a
    matrix: taken as a product it would cost as much as the rest of the Hessian.

    Returns:
        The product; None where it is of another kind.
    """
    x, matrix = inputs
    (left, right), batch = eqn.params["dimension_numbers"]
    if not isinstance(matrix, np.ndarray) or any(batch):
        return None
    if matrix.ndim != 2 or len(left) != 1 or matrix.dtype != x.dtype:
        return None
    matrix = matrix if right[0] == 1 else matrix.T  # [free, contracted]
    row, column = np.nonzero(matrix)
    if not len(row) or not np.array_equal(row - row[0], np.arange(len(row))):
        return None
    if not np.array_equal(column - row, np.full(len(row), column[0] - row[0])) or np.any(
        matrix[row, column] != 1
    ):
        return None
    rows = jax.numpy.moveaxis(x, left[0], 0)[column[0] : column[0] + len(row)]
    widths = [(int(row[0]), int(matrix.shape[0] - len(row) - row[0]))] + [(0, 0)] * (x.ndim - 1)
    out: Any = eqn.outvars[0].aval
    # The directions first, as a product with the transposed rows takes them next, and back again.
    return jax.numpy.moveaxis(jax.numpy.pad(rows, widths), 0, -1).astype(out.dtype)


def _is_identity(eqn: core.JaxprEqn, inputs: list[Any]) -> bool:
    """Whether a gather takes all rows of its operand in their order."""
    operand, indices = inputs[:2]
    result: Any = eqn.outvars[0].aval
    numbers, sizes = eqn.params["dimension_numbers"], eqn.params["slice_sizes"]
    whole_rows = (
        tuple(sizes) == (1, *operand.shape[1:])
        and numbers.collapsed_slice_dims == (0,)
        and numbers.start_index_map == (0,)
        and not numbers.operand_batching_dims
        and result.shape[len(result.shape) - operand.ndim + 1 :] == operand.shape[1:]
        and numbers.offset_dims == tuple(range(indices.ndim - 1, indices.ndim - 1 + operand.ndim - 1))
    )
    return (
        whole_rows
        and isinstance(indices, np.ndarray)
        and np.array_equal(indices.reshape(-1), np.arange(operand.shape[0]))
    )
