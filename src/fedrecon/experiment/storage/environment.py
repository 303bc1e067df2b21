"""The machine, the versions and the command of a run."""

import os
import platform
import subprocess
import sys
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

PACKAGES = ("fedrecon", "jax", "jaxlib", "numpy", "optax", "orbax-checkpoint", "pyarrow")


def environment(seed: int) -> dict[str, Any]:
    """Versions, devices, the source's git revision, the seed, the command and the time, as JSON values."""
    import jax

    return {
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": sys.argv,
        "seed": seed,
        "git": revision(Path(__file__).parent),
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in PACKAGES},
        "system": platform.platform(),
        "cpus": os.cpu_count(),
        "devices": [f"{d.platform}:{d.id} {d.device_kind}" for d in jax.devices()],
    }


def revision(folder: Path) -> dict[str, Any]:
    """The git revision of a folder's files and whether they changed since; `{}` for files not under git."""

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(folder), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()

    try:
        if not git("ls-files", "--", "."):
            return {}
        changed = git("status", "--porcelain", "--untracked-files=no", "--", ".")
        return {"revision": git("rev-parse", "HEAD"), "changed": bool(changed)}
    except (OSError, subprocess.SubprocessError):
        return {}


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "not installed"
