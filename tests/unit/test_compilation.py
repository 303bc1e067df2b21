"""Compiler options: those of the installed compiler, and never against the user."""

import jax
import jax.numpy as jnp
import pytest

from fedrecon import compilation


def test_the_options_compile(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("XLA_FLAGS", raising=False)
    options = compilation.engine_options()
    assert options["xla_backend_optimization_level"] == 1
    for chosen in (options, compilation.quick_options()):
        assert float(jax.jit(lambda x: jnp.sin(x) + 1, compiler_options=chosen)(0.0)) == 1.0


def test_what_the_user_sets_stands(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XLA_FLAGS", "--xla_backend_optimization_level=3 --xla_cpu_use_fusion_emitters=true")
    assert compilation.engine_options() == {}


def test_an_option_that_the_compiler_lacks_is_left_out() -> None:
    assert not compilation._known("xla_cpu_no_such_option", True)
