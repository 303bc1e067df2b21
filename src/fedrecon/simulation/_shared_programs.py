"""Compiled programs that several runs of a process share, though numbers in them differ.

The trials of a sweep differ in a learning rate or a penalty, which JAX writes into their programs as
constants, so that each trial would compile programs of its own. Here such numbers become arguments, and a
program that another trial has compiled is used again if it is the same one, letter by letter.

Which numbers become arguments follows from a run's own settings alone, and not from what was compiled before:
so a trial has the same bits whichever trials its process ran before it.
"""

import hashlib
import math
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from threading import Lock
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.extend import core

from fedrecon._kernels.fold_lookups import apply_equation
from fedrecon.core._types import Leaf

# The largest number of programs that are kept. A trial has three to five.
_MOST = 32
# Constants that stay: programs are full of them, and XLA simplifies what they take part in.
_PLAIN = frozenset({0.0, 0.5, 1.0, 2.0, math.inf})
# What libraries compute of a setting before it enters a program: an optimizer scales by the negative of its
# learning rate, and by 1 less a decay.
_DERIVED: tuple[Callable[[float], float], ...] = (
    lambda x: x,
    lambda x: 1.0 - x,
    lambda x: 1.0 / x,
    lambda x: x / 2.0,
    lambda x: 2.0 * x,
    lambda x: x * x,
)


class SharedPrograms:
    """The compiled programs that runs of this process share while `used`.

    Attributes:
        compilations: The number of programs that were compiled so far.
    """

    def __init__(self) -> None:
        self.compilations = 0
        self._programs: OrderedDict[bytes, Callable[..., Any]] = OrderedDict()
        self._lock = Lock()

    @contextmanager
    def used(self, numbers: Sequence[float]) -> Iterator[None]:
        """While entered, the programs of rounds and evaluations are shared.

        Args:
            numbers: The settings that differ between the runs. Constants of programs that equal one of them,
                or what libraries usually compute of one, become arguments; a program with other constants is
                compiled by itself.
        """
        global _active
        before, _active = _active, (self, _constants(numbers))
        try:
            yield
        finally:
            _active = before

    def compiled(self, lowered: Any, options: dict[str, int | bool]) -> Callable[..., Any]:
        """The executable of a lowered program: that of an equal one, or a new one.

        Args:
            lowered: The program, from the method `lower` of a jitted function.
            options: Options of the compiler.
        """
        text = f"{sorted(options.items())}\n{lowered.in_tree}\n{lowered.as_text()}"
        key = hashlib.sha256(text.encode()).digest()
        with self._lock:
            if key not in self._programs:
                self._programs[key] = lowered.compile(options)
                self.compilations += 1
            self._programs.move_to_end(key)
            while len(self._programs) > _MOST:
                self._programs.popitem(last=False)
            return self._programs[key]


# What is used at present, by all threads: a run compiles its evaluations in a thread of its own.
_active: tuple[SharedPrograms, frozenset[float]] | None = None


def compiled(
    fn: Callable[..., Any], options: dict[str, int | bool], *, alone: bool = False
) -> Callable[..., Any]:
    """`jax.jit(fn)`, or a function that shares its program while a `SharedPrograms` is used.

    Args:
        fn: The function to compile, of arrays in pytrees.
        options: Options of the compiler.
        alone: Whether the program is never shared, for instance since several devices compute it; False by
            default.

    Returns:
        The compiled function. Its method `_cache_size` tells for how many shapes it has a program.
    """
    if _active is None or alone:
        return jax.jit(fn, compiler_options=options)
    return _SharedProgram(fn, options, *_active)


class _Ready(NamedTuple):
    """A program for arguments of certain shapes, with the arguments that it takes before them."""

    program: Callable[..., Any]
    numbers: list[np.ndarray]
    consts: list[Any]
    structure: Any


