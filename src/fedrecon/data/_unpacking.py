"""Packed files: how they are told and unpacked, and a limit, since they may hold more than the memory."""

import bz2
import gzip
import io
import lzma
import math
import zlib
from collections.abc import Iterator
from typing import Any

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
    """Checks what some columns of a Parquet file unpack to, by the file's own metadata.

    Args:
        where: The name of the file in messages.
        metadata: Of the file, as `pyarrow.parquet.ParquetFile` has it.
        names: The columns that are read.
        limit: Bytes.

    Raises:
        DataError: They unpack to more.
    """
    size = 0
    for i in range(metadata.num_row_groups):
        group = metadata.row_group(i)
        chunks = [group.column(j) for j in range(group.num_columns)]
        size += sum(x.total_uncompressed_size for x in chunks if x.path_in_schema.split(".")[0] in names)
    # A value that repeats takes no space in the file, and at least four bytes in memory.
    check_unpacked(where, max(size, 4 * metadata.num_rows * len(names)), limit)


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
