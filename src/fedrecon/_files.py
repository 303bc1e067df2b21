"""Files that are whole or not there, folders whose names are on the disk, and locks between processes.

All that must survive a kill or a power cut is written through this module. A file is written under another
name, synced, renamed and its folder synced, in this order: a rename alone may reach the disk before the
content does, and without the last step a power cut may take the name back.
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
# What some file systems answer, those of networks above all, when a folder is to be synced: they know no such
# thing, so that there is nothing to wait for.
_NO_FOLDER_SYNC = {errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP}


def write_atomically(path: Path, content: str | bytes) -> None:
    """Writes a file so that readers, also after a kill or a power cut, see the old content or the new one.

    Args:
        path: The file; its folder must exist.
        content: All that the file shall hold; text is encoded as UTF-8.

    Raises:
        OSError: The file cannot be written; it is then as it was before.
    """
    with atomic_file(path) as file:
        file.write(content.encode() if isinstance(content, str) else content)


@contextmanager
def atomic_file(path: Path, temporary: Path | None = None) -> Iterator[IO[bytes]]:
    """A new file to write to, which takes its name, on the disk, when the block ends without an error.

    Args:
        path: The name that the file takes. What stood there stays until then, and stays after an error.
        temporary: The name until then, on the same file system; by default a hidden one in the same folder
            that `leftovers` lists after a kill.

    Raises:
        OSError: The file cannot be written.
    """
    temporary = being_written(path) if temporary is None else temporary
    with naming(path):
        with open(temporary, "wb") as file:
            yield file
            sync(file)
        rename(temporary, path)


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Gives errors of the operating system that name no file the name of the one that is written to.

    A disk that is full is such an error, where a file is written that was opened before.
    """
    try:
        yield
    except OSError as error:
        if error.filename is None:
            error.filename = str(path)
        raise


def being_written(path: Path) -> Path:
    """The hidden name that a file or folder has while it is written; `leftovers` lists it after a kill."""
    return path.with_name(f".{path.name}{_WRITING}")


def rename(source: Path, target: Path) -> None:
    """Gives a synced file or folder its name, and waits until the name is on the disk.

    Args:
        source: On the same file system.
        target: A file of this name is replaced at once; a folder of this name must not exist.
    """
    os.replace(source, target)
    sync_folder(target.parent)


def sync(file: IO) -> None:
    """Waits until a file's content is on the disk. The file must be open for writing, as Windows wants it."""
    file.flush()
    os.fsync(file.fileno())


def sync_folder(path: Path) -> None:
    """Waits until a folder's list of names is on the disk, where the file system can be asked for that."""
    if os.name == "nt":  # Windows keeps it without being asked, and opens no folder
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
    """Makes a folder, and those above it, where they are missing; waits until their names are on the disk."""
    missing = [folder for folder in (path, *path.parents) if not folder.exists()]
    path.mkdir(parents=True, exist_ok=True)
    for folder in missing:
        sync_folder(folder.parent)


def sync_tree(path: Path) -> None:
    """Waits until all that is below a folder is on the disk."""
    for folder, _, names in os.walk(path):
        for name in names:
            # Windows syncs only what was opened for writing.
            with open(os.path.join(folder, name), "r+b") as file:
                os.fsync(file.fileno())
        sync_folder(Path(folder))


def remove(path: Path) -> None:
    """Removes a folder; a kill on the way leaves it under a name that `leftovers` lists."""
    doomed = path if path.name.startswith(".") else path.with_name(f".{path.name}{_REMOVING}")
    if doomed != path:
        if doomed.exists():
            shutil.rmtree(doomed)
        os.rename(path, doomed)
    shutil.rmtree(doomed)


def leftovers(folder: Path) -> list[Path]:
    """The files and folders that a kill left half-written or half-removed in a folder."""
    return [p for p in folder.glob(".*") if p.name.endswith((_WRITING, _REMOVING))]


def lock(path: Path) -> "BaseFileLock":
    """Locks a file that no other process, nor another call of this one, can lock until it is released.

    The operating system holds the lock, so that it ends with the process, however that ends: a kill leaves
    the file behind, and the next process locks it again. On a network file system the lock holds between
    hosts only where the file system's own locks do.

    Args:
        path: The file, made where it does not exist. It stays when the lock is released: were it removed, two
            processes could hold locks of one name.

    Returns:
        The lock; its `release()` frees it, from any thread.

    Raises:
        BlockingIOError: It is locked already.
        OSError: The file cannot be written, or its file system has no locks.
    """
    # Imported here, since it takes 30 ms and most programs lock nothing.
    from filelock import FileLock, Timeout

    # Without the fallback: a lock that is merely a file outlives a kill, and would block the next run.
    held = FileLock(path, timeout=0, thread_local=False, fallback_to_soft=False, preserve_lock_file=True)
    try:
        held.acquire()
    except Timeout:
        raise BlockingIOError(f"{path} is locked by another process") from None
    return held
