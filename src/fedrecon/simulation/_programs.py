"""A cache of compiled programs, which live as long as their algorithm."""

import functools
from collections import OrderedDict
from collections.abc import Callable
from threading import Lock
from typing import Any

from fedrecon.algorithms._base import Algorithm
from fedrecon.simulation._shared_programs import compiled

_MOST = 32  # the largest number of programs of one algorithm
_LOCK = Lock()


def program_of(
    fn: Callable[..., Any], algorithm: Algorithm, *static: Any, options: dict[str, int | bool]
) -> Callable[..., Any]:
    """Compiles `fn(algorithm, *static, ...)`, or returns the program of an earlier call.

    JAX's own cache for static arguments would hold them, and all arrays that their functions close over,
    until the process ends. Here the algorithm holds its 32 programs that were used last, so that they are
    freed with it. The function may be called from several threads.

    Args:
        fn: The function to compile.
        algorithm: The first argument of `fn`.
        static: The next arguments of `fn`, which must be hashable. They should tell the shapes of the arrays
            that follow, since a program keeps one compilation for each shape.
        options: Options of the compiler.

    Returns:
        The compiled function of the remaining arguments, which keeps the algorithm alive.
    """
    key = (fn, static)
    with _LOCK:
        programs: OrderedDict[Any, Any] = algorithm.programs
        if key not in programs:
            programs[key] = compiled(functools.partial(fn, algorithm, *static), options)
        programs.move_to_end(key)
        while len(programs) > _MOST:
            programs.popitem(last=False)
        return programs[key]
