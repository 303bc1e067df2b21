"""Packed files: how they are told and unpacked, and a limit, since they may hold more than the memory."""

import bz2
import gzip
import io
import lzma
import math
import struct
import zlib
from collections.abc import Iterator
from typing import Any

from fedrecon.core._array_like import FilePath
from fedrecon.errors import DataError, plain

UNPACKED_GIB = 2.0  # by default; MovieLens 32M unpacks to 0.8
PACKED_SUFFIXES = (".gz", ".bz2", ".xz", ".lzma", ".zst")
# What unpacking a damaged file may raise; pyarrow's errors are OSErrors.
DAMAGE = (OSError, EOFError, zlib.error, lzma.LZMAError)
_CHUNK = 1 << 20
# The first bytes of a packed file. Those of bzip2 are longer than its mark, which a text could begin with.
_MARKS = {".gz": b"\x1f\x8b\x08", ".xz": b"\xfd7zXZ\x00", ".zst": b"\x28\xb5\x2f\xfd"}
_BZIP2 = b"1AY&SY"


def limit_of(unpacked_gib: float | int) -> int:
    """The limit in bytes.

    Raises:
        ValueError: It is not a positive number.
    """
    if isinstance(unpacked_gib, bool) or not 0 < unpacked_gib < math.inf:
        raise ValueError(f"unpacked_gib must be positive and finite, got {plain(unpacked_gib)}")
    return int(unpacked_gib * 2**30)


def check_unpacked(where: str, size: int, limit: int) -> None:
    """Raises a DataError where a packed file unpacks to more bytes than the limit."""
    if size > limit:
        raise DataError(
            f"{where}: must unpack to at most {limit / 2**30:,.3g} GiB, it unpacks to {size / 2**30:,.3g} or "
            "more; if that is right, unpacked_gib, the setting data.unpacked_gib, raises the limit"
        )


def check_parquet(where: str, metadata: Any, names: list[str], limit: int) -> None:
    """Raises a DataError where some columns of a Parquet file unpack to more bytes than the limit.

    Args:
        where: The name of the file in messages.
        metadata: Of the file, as `pyarrow.parquet.ParquetFile` has it.
        names: The columns that are read.
        limit: Bytes.
    """
    check_unpacked(where, parquet_size(metadata, names), limit)


def parquet_size(metadata: Any, names: list[str]) -> int:
    """About the bytes that columns of a Parquet file unpack to, by the file's own metadata.

    Texts that repeat count once, as they stand in the file's dictionaries: the metadata tell no more.
    """
    size = 0
    for i in range(metadata.num_row_groups):
        group = metadata.row_group(i)
        chunks = [group.column(j) for j in range(group.num_columns)]
        for chunk in chunks:
            path = chunk.path_in_schema  # with the names of inner parts behind that of the column
            if any(path == name or path.startswith(f"{name}.") for name in names):
                # A value that repeats takes no space in the file, and at least four bytes in memory.
                size += max(chunk.total_uncompressed_size, 4 * chunk.num_values)
    return size


def check_arrow(path: FilePath, limit: int | None) -> None:
    """Checks what the compressed buffers of an Arrow file unpack to, before Arrow unpacks them.

    Each begins with its unpacked size, by which Arrow takes memory. A file without compression is mapped and
    takes none.

    Args:
        path: An Arrow file. What is wrong with it otherwise is left to Arrow.
        limit: Bytes; None where the file must not be compressed.

    Raises:
        DataError: It unpacks to more, or is damaged.
    """
    import pyarrow as pa

    with pa.memory_map(str(path)) as file:
        data = memoryview(file.read_buffer())
    try:
        size = _unpacked_size(data)
    except (struct.error, IndexError, OverflowError):
        raise DataError(f"{path} is no Arrow file, or it is damaged or cut short") from None
    if limit is None and size:
        raise DataError(f"{path}: must not be compressed, since it is read where it lies on the disk")
    if limit is not None:
        check_unpacked(str(path), size, limit)


