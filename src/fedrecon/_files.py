"""Atomic and durable writing of files and folders, and locks between processes.

All files that must survive a kill or a power cut are written through this module. A file is written under
another name, synced, renamed, and its folder is synced, in this order: a rename may reach the disk before the
content if that is not synced, and without the last step a power cut may take the name back.
"""

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING

if TYPE_CHECKING:
    from filelock import BaseFileLock

_WRITING, _REMOVING = ".writing", ".removing"
# Errors of file systems, mostly network ones, that cannot sync a folder; there is nothing to wait for then.
_NO_FOLDER_SYNC = {errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP}


def write_atomically(path: Path, content: str | bytes) -> None:
    """Writes a file so that readers, also after a kill or a power cut, see the old content or the new one.

    Args:
        path: The file; its folder must exist.
        content: The whole content of the file; text is encoded as UTF-8.

    Raises:
        OSError: The file cannot be written; an earlier content is then unchanged.
    """
    with atomic_file(path) as file:
        file.write(content.encode() if isinstance(content, str) else content)


@contextmanager
def atomic_file(path: Path, temporary: Path | None = None) -> Iterator[IO[bytes]]:
    """Opens a new file for writing, which takes its name when the block ends without an error.

    Args:
        path: The final path of the file. A file that exists is replaced at the end of the block, and stays
            after an error.
        temporary: The path of the file until then, on the same file system; by default a hidden one in the
            same folder, which `leftovers` lists after a kill.

    Raises:
        OSError: The file cannot be written.
    """
    temporary = being_written(path) if temporary is None else temporary
    with naming(path):
        with open(temporary, "wb") as file:
            yield file
            # Before the rename: some file systems write a name to the disk before the content it stands for.
            sync(file)
        rename(temporary, path)


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Adds the path of a file to errors of the operating system that name no file.

    A full disk raises such an error when something is written to a file that is already open.

    Args:
        path: The path of the file that the block writes.
    """
    try:
        yield
    except OSError as error:
        if error.filename is None:
            error.filename = str(path)
        raise


def being_written(path: Path) -> Path:
    """The hidden path of a file or folder while it is written, which `leftovers` lists after a kill."""
    return path.with_name(f".{path.name}{_WRITING}")


def rename(source: Path, target: Path) -> None:
    """Renames a synced file or folder, and waits until the name is on the disk.

    Args:
        source: The file or folder, on the same file system as `target`.
        target: The new path; a file of this path is replaced atomically, a folder must not exist.
    """
    os.replace(source, target)
    sync_folder(target.parent)


def sync(file: IO) -> None:
    """Waits until a file's content is on the disk; Windows requires the file to be open for writing."""
    file.flush()
    os.fsync(file.fileno())


def sync_folder(path: Path) -> None:
    """Waits until a folder's list of names is on the disk, if the file system can sync folders."""
    if os.name == "nt":  # Windows writes the names without being asked, and cannot open a folder
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in _NO_FOLDER_SYNC:
            raise
    finally:
        os.close(handle)


def make_folder(path: Path) -> None:
    """Creates a folder and its missing parents, and waits until their names are on the disk."""
    missing = [folder for folder in (path, *path.parents) if not folder.exists()]
    path.mkdir(parents=True, exist_ok=True)
    for folder in missing:
        sync_folder(folder.parent)


def sync_tree(path: Path) -> None:
    """Waits until all files and folders below a folder are on the disk."""
    for folder, _, names in os.walk(path):
        for name in names:
            # Windows syncs only what was opened for writing.
            with open(os.path.join(folder, name), "r+b") as file:
                os.fsync(file.fileno())
        sync_folder(Path(folder))


def remove(path: Path) -> None:
    """Removes a folder; a kill during the removal leaves it under a name that `leftovers` lists."""
    # Renamed first: a folder that is half removed must not stand under its name, which says that it is whole.
    doomed = path if path.name.startswith(".") else path.with_name(f".{path.name}{_REMOVING}")
    if doomed != path:
        if doomed.exists():
            shutil.rmtree(doomed)
        os.rename(path, doomed)
    shutil.rmtree(doomed)


def leftovers(folder: Path) -> list[Path]:
    """The files and folders that a kill left half-written or half-removed in a folder."""
    return [p for p in folder.glob(".*") if p.name.endswith((_WRITING, _REMOVING))]


def lock(path: Path, wait: float = 0.0) -> "BaseFileLock":
    """Locks a file against other processes, and against other calls in this one, until it is released.

    The operating system holds the lock, so that it ends with the process, however that ends: a kill leaves
    the file behind, and the next process locks it again. On a network file system the lock holds between
    hosts only if the file system's own locks do.

    Args:
        path: The file, which is created if it does not exist. It stays when the lock is released: were it
            removed, two processes could hold locks of one name.
        wait: The seconds for which another holder is waited for; 0 by default.

    Returns:
        The lock; its `release()` may be called from any thread.

    Raises:
        BlockingIOError: Another process, or another call in this one, holds the lock.
        OSError: The file cannot be written, or its file system has no locks.
    """
    # Imported here, since the import takes 30 ms and most programs lock nothing.
    from filelock import FileLock, Timeout

    # Without filelock's fallback, a file that is itself the lock: it outlives a kill, and would block the
    # next run.
    held = FileLock(path, timeout=wait, thread_local=False, fallback_to_soft=False, preserve_lock_file=True)
    try:
        held.acquire()
    except Timeout:
        raise BlockingIOError(f"{path} is locked by another process") from None
    return held