class _SharedProgram:
    """A function whose programs are shared, called like a jitted one."""

    def __init__(
        self,
        fn: Callable[..., Any],
        options: dict[str, int | bool],
        pool: SharedPrograms,
        constants: frozenset[float],
    ):
        self._fn, self._options, self._pool, self._constants = fn, options, pool, constants
        self._ready: dict[Any, _Ready] = {}
        self._lock = Lock()

    def __call__(self, *args: Any) -> Any:
        leaves, structure = jax.tree.flatten(args)
        # As `jax.jit`, whose programs are for one placement of their arguments.
        key = structure, tuple((jax.typeof(x), getattr(x, "sharding", None)) for x in leaves)
        with self._lock:
            if key not in self._ready:
                self._ready[key] = self._prepare(args, leaves)
        ready = self._ready[key]
        return jax.tree.unflatten(ready.structure, ready.program(ready.numbers, ready.consts, leaves))

    def _cache_size(self) -> int:
        return len(self._ready)

    def _prepare(self, args: tuple[Any, ...], leaves: list[Any]) -> _Ready:
        structure = None

        def leaves_of(*args: Any) -> list[Any]:
            nonlocal structure
            out, structure = jax.tree.flatten(self._fn(*args))
            return out

        closed = jax.make_jaxpr(leaves_of)(*args)
        lifted = _Lifted(self._constants)
        lifted.search(closed.jaxpr)

        def flat(numbers: list[Any], consts: list[Any], leaves: list[Any]) -> list[Any]:
            return lifted.evaluate(closed.jaxpr, consts, leaves, numbers)

        given = [np.asarray(value, dtype) for dtype, value in lifted.places]
        # Without arguments that are not used, the texts of programs that use different ones could be equal.
        lowered = jax.jit(flat, keep_unused=True).lower(given, closed.consts, leaves)
        program = self._pool.compiled(lowered, self._options)
        return _Ready(program, given, closed.consts, structure)


def _constants(numbers: Sequence[float]) -> frozenset[float]:
    """The constants that settings give rise to, without their signs."""
    settings = {abs(float(x)) for x in numbers} - {0.0}
    return frozenset({abs(derive(x)) for x in settings for derive in _DERIVED}) - _PLAIN


class _Lifted:
    """Evaluates jaxprs with some of their constants as arguments.

    Attributes:
        places: The constants that are arguments, by their type and value, with the number of the argument.
    """

    def __init__(self, constants: frozenset[float]):
        self.places: dict[tuple[np.dtype[Any], float], int] = {}
        self._constants = constants
        self._of_type: dict[np.dtype[Any], frozenset[float]] = {}
        self._bodies: dict[int, bool] = {}  # whether a nested jaxpr has such a constant, by its identity

    def search(self, jaxpr: core.Jaxpr) -> bool:
        """Numbers the constants of a jaxpr and of those in it; returns whether there are any."""
        known = self._bodies.get(id(jaxpr))
        if known is not None:
            return known
        has = [self._number(atom) for atom in jaxpr.outvars]
        for eqn in jaxpr.eqns:
            if _is_plain(eqn) or _is_nested(eqn):
                has += [self._number(atom) for atom in eqn.invars]
            if _is_nested(eqn):
                has += [self.search(body.jaxpr) for body in _bodies(eqn)]
        self._bodies[id(jaxpr)] = any(has)
        return any(has)

    def _number(self, atom: core.Var | core.Literal) -> bool:
        place = self._place(atom)
        if place is not None:
            self.places.setdefault(place, len(self.places))
        return place is not None

    def _place(self, atom: core.Var | core.Literal) -> tuple[np.dtype[Any], float] | None:
        if not isinstance(atom, core.Literal) or np.shape(atom.val):
            return None
        aval: Any = atom.aval
        dtype = aval.dtype
        if not jax.numpy.issubdtype(dtype, np.floating):
            return None
        value = float(np.asarray(atom.val, dtype))
        return (np.dtype(dtype), value) if abs(value) in self._rounded(np.dtype(dtype)) else None

    def _rounded(self, dtype: np.dtype[Any]) -> frozenset[float]:
        """The constants as a program of this type has them."""
        if dtype not in self._of_type:
            with np.errstate(over="ignore"):
                self._of_type[dtype] = (
                    frozenset(float(np.asarray(x, dtype)) for x in self._constants) - _PLAIN
                )
        return self._of_type[dtype]

    def evaluate(
        self, jaxpr: core.Jaxpr, consts: Sequence[Leaf], args: Sequence[Leaf], numbers: Sequence[Leaf]
    ) -> list[Any]:
        """Evaluates a jaxpr that was searched.

        Args:
            jaxpr: The jaxpr.
            consts: Values of its constant variables.
            args: Values of its arguments.
            numbers: Values of the constants, in the order of `places`.
        """
        values: dict[Any, Any] = dict(zip(jaxpr.constvars, consts, strict=True))
        values.update(zip(jaxpr.invars, args, strict=True))

        def read(atom: core.Var | core.Literal) -> Any:
            place = self._place(atom)
            if place in self.places:
                return numbers[self.places[place]]
            return atom.val if isinstance(atom, core.Literal) else values[atom]

        for eqn in jaxpr.eqns:
            inputs = [read(atom) for atom in eqn.invars]
            given = any(self._place(atom) for atom in eqn.invars)
            if _is_nested(eqn) and (given or any(self._bodies[id(body.jaxpr)] for body in _bodies(eqn))):
                run = [self._body(body, numbers) for body in _bodies(eqn)]
                out = _NESTED[eqn.primitive.name](eqn, run, inputs)
            elif given and _is_plain(eqn):
                result = eqn.primitive.bind(*inputs, **eqn.params)
                out = list(result) if eqn.primitive.multiple_results else [result]
            else:
                out = apply_equation(jaxpr, eqn, inputs)
            values.update(zip(eqn.outvars, out, strict=True))
        return [read(atom) for atom in jaxpr.outvars]

    def _body(self, body: core.ClosedJaxpr, numbers: Sequence[Leaf]) -> Callable[..., list[Any]]:
        """A nested jaxpr as a function. It closes over the numbers, which JAX hands on to where it runs."""
        return lambda *args: self.evaluate(body.jaxpr, body.consts, args, numbers)


