"""Checksums of a client file: all that is small is checked when it is opened, columns where they are read.

A column is cut into chunks of 64 KiB, each of which has a CRC-32 in the file's metadata. A chunk is checked
once, when some of its examples are first asked for: the bytes are in memory then, and opening a file stays as
fast as mapping it. Names, hashes and lengths of the clients have one checksum together, which is checked when
the file is opened.

The frame of the file, which is all that lies before and behind the numbers (types, metadata and places), has
a checksum of its own, which stands in itself, written as zeros where it is computed. It is checked before
Arrow reads the file, because Arrow ends the process on some frames that are damaged.
"""

import base64
import json
import mmap
import os
import threading
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol, TypeAlias, runtime_checkable

import numpy as np
from jaxtyping import UInt32

from fedrecon.errors import DataError

CHUNK = 1 << 16  # bytes
_CHUNKS_KEPT = 256  # of a column that is mapped, until they are let go
_MARK = b"fedrecon-frame:"
# What a file's metadata hold under `FRAME` until the checksum is known: where the numbers begin and end, and
# the CRC-32 of the rest, in hexadecimal digits.
FRAME, UNSEALED = "frame", _MARK.decode() + "0" * 40


@runtime_checkable
class LazyColumn(Protocol):
    """A column on the disk, which is read like an array `[example, ...]`."""

    shape: tuple[int, ...]
    dtype: np.dtype
    ndim: int

    def __len__(self) -> int: ...

    def __getitem__(self, rows: Any) -> np.ndarray:
        """Some of the examples, by a slice or an array of positions."""

    def take(self, rows: Any, axis: int = 0, mode: Any = "clip") -> np.ndarray:
        """As `numpy.ndarray.take`, of clipped positions `[client, place]` that ascend at each client."""


Column: TypeAlias = np.ndarray | LazyColumn


