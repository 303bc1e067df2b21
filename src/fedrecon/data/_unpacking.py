"""A limit on what packed files unpack to: a small file may hold more than the memory does."""

import math
from typing import Any

from fedrecon.errors import DataError, plain

UNPACKED_GIB = 2.0  # by default; MovieLens 32M unpacks to 0.8


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
