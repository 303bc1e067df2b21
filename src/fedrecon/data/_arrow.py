"""Clients from and to Arrow: the client file, Parquet, and data frames."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from fedrecon._files import atomic_file
from fedrecon.data._field_stats import FieldStats
from fedrecon.data._from_arrays import vocabulary
from fedrecon.data._scratch import scratch
from fedrecon.errors import DataError

ClientColumns = tuple[
    Any, Any, dict[str, np.ndarray], dict[str, np.ndarray]
]  # ids, offsets, columns, vocabularies

_FORMAT = "fedrecon-clients-1"
_MAGIC = b"ARROW1"


def from_rows(frame: Any, client: str) -> ClientColumns:
    """See `Clients.from_table`."""
    import pyarrow as pa

    try:
        table = frame if isinstance(frame, pa.Table) else pa.table(frame)
    except (pa.ArrowException, TypeError, ValueError) as error:
        raise DataError(
            f"a table must be of pandas, Polars or Arrow, got {type(frame).__name__}: {error}"
        ) from error
    _require(table.column_names, client)
    table = table.cast(pa.schema([f.with_type(_without_views(f.type)) for f in table.schema]))
    for name in table.column_names:
        if table[name].null_count:
            raise DataError(
                f"column {name!r} must have a value in every row, {table[name].null_count} are missing"
            )
    owners = table[client].combine_chunks()
    if pa.types.is_dictionary(owners.type):
        owners = owners.dictionary_decode()  # a category that no row has is no client
    encoded = owners.dictionary_encode()
    codes, ids = _np(encoded.indices), _id_array(client, encoded.dictionary)
    rank = np.argsort(ids, kind="stable")  # by id, so that the order of the rows decides nothing
    place = np.empty_like(rank)
    place[rank] = np.arange(len(rank))
    codes = place[codes]
    order = np.argsort(codes, kind="stable")
    counts = np.bincount(codes, minlength=len(ids))
    columns, vocabularies = {}, {}
    for name in table.column_names:
        if name == client:
            continue
        values = table[name].combine_chunks()
        if (
            pa.types.is_string(values.type)
            or pa.types.is_large_string(values.type)
            or pa.types.is_dictionary(values.type)
        ):
            values = values if pa.types.is_dictionary(values.type) else values.dictionary_encode()
            vocabularies[name] = vocabulary(name, values.dictionary.to_pylist())
            values = values.indices
        columns[name] = _values(name, values)[order]
    return ids[rank], np.concatenate([[0], np.cumsum(counts)]), columns, vocabularies


def from_parquet(path: Any, client: str) -> ClientColumns:
    """See `Clients.from_parquet`."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(path)
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path} cannot be read as Parquet: {error}") from error
    _require(table.column_names, client, path)
    lists = [n for n in table.column_names if _is_list(table.schema.field(n).type)]
    if not lists:
        return from_rows(table, client)
    missing = table[client].null_count
    if missing:
        raise DataError(f"{path}: column {client!r} must have a value in every row, {missing} are missing")
    ids = _id_array(client, table[client].combine_chunks())
    columns, offsets = {}, None
    for name in table.column_names:
        if name == client:
            continue
        if name not in lists:
            raise DataError(f"{path}: where a row is a client, every column must be a list, {name!r} is not")
        values = table[name].combine_chunks()
        if values.null_count or values.values.null_count:
            raise DataError(f"{path}: column {name!r} must have a value in every list, some are missing")
        ends = _np(values.offsets).astype(np.int64)
        if offsets is not None and not np.array_equal(np.diff(ends), np.diff(offsets)):
            raise DataError(f"{path}: the lists of a client must be of one length, {name!r} differs")
        offsets = ends - ends[0]
        columns[name] = _values(name, values.flatten())
    return ids, offsets, columns, {}


def write_clients(path: Any, *parts: Any) -> None:
    """See `Clients.write`; the parts are those of `write_within`."""
    with scratch(Path(path)) as folder:
        write_within(folder, Path(path), *parts)


def write_within(
    folder: Path,
    path: Path,
    ids: np.ndarray,
    keys: np.ndarray,
    num_examples: np.ndarray,
    columns: dict[str, np.ndarray],
    vocabularies: dict[str, np.ndarray],
    field_stats: dict[str, FieldStats],
) -> None:
    """Writes a client file that comes into being in a folder of the same file system."""
    import pyarrow as pa

    offsets = np.concatenate([[0], np.cumsum(num_examples)]).astype(np.int64)
    arrays = {
        "client": pa.array(ids.tolist(), pa.string()) if ids.dtype == object else _arrow(ids),
        "key": _arrow(keys),
    }
    for name, column in columns.items():
        values = _arrow(np.ascontiguousarray(column).reshape(-1))
        for length in reversed(column.shape[1:]):
            values = pa.FixedSizeListArray.from_arrays(values, length)
        arrays[name] = pa.LargeListArray.from_arrays(_arrow(offsets), values)
    kept = {name: {"values": v.tolist(), "strings": v.dtype == object} for name, v in vocabularies.items()}
    metadata = {"format": _FORMAT, "vocabularies": json.dumps(kept), "facts": json.dumps(field_stats)}
    table = pa.table(arrays).replace_schema_metadata(metadata)
    temporary = folder / "clients"  # not by `tempfile`, whose files are for their owner alone
    with atomic_file(path, temporary) as file, pa.ipc.new_file(file, table.schema) as writer:
        writer.write_table(table, max_chunksize=len(ids) or None)


