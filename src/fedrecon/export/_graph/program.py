"""A traced function as nodes and values.

Calls are inlined, and the bodies of loops read values from outside directly.
"""

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import jax
import numpy as np
from jax.extend import core
from jax.extend.core import primitives

# Primitives that only call a traced function, and their parameter that holds it.
_CALLS = {
    "jit": "jaxpr",
    "pjit": "jaxpr",
    "closed_call": "call_jaxpr",
    "core_call": "call_jaxpr",
    "custom_jvp_call": "call_jaxpr",
    "custom_vjp_call": "call_jaxpr",
    "custom_vmap_call": "call",
    "checkpoint": "jaxpr",
    "remat": "jaxpr",
    "remat2": "jaxpr",
}
_SAME = ("optimization_barrier", "copy", "copy_p", "name", "stop_gradient", "sharding_constraint")


class ExportError(ValueError):
    """An export that is impossible or wrong; the message names the reason and the remedy, if there is one."""


@dataclass(eq=False)
class Value:
    """An array of a program.

    Attributes:
        shape: The array's dimensions: whole numbers, or JAX's symbolic dimensions.
        dtype: The array's NumPy type, or one of JAX's extended types for random keys.
        known: The array's content; None, the default, where it depends on the program's inputs.
        weight: The parameter's number where the array is a parameter; None, the default, for another array.
    """

    shape: tuple[Any, ...]
    dtype: Any
    known: Any = None
    weight: int | None = None

    @property
    def size(self) -> int:
        """Number of entries; symbolic dimensions count as 1."""
        return int(np.prod([d if isinstance(d, int) else 1 for d in self.shape]))


@dataclass(eq=False)
class Node:
    """One operation.

    Attributes:
        op: Name of JAX's primitive, or `spd_solve`: the solution X of X A = B for a symmetric, positive
            definite A, inputs A and B.
        params: The primitive's parameters.
        inputs: The values that the operation reads.
        outputs: The values that the operation makes.
        blocks: Bodies of a loop or condition, which also read values from outside; none by default.
        primitive: JAX's primitive, by which the operation is evaluated; None, the default, for loops,
            conditions and `spd_solve`, which have no single one.
        notes: Facts that let the operation be written shorter: `index_range`, the lowest and the highest
            index of a gather or scatter, and `fraction`, a bit cast to numbers from 1 to below 2; none by
            default.
    """

    op: str
    params: dict[str, Any]
    inputs: list[Value]
    outputs: list[Value]
    blocks: list["Block"] = field(default_factory=list)
    primitive: Any = None
    notes: dict[str, Any] = field(default_factory=dict)

    def reads(self) -> Iterator[Value]:
        """All values from outside that the operation reads, those that its blocks read included."""
        yield from self.inputs
        for block in self.blocks:
            yield from block.reads()


@dataclass(eq=False)
class Block:
    """Operations in an order in which they can be computed.

    Attributes:
        inputs: The values that a caller gives at every call.
        nodes: The operations in order.
        outputs: The values that are returned; they may be inputs or values from outside.
    """

    inputs: list[Value]
    nodes: list[Node]
    outputs: list[Value]

    def reads(self) -> Iterator[Value]:
        """All values from outside that the block reads."""
        inside = set(self.inputs) | {value for node in self.nodes for value in node.outputs}
        everything = itertools.chain.from_iterable(node.reads() for node in self.nodes)
        yield from (value for value in itertools.chain(everything, self.outputs) if value not in inside)


def program_of(fn: Callable[..., Any], weights: Sequence[Any], shapes: Sequence[Any]) -> tuple[Block, Any]:
    """Traces a function.

    Args:
        fn: The function of `len(weights) + len(shapes)` arrays; it returns a pytree of arrays.
        weights: The first arguments, arrays that are known during the export; they become values with
            `weight` and `known` set.
        shapes: Shapes and types of the function's arguments after `weights`, which become the program's
            inputs.

    Returns:
        The program and the structure of the function's result.
    """
    like = [jax.ShapeDtypeStruct(np.shape(w), np.asarray(w).dtype) for w in weights]
    closed, shape = jax.make_jaxpr(fn, return_shape=True)(*like, *shapes)
    held = [Value(np.shape(w), np.asarray(w).dtype, np.asarray(w), i) for i, w in enumerate(weights)]
    free = [Value(tuple(s.shape), np.dtype(s.dtype)) for s in shapes]
    nodes: list[Node] = []
    outputs = _inline(closed.jaxpr, _constants(closed.consts), [*held, *free], nodes)
    return Block(free, nodes, outputs), jax.tree.structure(shape)


