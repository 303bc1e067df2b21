"""Compiled programs that outlive the process."""


def keep_compiled() -> None:
    """Keeps compiled programs on the disk, so that the next run compiles nothing again."""
    import os

    import jax
    import platformdirs

    if not os.environ.get("JAX_COMPILATION_CACHE_DIR"):
        folder = platformdirs.user_cache_path("fedrecon") / "compiled"
        jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", 0)
