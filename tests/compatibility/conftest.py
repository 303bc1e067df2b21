"""A working folder in which commands run within this process."""

import jax
import pytest
from jax.experimental.compilation_cache import compilation_cache


@pytest.fixture(scope="module")
def command_line(tmp_path_factory):
    """The working folder, with a cache of its own; what commands change in JAX is changed back."""
    folder = tmp_path_factory.mktemp("home")
    names = ("min_compile_time_secs", "min_entry_size_bytes")
    options = ("jax_compilation_cache_dir", *(f"jax_persistent_cache_{name}" for name in names))
    before = {name: getattr(jax.config, name) for name in options}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
        patch.setenv("COLUMNS", "100")
        patch.delenv("JAX_COMPILATION_CACHE_DIR", raising=False)
        yield folder
    for name, value in before.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()