def _is_plain(eqn: core.JaxprEqn) -> bool:
    """Whether an equation runs no other function."""
    return not any(
        callable(x) or (isinstance(x, (core.Jaxpr, core.ClosedJaxpr, tuple)) and _holds_jaxpr(x))
        for x in eqn.params.values()
    )


def _is_nested(eqn: core.JaxprEqn) -> bool:
    """Whether numbers can be handed on into the functions that an equation runs."""
    if eqn.primitive.name == "while":
        # Of a loop that is vectorised each element ends by itself, which `jax.lax.while_loop` does not take.
        (ends,) = eqn.params["cond_jaxpr"].out_avals
        return ends.shape == ()
    return eqn.primitive.name in _NESTED


def _holds_jaxpr(param: Any) -> bool:
    parts = param if isinstance(param, tuple) else (param,)
    return any(isinstance(x, (core.Jaxpr, core.ClosedJaxpr)) for x in parts)


def _bodies(eqn: core.JaxprEqn) -> list[core.ClosedJaxpr]:
    """The jaxprs that an equation runs."""
    params = eqn.params
    if eqn.primitive.name == "while":
        return [params["cond_jaxpr"], params["body_jaxpr"]]
    return list(params["branches"]) if eqn.primitive.name == "cond" else [params["jaxpr"]]


def _scan(eqn: core.JaxprEqn, run: list[Callable[..., list[Any]]], inputs: list[Any]) -> list[Any]:
    fixed, carried = eqn.params["num_consts"], eqn.params["num_carry"]
    consts, first, rest = inputs[:fixed], inputs[fixed : fixed + carried], inputs[fixed + carried :]

    def step(carry: list[Any], x: list[Any]) -> tuple[list[Any], list[Any]]:
        out = run[0](*consts, *carry, *x)
        return out[:carried], out[carried:]

    carry, ys = jax.lax.scan(
        step,
        first,
        rest,
        length=eqn.params["length"],
        reverse=eqn.params["reverse"],
        unroll=eqn.params["unroll"],
    )
    return [*carry, *ys]


def _while(eqn: core.JaxprEqn, run: list[Callable[..., list[Any]]], inputs: list[Any]) -> list[Any]:
    test, body = eqn.params["cond_nconsts"], eqn.params["body_nconsts"]
    of_test, of_body, first = inputs[:test], inputs[test : test + body], inputs[test + body :]
    return list(
        jax.lax.while_loop(
            lambda carry: run[0](*of_test, *carry)[0], lambda carry: run[1](*of_body, *carry), first
        )
    )


def _cond(eqn: core.JaxprEqn, run: list[Callable[..., list[Any]]], inputs: list[Any]) -> list[Any]:
    return list(jax.lax.switch(inputs[0], run, *inputs[1:]))


def _jit(eqn: core.JaxprEqn, run: list[Callable[..., list[Any]]], inputs: list[Any]) -> list[Any]:
    return run[0](*inputs)


# Equations into whose functions numbers are handed on. Constants in others, such as derivative rules of
# functions of their own, stay constants.
_NESTED: dict[str, Callable[[core.JaxprEqn, list[Callable[..., list[Any]]], list[Any]], list[Any]]] = {
    "scan": _scan,
    "while": _while,
    "cond": _cond,
    "jit": _jit,
    "pjit": _jit,
}
