"""How the engine's programs are compiled."""

import functools
import os

import jax

_LEVEL, _EMITTERS = "xla_backend_optimization_level", "xla_cpu_use_fusion_emitters"


def engine_options() -> dict[str, int | bool]:
    """Compiler options for the large programs of rounds and evaluations.

    On a CPU the compiler's first level of effort, and its older way of emitting fused operations: rounds
    compile in half the time and run as fast as by its defaults or faster (benchmarks/README.md). What the
    user sets in `XLA_FLAGS` stands.
    """
    if jax.default_backend() != "cpu":
        return {}
    found: dict[str, int | bool] = {_LEVEL: 1} if _free(_LEVEL) else {}
    if _free(_EMITTERS) and _known(_EMITTERS, False):
        found[_EMITTERS] = False
    return found


def quick_options() -> dict[str, int | bool]:
    """Compiler options for what runs once: as little effort as it is used."""
    return {**engine_options(), _LEVEL: 0}


def _free(name: str) -> bool:
    return name not in os.environ.get("XLA_FLAGS", "")


@functools.cache
def _known(name: str, value: int | bool) -> bool:
    """Whether the installed compiler has an option: a later one may lose it."""
    try:
        jax.jit(lambda: 0, compiler_options={name: value}).lower().compile()
    except jax.errors.JaxRuntimeError:
        return False
    return True