def nodes_of(fn: Callable[..., Any], inputs: Sequence[Value], nodes: list[Node]) -> list[Value]:
    """Appends the operations of a function of values to `nodes` and returns its results.

    Args:
        fn: The function of as many arrays as there are `inputs`.
        inputs: The values that the function is given.
        nodes: The operations to which those of the function are added.
    """
    closed = jax.make_jaxpr(fn)(*[jax.ShapeDtypeStruct(x.shape, x.dtype) for x in inputs])
    return _inline(closed.jaxpr, _constants(closed.consts), list(inputs), nodes)


def constant(x: Any) -> Value:
    """A known array as a value."""
    array = np.asarray(x)
    return Value(array.shape, array.dtype, array)


def _constants(consts: Sequence[Any]) -> list[Value]:
    values = []
    for x in consts:
        if jax.numpy.issubdtype(x.dtype, jax.dtypes.prng_key):
            values.append(Value(x.shape, x.dtype, x))
        else:
            values.append(constant(x))
    return values


def _inline(jaxpr: core.Jaxpr, consts: list[Value], args: list[Value], nodes: list[Node]) -> list[Value]:
    """Appends a jaxpr's operations to `nodes` and returns its results."""
    values: dict[Any, Value] = dict(zip(jaxpr.constvars, consts, strict=True))
    values.update(zip(jaxpr.invars, args, strict=True))

    def read(atom: Any) -> Value:
        if isinstance(atom, core.Literal):
            return constant(np.asarray(atom.val, getattr(atom.aval, "dtype", None)))
        return values[atom]

    for eqn in jaxpr.eqns:
        inputs = [read(v) for v in eqn.invars]
        name = eqn.primitive.name
        if name in _CALLS:
            inner = eqn.params[_CALLS[name]]
            closed = inner if isinstance(inner, core.ClosedJaxpr) else core.ClosedJaxpr(inner, ())
            outputs = _inline(closed.jaxpr, _constants(closed.consts), inputs, nodes)
        elif name in _SAME:
            outputs = inputs
        elif name == "cond":
            outputs = _cond(eqn, inputs, nodes)
        elif name == "scan":
            outputs = _scan(eqn, inputs, nodes)
        elif name == "while":
            outputs = _while(eqn, inputs, nodes)
        else:
            outputs = _fresh(eqn.outvars)
            nodes.append(Node(name, dict(eqn.params), inputs, outputs, [], eqn.primitive))
        values.update(zip(eqn.outvars, outputs, strict=True))
    return [read(v) for v in jaxpr.outvars]


def _fresh(variables: Sequence[Any]) -> list[Value]:
    return [Value(tuple(v.aval.shape), v.aval.dtype) for v in variables]


def _block(closed: Any, captured: list[Value], fresh: list[Value]) -> Block:
    """A body whose first arguments are values from outside and whose others are given at every call."""
    nodes: list[Node] = []
    outputs = _inline(closed.jaxpr, _constants(closed.consts), [*captured, *fresh], nodes)
    return Block(fresh, nodes, outputs)


def _cond(eqn: Any, inputs: list[Value], nodes: list[Node]) -> list[Value]:
    branches = eqn.params["branches"]
    platforms = eqn.params.get("branches_platforms")
    if platforms is not None:  # a choice by platform: the branch for any platform, not the one for this CPU
        chosen = branches[platforms.index(None)]
        return _inline(chosen.jaxpr, _constants(chosen.consts), inputs[1:], nodes)
    outputs = _fresh(eqn.outvars)
    blocks = [_block(branch, inputs[1:], []) for branch in branches]
    nodes.append(Node("cond", {}, inputs[:1], outputs, blocks))
    return outputs


