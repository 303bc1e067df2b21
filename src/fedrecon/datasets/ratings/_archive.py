"""Where the ratings are: a file, or the one rating file of a folder or of a zip archive."""

import hashlib
import io
import lzma
import os
import struct
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from fedrecon.data._unpacking import UNPACKED_GIB, check_unpacked, limit_of
from fedrecon.datasets.ratings._validation import shown
from fedrecon.errors import DataError

_NAMES = ("ratings.dat", "ratings.csv", "ratings.tsv", "ratings.parquet", "u.data")
_SUFFIXES = (".csv", ".tsv", ".dat", ".data", ".parquet", ".pq")
_CHECKED = 128 << 20
_DAMAGE = (OSError, EOFError, zipfile.BadZipFile, struct.error, zlib.error, lzma.LZMAError)


@dataclass(frozen=True)
class Source:
    """A rating file on disk or in an archive.

    Attributes:
        path: The file, or the archive that holds it.
        member: The name of the rating file in the archive; None where `path` is the file itself.
        limit: Bytes that it may unpack to.
    """

    path: Path
    member: str | None = None
    limit: int = limit_of(UNPACKED_GIB)

    @property
    def where(self) -> str:
        """What messages call it."""
        return str(self.path) if self.member is None else f"{self.path}/{shown(self.member)}"

    def open(self) -> "Stream":
        """The file's bytes, from the start.

        Raises:
            DataError: The file cannot be read, at once or later.
        """
        with translated(self.where):
            if self.member is None:
                return Stream(open(self.path, "rb"), self.where)
            archive = zipfile.ZipFile(self.path)
            with archive:  # its file stays open as long as the member's
                try:
                    # The size that the archive states is also the most that `zipfile` reads of it.
                    check_unpacked(self.where, archive.getinfo(self.member).file_size, self.limit)
                    return Stream(archive.open(self.member), self.where)
                except (KeyError, RuntimeError) as error:  # encrypted, or packed in an unknown way
                    raise DataError(f"{self.where}: cannot be unpacked: {reason(error)}") from error

    def native(self) -> Any:
        """The file as one of Arrow's own, a member of an archive unpacked into memory.

        After an error Arrow's threads may still hold what they read from, also when Python ends: a file of
        Python's would then abort the process.

        Raises:
            DataError: The file cannot be read.
        """
        import pyarrow as pa

        with translated(self.where):
            if self.member is None:
                return pa.OSFile(os.fsencode(self.path))
            with self.open() as stream:
                return pa.BufferReader(stream.read())

    def fingerprint(self) -> str:
        """A digest that changes whenever the file does.

        Path, size, the times of the last change of content and inode (which sees what a restored
        modification time hides), and the checksum of the content's first and last 128 MiB: 10 ms for
        MovieLens 1M.
        """
        with translated(str(self.path)), open(self.path, "rb") as stream:
            status = os.fstat(stream.fileno())
            checksum = _checksum(stream, 0)
            if status.st_size > _CHECKED:
                stream.seek(max(_CHECKED, status.st_size - _CHECKED))
                checksum = _checksum(stream, checksum)
            times = (status.st_mtime_ns, status.st_ctime_ns)
        facts = repr((str(self.path.resolve()), self.member, status.st_size, times, checksum))
        return hashlib.sha256(facts.encode(errors="backslashreplace")).hexdigest()[:32]


class Stream(io.RawIOBase):
    """A file's bytes, whose errors are `DataError`s."""

    def __init__(self, inner: Any, where: str):
        super().__init__()
        self._inner = inner
        self._where = where

    def readable(self) -> bool:
        """It is."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Reads into `buffer` and returns how many bytes, 0 at the end."""
        with translated(self._where):
            chunk = self._inner.read(len(buffer))
        buffer[: len(chunk)] = chunk
        return len(chunk)

    def close(self) -> None:
        """Closes the file."""
        self._inner.close()
        super().close()


@contextmanager
def translated(where: str) -> Iterator[None]:
    """Turns what reading a file or an archive may raise into a `DataError` that names it."""
    try:
        yield
    except _DAMAGE as error:
        raise DataError(f"{where}: cannot be read: {reason(error)}") from error


def _checksum(stream: Any, value: int) -> int:
    for _ in range(_CHECKED >> 20):
        value = zlib.crc32(stream.read(1 << 20), value)
    return value


def find(
    path: str | os.PathLike[str], any_table: bool = False, unpacked_gib: float | int = UNPACKED_GIB
) -> Source:
    """The rating file at `path`.

    Args:
        path: A rating file, or a folder or .zip archive with one rating file: `ratings.dat`, `ratings.csv`,
            `ratings.tsv`, `ratings.parquet` or `u.data`, at most one folder deep.
        any_table: Whether the one table of a folder or archive is taken whatever its name.
        unpacked_gib: GiB that the file may unpack to when it is read.

    Raises:
        DataError: There is no such file, more than one, or the archive is damaged.
        ValueError: `unpacked_gib` is not a positive number.
    """
    limit = limit_of(unpacked_gib)
    path = Path(path)
    try:
        if path.is_dir():
            names = [str(found.relative_to(path)) for found in _files(path)]
            return Source(path / _only(str(path), names, any_table), limit=limit)
        path.stat()
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such rating file") from error
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read: {reason(error)}") from error
    if not path.is_file():
        raise DataError(f"{path}: must be a file, a folder or a .zip archive")
    if path.suffix.lower() != ".zip":
        return Source(path, limit=limit)
    try:
        with zipfile.ZipFile(path) as archive:
            members = [name for name in archive.namelist() if name and not name.endswith("/")]
    except (*_DAMAGE, ValueError, NotImplementedError) as error:
        raise DataError(f"{path}: cannot be read as a zip archive: {reason(error)}") from error
    return Source(path, _only(str(path), members, any_table), limit)


def _files(folder: Path) -> Iterator[Path]:
    """The files in `folder` and in its folders, in a fixed order."""
    for entry in sorted(folder.iterdir()):
        if entry.is_dir():
            yield from (inner for inner in sorted(entry.iterdir()) if inner.is_file())
        elif entry.is_file():
            yield entry


def _only(where: str, names: Sequence[str], any_table: bool) -> str:
    """The one rating file among `names`, which are paths relative to `where`."""
    visible = [
        name for name in names if not PurePosixPath(name).name.startswith(".") and "__MACOSX" not in name
    ]
    found = [name for name in visible if PurePosixPath(name).name.lower() in _NAMES]
    if not found and any_table:
        found = [name for name in visible if PurePosixPath(name).suffix.lower() in _SUFFIXES]
    if len(found) == 1:
        return found[0]
    if found:
        raise DataError(
            f"{where}: must hold one rating file, has {_some(found)}; give the path of one of them"
        )
    raise DataError(
        f"{where}: must hold a rating file ({', '.join(_NAMES)}), has {_some(visible) or 'no files'}"
    )


def _some(names: Sequence[str]) -> str:
    return ", ".join(map(shown, names[:8])) + (f" and {len(names) - 8} more" if len(names) > 8 else "")


def reason(error: BaseException) -> str:
    """What went wrong, on one line."""
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return shown(" ".join(text.split()))[:300] or type(error).__name__
