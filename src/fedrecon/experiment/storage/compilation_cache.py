"""The cache on the disk that keeps compiled programs for the next process."""


def use_compilation_cache() -> None:
    """Keeps compiled programs on the disk, so that the next run need not compile them again.

    They are in the folder that `JAX_COMPILATION_CACHE_DIR` names, by default in the user's cache folder.
    """
    import os

    import jax
    import platformdirs

    if not os.environ.get("JAX_COMPILATION_CACHE_DIR"):
        folder = platformdirs.user_cache_path("fedrecon") / "compiled"
        jax.config.update("jax_compilation_cache_dir", str(folder))
    # To read a program takes 1 to 3 ms. The half dozen small ones of a start take 20 ms each to compile.
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.01)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", 0)