def chunk_checksums(
    column: np.ndarray, release: Callable[[], None] = lambda: None
) -> UInt32[np.ndarray, "chunk"]:
    """CRC-32 of each chunk of a column `[example, ...]`, the last of which may be shorter.

    Args:
        column: The column.
        release: Is called every now and then, when what was read before is not needed any more.
    """
    data = _bytes(column)
    sums = np.empty(-(-len(data) // CHUNK), np.uint32)
    for number in range(len(sums)):
        sums[number] = zlib.crc32(data[number * CHUNK : (number + 1) * CHUNK])
        if number % _CHUNKS_KEPT == 0:
            release()
    return sums


def packed(sums: Mapping[str, UInt32[np.ndarray, "chunk"]]) -> str:
    """Checksums as text."""
    return json.dumps(
        {name: base64.b64encode(x.astype("<u4").tobytes()).decode() for name, x in sums.items()}
    )


def unpacked(text: str) -> dict[str, UInt32[np.ndarray, "chunk"]]:
    """Inverse of `packed`."""
    return {
        name: np.frombuffer(base64.b64decode(x, validate=True), "<u4").astype(np.uint32)
        for name, x in json.loads(text).items()
    }


def checksum_of_clients(ids: np.ndarray, keys: np.ndarray, offsets: np.ndarray) -> int:
    """CRC-32 of what a client file holds beside the numbers in its columns and its frame.

    Args:
        ids: The clients' names, `[client]`.
        keys: Hashes of the names, `[client]`.
        offsets: Where each client's examples begin, `[client + 1]`.
    """
    if ids.dtype.kind in "OU":
        value = zlib.crc32("\0".join(map(str, ids.tolist())).encode(errors="surrogatepass"))
    else:
        value = zlib.crc32(_bytes(ids))
    return zlib.crc32(_bytes(offsets.astype(np.int64, copy=False)), zlib.crc32(_bytes(keys), value))


def seal(path: Path) -> list[tuple[int, bytes]]:
    """The checksum of a frame that was written with `UNSEALED` in its metadata.

    Args:
        path: A client file in the making.

    Returns:
        Places in the file, and what must be written there.
    """
    with _map_file(path) as data:
        start, end = _frame(data)
        head, tail = data[:start], data[end:]
        value = zlib.crc32(tail, zlib.crc32(head))
        text = f"{start:016x}{end:016x}{value:08x}".encode()
        places = [*_marks(head), *(end + at for at in _marks(tail))]
    return [(at + len(_MARK), text) for at in places]


def check_frame(path: Path) -> str:
    """Checks the frame of a client file before Arrow reads it.

    Returns:
        The checksum, with the place of the numbers, in hexadecimal digits; `""` for a file of an earlier
        version, which has none.

    Raises:
        DataError: The frame is not what was written.
    """
    damaged = DataError(
        f"{path} is no client file, or it is damaged or cut short; make the file anew, or copy it again"
    )
    with _map_file(path) as data:
        texts = [text for text in map(bytes, _seals(data)) if text]
        if not texts:
            return ""
        try:
            start, end, value = (int(texts[0][a:b], 16) for a, b in ((0, 16), (16, 32), (32, 40)))
        except ValueError:
            raise damaged from None
        if not 0 < start <= end <= len(data):
            raise damaged
        head, tail = bytearray(data[:start]), bytearray(data[end:])
    for part in (head, tail):
        for at in _marks(part):
            part[at : at + len(UNSEALED)] = UNSEALED.encode()
    if zlib.crc32(tail, zlib.crc32(head)) != value:
        raise damaged
    return texts[0].decode()


@contextmanager
def _map_file(path: Path) -> Iterator[Any]:
    """A file's bytes; none of a file that is empty, which cannot be mapped."""
    with open(path, "rb") as file:
        if not os.fstat(file.fileno()).st_size:
            yield b""
            return
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            yield data


def _frame(data: Any) -> tuple[int, int]:
    """Where the numbers of an Arrow file of one batch begin and end.

    The format: a magic word of 8 bytes; a message with the schema and one with the batch, each of which is
    marked by four bytes and tells its length in four more; the numbers; 8 bytes that end the messages; the
    footer, its length in four bytes, and six bytes of the magic word.
    """
    end = len(data) - 10 - _number(data, len(data) - 10) - 8
    batch = 16 + _number(data, 12)
    return (end, end) if batch >= end else (batch + 8 + _number(data, batch + 4), end)


def _seals(data: Any) -> Iterator[bytes]:
    """What stands behind the mark in the first message and in the footer; only one of them may be damaged."""
    if len(data) < 26:
        return
    head, tail = _number(data, 12), _number(data, len(data) - 10)
    for start, end in ((0, 16 + head), (len(data) - 10 - tail, len(data))):
        if 0 <= start < end <= len(data) and (at := data.find(_MARK, start, end)) >= 0:
            yield data[at + len(_MARK) : at + len(UNSEALED)]


def _number(data: Any, at: int) -> int:
    return int.from_bytes(data[at : at + 4], "little", signed=True)


def _marks(data: Any) -> Iterator[int]:
    at = data.find(_MARK)
    while at >= 0:
        yield at
        at = data.find(_MARK, at + len(UNSEALED))


class CheckedColumns:
    """The columns of a client file, each chunk of which is checked when it is first read.

    Args:
        path: The file, for messages.
        columns: As they are mapped from the file, `[example, ...]`.
        sums: Of each column's chunks.
        repair: Makes the file anew and returns its columns; None where nobody can.

    Raises:
        DataError: A column has no checksums, or too many or too few.
    """

    def __init__(
        self,
        path: Any,
        columns: Mapping[str, np.ndarray],
        sums: Mapping[str, UInt32[np.ndarray, "chunk"]],
        repair: Callable[[], Mapping[str, np.ndarray]] | None = None,
    ):
        self.path, self._repair = path, repair
        self._columns, self._sums = dict(columns), sums
        self._lock = threading.Lock()
        self._repaired = False
        for name, column in columns.items():
            if name not in sums or len(sums[name]) != -(-column.nbytes // CHUNK):
                raise DataError(f"{path}: is damaged: field {name!r} lacks checksums")

    def columns(self) -> dict[str, "CheckedColumn"]:
        """The columns by their names."""
        return {name: CheckedColumn(self, name, len(self._sums[name])) for name in self._columns}

    def column(self, name: str) -> np.ndarray:
        """A column as it is mapped now, unchecked."""
        return self._columns[name]

    def check(self, name: str, chunk: int) -> None:
        """Checks a chunk of a column; where it is damaged the file is made anew, if it can be.

        Raises:
            DataError: The chunk is not what was written.
        """
        if self._intact(name, chunk):
            return
        with self._lock:  # several threads may read, of which one makes the file anew
            if self._repair is not None and not self._repaired:
                self._columns = self._same_kinds(self._repair())
                self._repaired = True
        if not self._intact(name, chunk):
            raise DataError(
                f"{self.path}: is damaged: some of field {name!r} is not what was written; "
                "make the file anew, or copy it again"
            )

    def _intact(self, name: str, chunk: int) -> bool:
        data = _bytes(self._columns[name])[chunk * CHUNK : (chunk + 1) * CHUNK]
        return zlib.crc32(data) == int(self._sums[name][chunk])

    def _same_kinds(self, columns: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        for name, column in self._columns.items():
            like = columns.get(name)
            if like is None or like.shape != column.shape or like.dtype != column.dtype:
                raise DataError(f"{self.path}: was damaged, and its source holds other data now: start again")
        return dict(columns)


class CheckedColumn:
    """A column of a client file, which is read like an array `[example, ...]`.

    Args:
        file: The columns of the file.
        name: Of the field.
        chunks: How many chunks the column has.
    """

    def __init__(self, file: CheckedColumns, name: str, chunks: int):
        self._file, self._name = file, name
        self._unchecked = np.ones(chunks, bool)
        self._left = chunks
        column = file.column(name)
        self.shape, self.dtype, self.ndim = column.shape, column.dtype, column.ndim
        self._row_bytes = column.nbytes // len(column) if len(column) else 0

    def __len__(self) -> int:
        return int(self.shape[0])

    def __getitem__(self, rows: Any) -> np.ndarray:
        """Some of the examples, by a slice or an array of positions.

        Raises:
            DataError: What is read is not what was written.
        """
        if self._left:
            if isinstance(rows, slice):
                start, stop, _ = rows.indices(len(self))
                self._check(np.array([start]), np.array([max(stop - 1, start)]), stop > start)
            else:
                rows = np.asarray(rows)
                self._check(rows, rows, rows.size > 0)
        values: np.ndarray = self._file.column(self._name)[rows]
        return values

    def take(self, rows: Any, axis: int = 0, mode: Any = "clip") -> np.ndarray:
        """As `numpy.ndarray.take`, of clipped positions `[client, place]` that ascend at each client.

        Raises:
            DataError: What is read is not what was written.
        """
        if self._left and rows.size:
            # The ends alone are looked at, which are far fewer.
            first, last = (np.clip(rows[..., i], 0, len(self) - 1) for i in (0, -1))
            self._check(first, last, True)
        return self._file.column(self._name).take(rows, axis=axis, mode=mode)

    def _check(self, first: np.ndarray, last: np.ndarray, some: bool) -> None:
        """Checks the chunks that lie between the first and the last row of each pair."""
        if not some or not self._row_bytes:
            return
        touched = np.zeros(len(self._unchecked) + 1, np.int64)  # +1 where a pair begins, -1 behind its end
        np.add.at(touched, first.ravel() * self._row_bytes // CHUNK, 1)
        np.add.at(touched, ((last.ravel() + 1) * self._row_bytes - 1) // CHUNK + 1, -1)
        for chunk in np.flatnonzero((np.cumsum(touched)[:-1] > 0) & self._unchecked).tolist():
            self._file.check(self._name, chunk)
            self._unchecked[chunk] = False
        self._left = int(self._unchecked.sum())


def _bytes(array: np.ndarray) -> memoryview:
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8).data
