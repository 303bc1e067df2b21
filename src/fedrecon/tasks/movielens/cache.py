"""Where downloads and client files are kept."""

from pathlib import Path

import platformdirs


def cache_folder() -> Path:
    """`$XDG_CACHE_HOME/fedrecon`, or the platform's own place for what can be made again."""
    return platformdirs.user_cache_path("fedrecon")
