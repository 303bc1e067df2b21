"""Clients converted once from a source, and kept in a client file that serves until the source changes."""

import hashlib
import math
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import platformdirs
from numpy.typing import DTypeLike

from fedrecon.data._client_file.file import open_clients
from fedrecon.data._clients import Clients
from fedrecon.data._unpacking import read_chunks
from fedrecon.errors import DataError


def cache_folder() -> Path:
    """`$XDG_CACHE_HOME/fedrecon`, or the platform's own place for what can be made again."""
    return platformdirs.user_cache_path("fedrecon")


_IN_MEMORY = 2**28  # bytes of an array, up to which it is there


def disk_backed_array(shape: tuple[int, ...], dtype: DTypeLike) -> np.ndarray:
    """An array to be filled: where it is large, mapped from a file in the cache folder that has no name.

    The file goes with the process. What does not fit in memory may then lie on the disk.

    Raises:
        DataError: The folder cannot be written.
    """
    if np.dtype(dtype).itemsize * math.prod(shape) <= _IN_MEMORY:
        return np.empty(shape, dtype)
    folder = cache_folder()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:
            return np.memmap(file, np.dtype(dtype), "w+", shape=shape)
    except OSError as error:
        raise _unwritable(folder, error) from error


@contextmanager
def unpack_into_file(content: Any, where: str, limit: int) -> Iterator[Path]:
    """A file in the cache folder with the bytes of a stream, removed when it is not needed any more.

    Args:
        content: The stream, which may unpack what it reads.
        where: The name of the source in messages.
        limit: The largest number of bytes.

    Raises:
        DataError: There are more, or the folder cannot be written.
    """
    folder = cache_folder()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=folder)
    except OSError as error:
        raise _unwritable(folder, error) from error
    try:
        with open(handle, "wb") as file:
            for chunk in read_chunks(content, where, limit):
                try:
                    file.write(chunk)
                except OSError as error:
                    raise _unwritable(folder, error) from error
        yield Path(name)
    finally:
        Path(name).unlink(missing_ok=True)


def load_or_convert(
    convert: Callable[[], Clients],
    *,
    kind: str,
    facts: object,
    fingerprint: Callable[[], str],
    where: str,
    folder: str | os.PathLike[str] | None = None,
) -> Clients:
    """The clients that `convert` makes, mapped from a client file that is made when it is needed.

    The file is made whole or not at all, and anew when the fingerprint or the facts change; the one made
    from the former source is then removed. It is also made anew where it is damaged, even if that shows only
    when its examples are used.

    Args:
        convert: The function that reads the source and returns its clients.
        kind: The beginning of the names of the client files.
        facts: All that the conversion depends on beside the source's content: where the source is, the
            settings, the version of the conversion. Told apart by how it prints.
        fingerprint: A digest of the source, which changes whenever the source does.
        where: The name of the source in messages.
        folder: The folder of the client files; by default `cache_folder()`.

    Raises:
        DataError: The source changed while it was read, or the folder cannot be written.
    """
    mark = fingerprint()
    folder = cache_folder() if folder is None else Path(folder)
    digest = hashlib.sha256(repr(facts).encode(errors="backslashreplace")).hexdigest()
    prefix = f"{kind}-{digest[:16]}"
    target = folder / f"{prefix}-{mark}.arrow"

    def make() -> None:
        _write(convert, target, prefix, fingerprint, where)

    def repaired() -> Mapping[str, np.ndarray]:
        make()
        remade = Clients(*open_clients(target, warn=False))
        return {name: remade.column(name) for name in remade.fields}

    try:
        if target.exists():
            return Clients(*open_clients(target, repaired, warn=False))
    except (DataError, OSError):
        pass  # damaged, of an earlier version, or removed just now: made anew
    make()
    return Clients(*open_clients(target, repaired, warn=False))


def _write(
    convert: Callable[[], Clients], target: Path, prefix: str, fingerprint: Callable[[], str], where: str
) -> None:
    """Makes a client file from its source, and removes the one that was made from the former source."""
    clients = convert()
    folder = target.parent
    if not target.stem.endswith(fingerprint()):
        raise DataError(f"{where}: must not change while it is read, but did; read it again")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        clients.write(target)
        for former in folder.glob(f"{prefix}-*.arrow"):
            if former != target:
                former.unlink(missing_ok=True)
    except OSError as error:
        raise _unwritable(folder, error) from error


def _unwritable(folder: Path, error: OSError) -> DataError:
    return DataError(
        f"{folder}: the cache folder must be writable: {error.strerror or error}; another one can be set "
        "in the environment as XDG_CACHE_HOME"
    )