def _unpacked_size(data: memoryview) -> int:
    """Bytes to which all compressed buffers of an Arrow file unpack together.

    The format: the footer, behind which stand its length in four bytes and six of the magic word, lists
    the places of messages with dictionaries and rows. What a message holds is described by FlatBuffers.
    """
    end = len(data) - 10
    footer = end - _read("<i", data, end)
    footer += _read("<i", data, footer)
    size = 0
    for field in (2, 3):  # of the footer: dictionaries, and rows
        for at in _structs(data, _field(data, footer, field), 24):
            message, length = _read("<q", data, at), _read("<i", data, at + 8)
            body = message + length
            message += 8 if _read("<i", data, message) == -1 else 4  # a mark, which early versions lack
            message += _read("<i", data, message)
            batch = _follow(data, _field(data, message, 2))
            if field == 2:
                batch = _follow(data, _field(data, batch, 1))
            if not batch or not _field(data, batch, 3):  # its compression
                continue
            for buffer in _structs(data, _field(data, batch, 2), 16):
                place, bytes_packed = _read("<q", data, buffer), _read("<q", data, buffer + 8)
                # A buffer that does not become smaller is stored as it is, under the size -1.
                size += max(_read("<q", data, body + place), 0) if bytes_packed else 0
    return size


def _read(form: str, data: memoryview, at: int) -> int:
    if at < 0:  # which would count from the end
        raise IndexError
    number: int = struct.unpack_from(form, data, at)[0]
    return number


def _field(data: memoryview, table: int, number: int) -> int:
    """The place of a field of a table of FlatBuffers; 0 where the table or the field is not there."""
    if not table:
        return 0
    names = table - _read("<i", data, table)
    at = 4 + 2 * number
    offset = _read("<H", data, names + at) if at < _read("<H", data, names) else 0
    return table + offset if offset else 0


def _follow(data: memoryview, at: int) -> int:
    """The place that the offset at a place leads to; 0 for 0."""
    return at + _read("<I", data, at) if at else 0


def _structs(data: memoryview, at: int, size: int) -> range:
    """The places of the structs of a vector, which the offset at a place leads to."""
    vector = _follow(data, at)
    count = _read("<I", data, vector) if vector else 0
    return range(vector + 4, vector + 4 + size * count, size)


def strip_packing(name: str) -> str:
    """The name of a file without the suffix of its packing: `"ratings.csv"` for `"ratings.csv.gz"`."""
    lower = name.lower()
    suffix = next((suffix for suffix in PACKED_SUFFIXES if lower.endswith(suffix)), "")
    return name[: len(name) - len(suffix)]


def detect_packing(name: str, head: bytes) -> str:
    """How a file is packed: one of `PACKED_SUFFIXES`, or "" where it is not.

    Args:
        name: The name of the file, by which alone the old form of LZMA can be told.
        head: The first ten bytes of the file, or more.
    """
    for suffix, mark in _MARKS.items():
        if head.startswith(mark):
            return suffix
    if head.startswith(b"BZh") and head[4:10] == _BZIP2:
        return ".bz2"
    return ".lzma" if name.lower().endswith(".lzma") else ""


def unpacking(file: Any, name: str) -> Any:
    """The content of an open binary file, unpacked as it is read; the file itself where it is not packed.

    Args:
        file: A file with `read` and `peek`, which is closed with what is returned.
        name: The name of the file.

    Raises:
        OSError: The file cannot be read, at once or later; or another of `DAMAGE`.
    """
    packing = detect_packing(name, file.peek(10))
    if packing == ".gz":
        return gzip.GzipFile(fileobj=file)
    if packing == ".bz2":
        return bz2.BZ2File(file)
    if packing in (".xz", ".lzma"):
        return lzma.LZMAFile(file)
    if packing == ".zst":
        import pyarrow as pa

        # Arrow's own file has no lines.
        return io.BufferedReader(pa.CompressedInputStream(pa.PythonFile(file, mode="r"), "zstd"))
    return file


def read_chunks(stream: Any, where: str, limit: int) -> Iterator[bytes]:
    """The bytes of a stream, in pieces.

    Args:
        stream: The stream, which may unpack what it reads.
        where: The name of the file in messages.
        limit: The largest number of bytes.

    Raises:
        DataError: There are more.
    """
    size = 0
    while chunk := stream.read(_CHUNK):
        size += len(chunk)
        check_unpacked(where, size, limit)
        yield chunk