def _scan(eqn: Any, inputs: list[Value], nodes: list[Node]) -> list[Value]:
    params = eqn.params
    first = params["num_consts"]
    carried, body = params["num_carry"], params["jaxpr"]
    consts, init, xs = inputs[:first], inputs[first : first + carried], inputs[first + carried :]
    if params["length"] == 1:  # inlined, so that it is folded and merged with what is around it
        now = [_reshape(x, x.shape[1:], nodes) for x in xs]
        out = _inline(body.jaxpr, _constants(body.consts), [*consts, *init, *now], nodes)
        return out[:carried] + [_reshape(y, (1, *y.shape), nodes) for y in out[carried:]]
    fresh = _fresh(body.jaxpr.invars[first:])
    outputs = _fresh(eqn.outvars)
    block = _block(body, consts, fresh)
    known = {"length": params["length"], "reverse": params["reverse"], "num_carry": carried}
    nodes.append(Node("scan", known, [*init, *xs], outputs, [block]))
    return outputs


def _while(eqn: Any, inputs: list[Value], nodes: list[Node]) -> list[Value]:
    params = eqn.params
    of_test, of_body = params["cond_nconsts"], params["body_nconsts"]
    init = inputs[of_test + of_body :]
    tests, bodies = params["cond_jaxpr"], params["body_jaxpr"]
    outputs = _fresh(eqn.outvars)
    test = _block(tests, inputs[:of_test], _fresh(tests.jaxpr.invars[of_test:]))
    body = _block(bodies, inputs[of_test : of_test + of_body], _fresh(bodies.jaxpr.invars[of_body:]))
    nodes.append(Node("while", {}, init, outputs, [test, body]))
    return outputs


def _reshape(x: Value, shape: tuple[Any, ...], nodes: list[Node]) -> Value:
    out = Value(shape, x.dtype)
    params = {"new_sizes": shape, "dimensions": None, "sharding": None}
    nodes.append(Node("reshape", params, [x], [out], [], primitives.reshape_p))
    return out


def evaluate_node(node: Node, read: Callable[[Value], Any]) -> list[Any]:
    """The results of a node, computed by JAX.

    Args:
        node: The operation to evaluate.
        read: Returns the array of a value that the operation reads.
    """
    inputs = [read(x) for x in node.inputs]
    if node.op == "scan":
        carried, reverse = node.params["num_carry"], node.params["reverse"]

        def step(carry: Any, xs: Any) -> tuple[Any, Any]:
            out = run_block(node.blocks[0], [*carry, *xs], read)
            return out[:carried], out[carried:]

        last, ys = jax.lax.scan(
            step, inputs[:carried], inputs[carried:], length=node.params["length"], reverse=reverse
        )
        return [*last, *ys]
    if node.op == "while":
        test, body = node.blocks
        return list(
            jax.lax.while_loop(
                lambda x: run_block(test, list(x), read)[0], lambda x: run_block(body, list(x), read), inputs
            )
        )
    if node.op == "cond":
        branches = [lambda block=block: run_block(block, [], read) for block in node.blocks]
        index = jax.numpy.clip(jax.numpy.asarray(inputs[0], jax.numpy.int32), 0, len(branches) - 1)
        return list(jax.lax.switch(index, branches))
    if node.op == "spd_solve":
        matrix, right = inputs
        factor = jax.scipy.linalg.cho_factor(matrix)
        return [jax.scipy.linalg.cho_solve(factor, right.T).T]
    out = node.primitive.bind(*inputs, **node.params)
    return list(out) if node.primitive.multiple_results else [out]


def run_block(block: Block, args: Sequence[Any], outer: Callable[[Value], Any]) -> list[Any]:
    """The results of a block, computed by JAX.

    Args:
        block: The block to evaluate.
        args: The arrays of the block's inputs.
        outer: Returns the array of a value from outside.
    """
    arrays: dict[Value, Any] = dict(zip(block.inputs, args, strict=True))

    def read(value: Value) -> Any:
        if value in arrays:
            return arrays[value]
        return value.known if value.known is not None else outer(value)

    for node in block.nodes:
        arrays.update(zip(node.outputs, evaluate_node(node, read), strict=True))
    return [jax.numpy.asarray(read(value)) for value in block.outputs]
