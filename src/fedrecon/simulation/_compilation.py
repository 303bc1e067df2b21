"""Compiler options of the engine's programs."""

import functools
import os
from collections.abc import Callable, Sequence
from typing import Any

import jax

from fedrecon.core._model import Table, leaves_of
from fedrecon.core._types import Params

_LEVEL, _EMITTERS = "xla_backend_optimization_level", "xla_cpu_use_fusion_emitters"


# With more bytes of parameters outside of tables, the speed of a program matters more than its compilation.
_HEAVY_BYTES = 2**18


def heavy(global_params: Params, tables: Sequence[Table]) -> bool:
    """Whether a model computes much, judged by its parameters outside of tables.

    Args:
        global_params: The global parameters, or their shapes.
        tables: The tables that the model declares.
    """
    names = {table.leaf for table in tables}
    rest = [x for name, x in leaves_of(global_params).items() if name not in names]
    return sum(x.size * x.dtype.itemsize for x in rest) > _HEAVY_BYTES


def engine_options(heavy: bool) -> dict[str, int | bool]:
    """Compiler options for the large programs of rounds and evaluations.

    On a CPU they select the first level of effort, which compiles faster than the default and runs no slower.
    For models that are not heavy they also select XLA's older fusion emitter, which compiles a third sooner
    and runs no slower where there is little to compute (docs/performance_notes.md). Options that the user
    sets in `XLA_FLAGS` are left alone.

    Args:
        heavy: Whether the model computes much, as `heavy` tells.
    """
    if jax.default_backend() != "cpu":
        return {}
    options: dict[str, int | bool] = {_LEVEL: 1} if _free(_LEVEL) else {}
    if not heavy and _free(_EMITTERS) and _known(_EMITTERS, False):
        options[_EMITTERS] = False
    return options


def quick_options() -> dict[str, int | bool]:
    """Compiler options for programs that run once, with the least effort."""
    return {**engine_options(heavy=False), _LEVEL: 0}


def quickly(fn: Callable[..., Any]) -> Callable[..., Any]:
    """`fn`, compiled with as little effort as it is used."""
    return jax.jit(fn, compiler_options=quick_options())


def _free(name: str) -> bool:
    return name not in os.environ.get("XLA_FLAGS", "")


@functools.cache
def _known(name: str, value: int | bool) -> bool:
    """Whether the installed XLA has an option, which a later version may drop."""
    try:
        jax.jit(lambda: 0, compiler_options={name: value}).lower().compile()
    except jax.errors.JaxRuntimeError:
        return False
    return True
