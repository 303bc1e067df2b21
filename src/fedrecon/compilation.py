"""How the engine's programs are compiled."""

import os

import jax

_LEVEL = "xla_backend_optimization_level"


def engine_options() -> dict[str, int]:
    """Compiler options for the large programs of rounds and evaluations.

    On a CPU the compiler's first level of effort: rounds compile in three quarters of the time and run as
    fast or faster than at its default, the third (benchmarks/README.md). A level that the user sets in
    `XLA_FLAGS` stands.
    """
    chosen = _LEVEL in os.environ.get("XLA_FLAGS", "")
    return {} if chosen or jax.default_backend() != "cpu" else {_LEVEL: 1}


def quick_options() -> dict[str, int]:
    """Compiler options for what runs once: as little effort as it is used."""
    return {_LEVEL: 0}
