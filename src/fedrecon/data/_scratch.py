"""Hidden folders for files that are being written, removed by whoever comes after a kill."""

import hashlib
import mmap
import os
import shutil
import socket
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np

from fedrecon._files import lock

_LOCK = "lock"
_PIECE = 1 << 24  # bytes that are written from a mapped array before they are let go
_NEW, _LOCKED = ".new", ".unfinished"


@contextmanager
def scratch(path: Path) -> Iterator[Path]:
    """A hidden folder beside a file that is to be written, removed in the end, as are those that kills left.

    Others may write the same file at the same time, each in a folder of its own. A folder is locked before it
    gets the name that is looked for, and a kill frees the lock: so nobody loses a folder in use.
    """
    remove_leftovers(path)
    folder = Path(tempfile.mkdtemp(_NEW, f"{_own(path)}.", path.parent))
    held = None
    try:
        with suppress(OSError):  # on a file system without locks nobody can tell what is a leftover
            if os.name != "nt":  # Windows renames no folder that holds an open file
                held = lock(folder / _LOCK)
        if held is not None:
            folder = folder.rename(folder.with_suffix(_LOCKED))
        yield folder
    finally:
        if held is not None:
            held.release()  # first: a network file system keeps what is open
        shutil.rmtree(folder, ignore_errors=True)  # another that writes may have begun to, by now


def remove_leftovers(path: Path) -> None:
    """Removes what killed processes of this host left of writing a file."""
    for folder in path.parent.iterdir():
        if folder.suffix != _LOCKED or folder.stem.rpartition(".")[0] != _own(path):
            continue
        with suppress(OSError):  # in use, or gone by now, or another's: none of these is in the way
            lock(folder / _LOCK).release()
            shutil.rmtree(folder)


class ReleasingFile:
    """A file that is written from mapped arrays, whose pages are let go as soon as they are written.

    They count as memory of the process while it has them, though the operating system could have them back.

    Args:
        file: The file, open for writing.
        arrays: What is written; only those that are mapped by NumPy are let go.
    """

    closed = False  # for Arrow, which asks

    def __init__(self, file: Any, arrays: Iterable[np.ndarray]):
        self._file = file
        # NumPy hands out the map under no other name.
        self._maps: list[Any] = [vars(array)["_mmap"] for array in arrays if isinstance(array, np.memmap)]

    def release(self) -> None:
        """Lets the pages go, which are read again where somebody asks for them."""
        for mapped in self._maps:
            if hasattr(mapped, "madvise"):  # not on Windows
                mapped.madvise(mmap.MADV_DONTNEED)

    def write(self, data: Any) -> int:
        """Writes bytes in pieces."""
        view = memoryview(data).cast("B")
        for start in range(0, len(view), _PIECE):
            self._file.write(view[start : start + _PIECE])
            self.release()
        return len(view)

    def tell(self) -> int:
        """The place in the file."""
        return self._file.tell()

    def flush(self) -> None:
        """Hands all to the operating system."""
        self._file.flush()


def _own(path: Path) -> str:
    """How this host's folders for a file begin: some network file systems keep locks to each host."""
    return f".{path.name}.{hashlib.blake2b(socket.gethostname().encode(), digest_size=4).hexdigest()}"
