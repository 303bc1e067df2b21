"""A rating file: on disk or in an archive, packed or not, in any encoding."""

import codecs
import hashlib
import io
import os
import struct
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedrecon.data._unpacking import (
    DAMAGE,
    UNPACKED_GIB,
    check_unpacked,
    detect_packing,
    limit_of,
    read_chunks,
    strip_packing,
    unpacking,
)
from fedrecon.datasets.ratings._validation import shown
from fedrecon.errors import DataError

UTF_8 = "utf-8"
PARQUET_SUFFIXES = (".parquet", ".pq")
JSON_SUFFIXES = (".jsonl", ".ndjson", ".json")
_HEAD = 1 << 16  # bytes that tell a format
_CHECKED = 128 << 20
UNREADABLE = (*DAMAGE, zipfile.BadZipFile, struct.error)


@dataclass(frozen=True)
class Source:
    """A rating file on disk or in an archive, or a folder whose files are read together.

    Attributes:
        path: The file, the archive that holds it, or the folder.
        member: The name of the rating file in the archive; None, the default, where there is no archive.
        limit: The number of bytes that the file may unpack to; 2 GiB by default.
        encoding: The encoding of the file's text; UTF-8 by default.
        parts: The files that are the table together, Parquet in the order of their names; empty, the default,
            where the table is one file.
        is_lenskit: Whether `path` is a folder that LensKit saved; False by default.
    """

    path: Path
    member: str | None = None
    limit: int = limit_of(UNPACKED_GIB)
    encoding: str = UTF_8
    parts: tuple[Path, ...] = ()
    is_lenskit: bool = False

    @property
    def where(self) -> str:
        """What messages call it."""
        return str(self.path) if self.member is None else f"{self.path}/{shown(self.member)}"

    @property
    def is_utf_8(self) -> bool:
        """Whether its text needs no recoding."""
        return self.encoding == UTF_8

    @property
    def name(self) -> str:
        """The name of the rating file, without the suffix of its packing."""
        return strip_packing(self.member or self.path.name)

    def open(self) -> "Stream":
        """The file's bytes, from the start, unpacked and as UTF-8.

        Raises:
            DataError: The file cannot be read, at once or later.
        """
        with translated(self.where):
            raw = self._raw()
            try:
                content = unpacking(raw, self.member or self.path.name)
            except BaseException:
                raw.close()
                raise
            if not self.is_utf_8:
                content = _Recoded(content, self.encoding)
            return Stream(content, raw, self.where)

    def _raw(self) -> Any:
        """The open file as it is stored."""
        if self.member is None:
            return open(self.path, "rb")
        archive = zipfile.ZipFile(self.path)
        with archive:  # its file stays open as long as the member's
            try:
                # The size that the archive states is also the most that `zipfile` reads of it.
                check_unpacked(self.where, archive.getinfo(self.member).file_size, self.limit)
                return archive.open(self.member)
            except (KeyError, RuntimeError) as error:  # encrypted, or packed in an unknown way
                raise DataError(f"{self.where}: cannot be unpacked: {reason(error)}") from error

    def head(self) -> bytes:
        """The first bytes of the file, to know its format by.

        Raises:
            DataError: There is not one, or the file cannot be read.
        """
        with self.open() as stream:
            content = stream.read(_HEAD)
        if not content:
            raise DataError(f"{self.where}: must hold ratings, is empty")
        return content

    def native(self) -> Any:
        """The file as one of Arrow's own; what is packed, or no UTF-8, is unpacked into memory.

        After an error Arrow's threads may still hold what they read from, also when Python ends: a file of
        Python's would then abort the process.

        Raises:
            DataError: The file cannot be read, or unpacks to more than the limit.
        """
        import pyarrow as pa

        with translated(self.where):
            if self.member is None and self.is_utf_8 and not self._is_packed():
                return pa.OSFile(os.fsencode(self.path))
            with self.open() as stream:
                return pa.BufferReader(b"".join(read_chunks(stream, self.where, self.limit)))

    def _is_packed(self) -> bool:
        with open(self.path, "rb") as file:
            return detect_packing(self.path.name, file.read(10)) != ""

    def fingerprint(self) -> str:
        """A digest that changes whenever the file does.

        Path, size, the times of the last change of content and inode (which sees what a restored
        modification time hides), and the checksum of the content's first and last 128 MiB: 10 ms for
        MovieLens 1M. Of a folder all files that are read count.
        """
        facts = repr([self._file_facts(path) for path in self.parts or (self.path,)])
        return hashlib.sha256(facts.encode(errors="backslashreplace")).hexdigest()[:32]

    def _file_facts(self, path: Path) -> tuple[object, ...]:
        with translated(str(path)), open(path, "rb") as stream:
            status = os.fstat(stream.fileno())
            checksum = _checksum(stream, 0)
            if status.st_size > _CHECKED:
                stream.seek(max(_CHECKED, status.st_size - _CHECKED))
                checksum = _checksum(stream, checksum)
            times = (status.st_mtime_ns, status.st_ctime_ns)
        return str(path.resolve()), self.member, status.st_size, times, checksum


class Stream(io.RawIOBase):
    """A file's bytes, whose errors are `DataError`s.

    Args:
        inner: The stream from which the bytes are read.
        raw: The open file, which what unpacks it does not close.
        where: The name of the file in messages.
    """

    def __init__(self, inner: Any, raw: Any, where: str):
        super().__init__()
        self._inner = inner
        self._raw = raw
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
        self._raw.close()
        super().close()


class _Recoded:
    """Text of another encoding as UTF-8; bytes that this encoding has not are a DataError."""

    def __init__(self, inner: Any, encoding: str):
        self._inner = inner
        self._encoding = encoding
        self._decoder = codecs.getincrementaldecoder(encoding)()
        self._rest = b""

    def read(self, size: int) -> bytes:
        """At most `size` bytes of UTF-8, none at the end."""
        is_end = False
        while not (self._rest or is_end):
            chunk = self._inner.read(size)
            is_end = not chunk
            try:
                self._rest = self._decoder.decode(chunk, final=is_end).encode("utf-8", "surrogatepass")
            except UnicodeError as error:
                raise OSError(
                    f"it must be text in {self._encoding}, the setting data.encoding: {error}"
                ) from None
        part, self._rest = self._rest[:size], self._rest[size:]
        return part

    def close(self) -> None:
        """Closes the file."""
        self._inner.close()


@contextmanager
def translated(where: str) -> Iterator[None]:
    """Turns what reading a file or an archive may raise into a `DataError` that names it."""
    try:
        yield
    except UNREADABLE as error:
        raise DataError(f"{where}: cannot be read: {reason(error)}") from error


def _checksum(stream: Any, value: int) -> int:
    for _ in range(_CHECKED >> 20):
        value = zlib.crc32(stream.read(1 << 20), value)
    return value


def reason(error: BaseException) -> str:
    """What went wrong, on one line."""
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return shown(" ".join(text.split()))[:300] or type(error).__name__
