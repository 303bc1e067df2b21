"""Clients converted once from a source, and kept in a client file that serves until the source changes."""

import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import platformdirs

from .errors import DataError
from .federation.clients import Clients


def cache_folder() -> Path:
    """`$XDG_CACHE_HOME/fedrecon`, or the platform's own place for what can be made again."""
    return platformdirs.user_cache_path("fedrecon")


def converted(
    convert: Callable[[], Clients],
    *,
    kind: str,
    facts: Any,
    fingerprint: Callable[[], str],
    where: str,
    folder: str | os.PathLike[str] | None = None,
) -> Clients:
    """The clients that `convert` makes, mapped from a client file that is made when it is needed.

    The file is made whole or not at all, and anew when the fingerprint or the facts change; the one made
    from the former source is then removed.

    Args:
        convert: Reads the source.
        kind: What the names of the client files start with.
        facts: All that the conversion depends on beside the source's content: where the source is, the
            settings, the version of the conversion. Told apart by how it prints.
        fingerprint: A digest of the source, which changes whenever the source does.
        where: What messages call the source.
        folder: Of the client files; by default `cache_folder()`.

    Raises:
        DataError: The source changed while it was read, or the folder cannot be written.
    """
    mark = fingerprint()
    folder = cache_folder() if folder is None else Path(folder)
    digest = hashlib.sha256(repr(facts).encode(errors="backslashreplace")).hexdigest()
    prefix = f"{kind}-{digest[:16]}"
    target = folder / f"{prefix}-{mark}.arrow"
    try:
        if target.exists():
            return Clients.open(target)
    except (DataError, OSError):
        pass  # damaged, or removed just now: made anew
    clients = convert()
    if fingerprint() != mark:
        raise DataError(f"{where}: must not change while it is read, but did; read it again")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        clients.write(target)
        for former in folder.glob(f"{prefix}-*.arrow"):
            if former != target:
                former.unlink(missing_ok=True)
    except OSError as error:
        raise DataError(
            f"{folder}: the cache folder must be writable: {error.strerror or error}; another one can be set "
            "in the environment as XDG_CACHE_HOME"
        ) from error
    return Clients.open(target)
