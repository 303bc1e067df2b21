"""An append-only file of records of one size, so that any earlier state is its first records."""

import os
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int

from fedrecon._files import being_written, rename, sync, sync_folder

_CHUNK = 2**24  # bytes that are read at a time where a whole file is read


class Log:
    """The first `count` records of a file.

    Records behind them, which a kill or `cut` leaves, stay in the file until the next records are added, so
    that reading never changes it.

    Attributes:
        path: The file; made when the first records are added.
        dtype: The structured NumPy type of a record.
        count: The number of records in the log; 0 by default.
    """

    def __init__(self, path: Path, dtype: np.dtype, count: int = 0):
        self.path, self.dtype, self.count = path, dtype, count
        self._known = (0, 0)  # a number of records, and the CRC-32 of that many

    def append(self, records: np.ndarray) -> None:
        """Adds records, `[record]` of the log's type."""
        with open(self.path, "r+b" if self.path.exists() else "w+b") as file:
            file.truncate(self.count * self.dtype.itemsize)
            file.seek(0, os.SEEK_END)
            file.write(_bytes(np.ascontiguousarray(records, self.dtype)))
        self.count += len(records)

    def read(self, numbers: Int[np.ndarray, "record"]) -> Any:
        """The records with the given numbers, in the order of the numbers."""
        records = np.empty(len(numbers), self.dtype)
        if not len(numbers):
            return records
        # Not mapped: a system may map megabytes around every record into the process's memory.
        with open(self.path, "rb", buffering=0) as file:
            for number, place in zip(numbers.tolist(), _bytes(records), strict=True):
                file.seek(number * self.dtype.itemsize)
                file.readinto(place)
        return records

    def column(self, field: str) -> Any:
        """A field of all records, `[record, ...]`."""
        values = np.empty((self.count, *self.dtype[field].shape), self.dtype[field].base)
        step = max(_CHUNK // self.dtype.itemsize, 1)
        part = np.empty(min(step, self.count), self.dtype)
        with open(self.path if self.count else os.devnull, "rb") as file:
            for start in range(0, self.count, step):
                some = part[: self.count - start]
                file.readinto(_bytes(some))
                values[start : start + len(some)] = some[field]
        return values

    def cut(self, count: int) -> None:
        """Goes back to the first `count` records."""
        self.count = count
        if count < self._known[0]:
            self._known = (0, 0)

    def checksum(self) -> int:
        """The CRC-32 of the records; only those added since the last call are read."""
        done, value = self._known
        size = self.dtype.itemsize
        if done < self.count:
            with open(self.path, "rb") as file:
                file.seek(done * size)
                left = (self.count - done) * size
                while left:
                    data = file.read(min(left, _CHUNK))
                    if not data:
                        raise OSError(f"{self.path} has fewer than {self.count:,} records of {size:,} bytes")
                    value, left = zlib.crc32(data, value), left - len(data)
        self._known = self.count, value
        return value

    def copied(self, path: Path, numbers: Int[np.ndarray, "record"]) -> "Log":
        """Copies some of the records to a new log, which is on the disk when this returns.

        Args:
            path: The file of the new log; one that exists is replaced.
            numbers: The numbers of the records to copy, in the order of the new log.
        """
        temporary = Log(being_written(path), self.dtype)
        temporary.path.unlink(missing_ok=True)
        step = max(_CHUNK // self.dtype.itemsize, 1)
        for start in range(0, max(len(numbers), 1), step):
            temporary.append(self.read(numbers[start : start + step]))
        temporary.sync()
        rename(temporary.path, path)
        return Log(path, self.dtype, temporary.count)

    def sync(self) -> None:
        """Waits until the records, and the file's name, are on the disk."""
        if not self.path.exists():
            return
        with open(self.path, "r+b") as file:
            sync(file)
        sync_folder(self.path.parent)


def _bytes(records: np.ndarray) -> Any:
    return records.view(np.uint8).reshape(len(records), records.dtype.itemsize)
