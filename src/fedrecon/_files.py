"""Files that are whole or not there: what is written survives a kill and a power cut."""

import os
import shutil
from pathlib import Path
from typing import IO


class RunError(ValueError):
    """A run folder that cannot be used; the message names the folder or file, the rule and the value."""


def write_atomically(path: Path, content: str | bytes) -> None:
    """Writes a file so that a reader, and whoever comes after a kill, sees the old content or the new one."""
    data = content.encode() if isinstance(content, str) else content
    temporary = path.with_name(f".{path.name}.writing")
    with open(temporary, "wb") as file:
        file.write(data)
        sync(file)
    os.replace(temporary, path)
    sync_folder(path.parent)


def sync(file: IO) -> None:
    """Waits until a file's content is on the disk."""
    file.flush()
    os.fsync(file.fileno())


def sync_folder(path: Path) -> None:
    """Waits until a folder's list of names is on the disk."""
    if os.name == "nt":  # Windows keeps it without being asked, and opens no folder
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sync_tree(path: Path) -> None:
    """Waits until all that is below a folder is on the disk."""
    for folder, _, names in os.walk(path):
        for name in names:
            # Windows syncs only what was opened for writing.
            with open(os.path.join(folder, name), "r+b") as file:
                os.fsync(file.fileno())
        sync_folder(Path(folder))


def remove(path: Path) -> None:
    """Removes a folder; a kill on the way leaves it under a name that `leftovers` finds."""
    doomed = path if path.name.startswith(".") else path.with_name(f".{path.name}.removing")
    if doomed != path:
        if doomed.exists():
            shutil.rmtree(doomed)
        os.rename(path, doomed)
    shutil.rmtree(doomed)


def leftovers(folder: Path) -> list[Path]:
    """What a kill left half-written or half-removed."""
    return [p for p in folder.glob(".*") if p.name.endswith((".writing", ".removing"))]