def is_client_file(path: Any) -> bool:
    """Whether a file looks like one that `write_clients` made."""
    try:
        with open(path, "rb") as file:
            return file.read(len(_MAGIC)) == _MAGIC
    except OSError:
        return False


def open_clients(path: Any) -> tuple[Any, ...]:
    """See `Clients.open`."""
    import pyarrow as pa

    if not Path(path).is_file():
        raise DataError(f"{path}: there is no such client file")
    try:
        reader = pa.ipc.open_file(pa.memory_map(str(path)))
        metadata = {k.decode(): v.decode() for k, v in (reader.schema.metadata or {}).items()}
        if metadata.get("format") != _FORMAT:
            raise DataError(f"{path} is no client file of this version ({_FORMAT})")
        table = reader.read_all()
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path} is no client file, or it is cut short: {error}") from error
    ids = _mapped(table["client"])
    ids = _np(ids) if pa.types.is_integer(ids.type) else np.asarray(ids.to_pylist(), object)
    columns, offsets = {}, np.zeros(len(ids) + 1, np.int64)
    for name in table.column_names[2:]:
        values = _mapped(table[name])
        offsets = _np(values.offsets)
        columns[name] = _values(name, values.values)
    vocabularies = {
        name: np.asarray(v["values"], object if v["strings"] else np.int64)
        for name, v in json.loads(metadata["vocabularies"]).items()
    }
    keys = _np(_mapped(table["key"]))
    field_stats = {
        name: FieldStats(*values) for name, values in json.loads(metadata.get("facts", "{}")).items()
    }
    return ids, keys, offsets[:-1], np.diff(offsets), columns, vocabularies, field_stats


def _mapped(column: Any) -> Any:
    """A column's only part, where it lies in the file: `combine_chunks` would copy it."""
    return column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()


def _without_views(kind: Any) -> Any:
    """The type as older parts of Arrow know it, also of a dictionary's values."""
    import pyarrow as pa

    if pa.types.is_dictionary(kind):
        return pa.dictionary(kind.index_type, _without_views(kind.value_type), kind.ordered)
    return {pa.string_view(): pa.large_string(), pa.binary_view(): pa.large_binary()}.get(kind, kind)


# Both pass numbers by themselves: `pa.array` and `to_numpy` import pandas first, where there is one.


def _arrow(values: np.ndarray) -> Any:
    """A flat array of numbers as Arrow's, where it lies."""
    import pyarrow as pa

    if values.dtype == bool:  # of which Arrow packs eight into a byte
        return pa.array(values)
    buffer = pa.py_buffer(np.ascontiguousarray(values))
    return pa.Array.from_buffers(pa.from_numpy_dtype(values.dtype), len(values), [None, buffer])


def _np(array: Any) -> np.ndarray:
    """Arrow's numbers as an array, where they lie if they can."""
    import pyarrow as pa

    numbers = pa.types.is_integer(array.type) or pa.types.is_floating(array.type)
    if numbers and not array.null_count:
        return np.from_dlpack(array)
    return array.to_numpy(zero_copy_only=False)


def _values(name: str, values: Any) -> np.ndarray:
    """A column of numbers, or of lists of a fixed length, as an array; without a copy where Arrow allows."""
    import pyarrow as pa

    shape = []
    while pa.types.is_fixed_size_list(values.type):
        shape.append(values.type.list_size)
        values = values.flatten()
    if not (
        pa.types.is_integer(values.type)
        or pa.types.is_floating(values.type)
        or pa.types.is_boolean(values.type)
    ):
        raise DataError(f"column {name!r} must hold numbers or strings, got {values.type}")
    return _np(values).reshape(-1, *shape)


def _id_array(name: str, ids: Any) -> np.ndarray:
    import pyarrow as pa

    if pa.types.is_integer(ids.type):
        return _np(ids).astype(np.int64)
    if pa.types.is_string(ids.type) or pa.types.is_large_string(ids.type):
        return np.asarray(ids.to_pylist(), object)
    raise DataError(f"column {name!r} must hold integers or strings, as it names the clients; got {ids.type}")


def _is_list(kind: Any) -> bool:
    import pyarrow as pa

    return pa.types.is_list(kind) or pa.types.is_large_list(kind)


def _require(names: list[str], client: str, path: Any = None) -> None:
    if client not in names:
        where = f"{path}: " if path is not None else ""
        raise DataError(f"{where}column {client!r}, which names the client, is missing; there are {names}")
