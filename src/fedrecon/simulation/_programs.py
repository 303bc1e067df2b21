"""Compiled programs that calls share: they live as long as their algorithm, and are only so many."""

import functools
from collections import OrderedDict
from collections.abc import Callable
from threading import Lock
from typing import Any

import jax

from fedrecon.algorithms._base import Algorithm

_MOST = 32  # programs of an algorithm
_LOCK = Lock()


def program_of(
    fn: Callable[..., Any], algorithm: Algorithm, *static: Any, options: dict[str, int | bool]
) -> Callable[..., Any]:
    """`fn(algorithm, *static, ...)`, compiled: the same program for the same arguments.

    JAX's own cache for static arguments would hold them, and all arrays that their functions close over,
    until the process ends. Here the algorithm itself holds its programs, the last that were used, so that
    they go with it. Calls may come from several threads.

    Args:
        fn: The function.
        algorithm: Its first argument.
        static: Its next arguments; hashable. They should tell the shapes of those that follow: a program
            keeps one compilation for each shape.
        options: For the compiler.

    Returns:
        A function of the arguments that follow, which keeps the algorithm alive.
    """
    key = (fn, static)
    with _LOCK:
        programs: OrderedDict[Any, Any] = algorithm.programs
        if key not in programs:
            programs[key] = jax.jit(functools.partial(fn, algorithm, *static), compiler_options=options)
        programs.move_to_end(key)
        while len(programs) > _MOST:
            programs.popitem(last=False)
        return programs[key]
