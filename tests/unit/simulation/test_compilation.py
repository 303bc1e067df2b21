"""Compiler options: those of the installed compiler, and never against the user."""

import jax
import jax.numpy as jnp
import pytest

from fedrecon import Table
from fedrecon.simulation import _compilation as compilation


def test_the_options_compile(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("XLA_FLAGS", raising=False)
    options = compilation.engine_options(heavy=False)
    assert options["xla_backend_optimization_level"] == 1
    for chosen in (options, compilation.quick_options()):
        assert float(jax.jit(lambda x: jnp.sin(x) + 1, compiler_options=chosen)(0.0)) == 1.0


def test_what_the_user_sets_stands(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XLA_FLAGS", "--xla_backend_optimization_level=3 --xla_cpu_use_fusion_emitters=true")
    assert compilation.engine_options(heavy=False) == {}


def test_heavy_models_are_compiled_for_speed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("XLA_FLAGS", raising=False)
    assert "xla_cpu_use_fusion_emitters" not in compilation.engine_options(heavy=True)
    tables = (Table("embedding", ("word",)),)
    params = {"embedding": jnp.zeros((1000, 100)), "dense": jnp.zeros((256, 256))}
    assert not compilation.heavy(params, tables)
    assert compilation.heavy(params, ())
    shapes = jax.eval_shape(lambda: {**params, "dense": jnp.zeros((256, 257))})
    assert compilation.heavy(shapes, tables)


def test_an_option_that_the_compiler_lacks_is_left_out() -> None:
    assert not compilation._known("xla_cpu_no_such_option", True)
