"""Parquet with the columns `client` and `text`: a list of sentences per row, or one sentence per row."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from fedrecon.data._arrow_bridge import is_list, is_text, value_type
from fedrecon.data._unpacking import check_parquet
from fedrecon.datasets.text._encode import Writer
from fedrecon.errors import DataError


def read_parquet(path: Path, limit: int) -> Iterator[Writer]:
    """The clients of a file; where a row is a sentence, a client's rows may lie apart.

    Args:
        path: The file.
        limit: Bytes that its columns may unpack to.

    Raises:
        DataError: A column is missing, of another type or lacks values; or the file cannot be read, or
            unpacks to more.
    """
    try:
        file = pq.ParquetFile(path)
        with file:
            lists = _check(file.schema_arrow, path)
            check_parquet(str(path), file.metadata, ["client", "text"], limit)
            yield from _clients(file, path) if lists else _group_by_client(file, path)
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read as Parquet: {error}") from error


def _check(schema: pa.Schema, path: Path) -> bool:
    for name in ("client", "text"):
        if name not in schema.names:
            raise DataError(f"{path}: must have the columns 'client' and 'text', it has {schema.names}")
    client, text = (value_type(schema.field(name).type) for name in ("client", "text"))
    if not (is_text(client) or pa.types.is_integer(client)):
        raise DataError(f"{path}: column 'client' must hold strings or whole numbers, got {client}")
    lists = is_list(text) or pa.types.is_fixed_size_list(text)
    if not is_text(value_type(text.value_type) if lists else text):
        raise DataError(f"{path}: column 'text' must hold strings or lists of strings, got {text}")
    return lists


def _rows(file: pq.ParquetFile, path: Path) -> Iterator[tuple[int, str, Any]]:
    row = 0
    for batch in file.iter_batches(batch_size=1024, columns=["client", "text"]):
        for client, text in zip(*(batch.column(i).to_pylist() for i in (0, 1)), strict=True):
            row += 1
            for name, value in (("client", client), ("text", text)):
                if value is None or (isinstance(value, list) and None in value):
                    raise DataError(f"{path}, row {row}: column {name!r} must have a value, it is missing")
            yield row, str(client), text


def _clients(file: pq.ParquetFile, path: Path) -> Iterator[Writer]:
    for row, client, text in _rows(file, path):
        yield Writer(client, text, f"{path}, row {row}")


def _group_by_client(file: pq.ParquetFile, path: Path) -> Iterator[Writer]:
    first: dict[str, int] = {}
    sentences: dict[str, list[str]] = {}
    for row, client, text in _rows(file, path):
        first.setdefault(client, row)
        sentences.setdefault(client, []).append(text)
    for client, text in sentences.items():
        yield Writer(client, text, f"{path}, row {first[client]}")
