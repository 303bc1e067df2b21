"""What all tests share: the platform, hypothesis' profiles, devices and data on request."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

# Where Matplotlib is loaded, commands draw figures in their own process: so tests do not pay for another one.
import matplotlib.figure  # noqa: F401
import pytest
from hypothesis import settings

# Before the first import of jax: numbers are compared on the CPU unless somebody asks for another platform.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
# Tests compile far longer than they compute: the last two flags take a third off that.
os.environ.setdefault(
    "XLA_FLAGS",
    "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true "
    "--xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1",
)

REPOSITORY = Path(__file__).resolve().parents[1]

# The first call of a jitted function compiles, so that a deadline would measure XLA.
settings.register_profile("local", deadline=None)
settings.register_profile("ci", deadline=None, derandomize=True, print_blob=True)
settings.load_profile("ci" if os.environ.get("CI") else "local")


@pytest.fixture(scope="session")
def repository() -> Path:
    """The repository's root."""
    return REPOSITORY


@pytest.fixture(scope="session")
def shared_data() -> Callable[[str], Path]:
    """`shared_data("ml-1m")`: that folder of `../shared/data`; skips the test where it is missing."""

    def folder(name: str) -> Path:
        path = REPOSITORY.parent / "shared" / "data" / name
        if not path.exists():
            pytest.skip(f"needs ../shared/data/{name} beside the repository")
        return path

    return folder


@pytest.fixture(scope="session")
def run_python() -> Callable[..., str]:
    """`run_python(code, devices=8)`: what `code` prints in a fresh interpreter with that many CPU devices.

    The number of devices is fixed when JAX starts: a test that needs several cannot share this process.
    """

    def run(code: str, devices: int = 1) -> str:
        environment = {
            **os.environ,
            "JAX_PLATFORMS": "cpu",
            "PYTHONPATH": os.pathsep.join([str(REPOSITORY / "src"), str(REPOSITORY)]),
            "XLA_FLAGS": f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count={devices}",
        }
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run
