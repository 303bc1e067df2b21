"""Clients from and to Arrow: the client file, Parquet, and data frames."""

import io
import json
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fedrecon._files import atomic_file
from fedrecon.core._array_like import FilePath
from fedrecon.data import _arrow_bridge as bridge
from fedrecon.data._arrow_bridge import ArrowColumn
from fedrecon.data._checksums import (
    FRAME,
    UNSEALED,
    CheckedColumns,
    Column,
    check_frame,
    checksum_of_clients,
    chunk_checksums,
    packed,
    seal,
    unpacked,
)
from fedrecon.data._field_stats import FieldStats
from fedrecon.data._from_arrays import offsets_of, vocabulary
from fedrecon.data._scratch import ReleasingFile, scratch
from fedrecon.data._table_ids import TableIds, table_ids, table_keys
from fedrecon.data._unpacking import UNPACKED_GIB, check_arrow, check_unpacked, limit_of, parquet_size
from fedrecon.errors import DataError, UncheckedWarning

# The arguments of `Clients.from_columns`: ids, offsets, columns, vocabularies, keys.
ClientColumns = tuple[Any, Any, dict[str, np.ndarray], dict[str, np.ndarray], Any]

_FORMAT = "fedrecon-clients-1"
_MAGIC = b"ARROW1"


def from_rows(frame: object, client: str, numbered: Sequence[str] = ()) -> ClientColumns:
    """See `Clients.from_table`; `numbered` is what it calls `vocabularies`."""
    import pyarrow as pa

    is_index_wanted = _check_index(frame, (client, *numbered))
    try:
        if isinstance(frame, pa.Table):
            table = frame
        elif is_index_wanted:  # also where it is a range, which Arrow would leave out
            table = pa.Table.from_pandas(frame, preserve_index=True)
        else:
            table = pa.table(frame)
    except (pa.ArrowException, TypeError, ValueError) as error:
        got = f"{type(frame).__name__}: {', '.join(map(str, error.args))}"
        rule = "; a column must hold values of one type" if hasattr(frame, "columns") else ""
        raise DataError(f"a table must be of pandas, Polars or Arrow, got {got}{rule}") from error
    _require(table.column_names, client)
    table = _without_row_numbers(table, client)
    _check_numbered(table.column_names, client, numbered)
    if _list_columns(table, client):
        return _from_lists(table, client, "", numbered)
    table = table.cast(pa.schema([f.with_type(bridge.without_views(f.type)) for f in table.schema]))
    for name in table.column_names:
        if len(missing := bridge.missing_rows(table[name])):
            raise DataError(
                f"column {name!r} must have a value in every row, {len(missing):,} are missing, the first at "
                f"position {missing[0]}"
            )
    owners = bridge.decoded(table[client])  # a category that no row has is no client
    _check_owners(client, owners)
    codes, names = bridge.encoded(owners)
    ids, rank = _ids(client, names)  # by id, so that the order of the rows decides nothing
    place = np.empty_like(rank)
    place[rank] = np.arange(len(rank))
    codes = place[codes]
    order = np.argsort(codes, kind="stable")
    counts = np.bincount(codes, minlength=len(ids))
    columns, vocabularies = {}, {}
    for name in table.column_names:
        if name == client:
            continue
        values = table[name]
        if pa.types.is_dictionary(values.type) or bridge.is_text(values.type) or name in numbered:
            _check_ids(name, values)
            columns[name], words = bridge.encoded(values)
            vocabularies[name] = _words(name, words)
        else:
            columns[name] = _values(name, values)
        columns[name] = columns[name][order]
    ids = ids[rank]
    return ids, offsets_of(counts), columns, vocabularies, table_keys(ids)


def from_parquet(
    path: FilePath, client: str, numbered: Sequence[str] = (), unpacked_gib: float | int = UNPACKED_GIB
) -> ClientColumns:
    """See `Clients.from_parquet`; `numbered` is what it calls `vocabularies`."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    if not Path(path).exists():
        raise DataError(f"{path}: there is no such file")
    try:
        parts, size = [path] if Path(path).is_file() else pq.ParquetDataset(path).files, 0
        for part in parts:  # before the table is read, for which Arrow's own message is of several lines
            metadata = pq.read_metadata(part)
            names = metadata.schema.to_arrow_schema().names
            if part is path:  # in a folder the client may be a column that only the names of folders hold
                _require(names, client, path)
            size += parquet_size(metadata, names)
        check_unpacked(str(path), size, limit_of(unpacked_gib))
        table = pq.read_table(path)
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path} cannot be read as Parquet: {error}") from error
    _require(table.column_names, client, path)
    table = _without_row_numbers(table, client)
    if not _list_columns(table, client):
        try:
            return from_rows(table, client, numbered)
        except DataError as error:
            raise DataError(f"{path}: {error}") from None
    _check_numbered(table.column_names, client, numbered)
    return _from_lists(table, client, f"{path}: ", numbered)


def _list_columns(table: Any, client: str) -> list[str]:
    """The columns of lists that may differ in length: where there are such, a row is a client."""
    return [n for n in table.column_names if n != client and bridge.is_list(table.schema.field(n).type)]


def _from_lists(table: Any, client: str, where: str, numbered: Sequence[str]) -> ClientColumns:
    """The clients of a table with a row for each, whose other columns are lists.

    Args:
        table: An Arrow table.
        client: The name of the column that holds the client's name.
        where: The beginning of messages.
        numbered: Names of columns of whole numbers that are mapped to dense ids.

    Raises:
        DataError: A column is no list, lacks values, or its lists differ in length from the others.
    """
    import pyarrow as pa

    if missing := len(bridge.missing_rows(table[client])):
        raise DataError(f"{where}column {client!r} must have a value in every row, {missing} are missing")
    ids = _ids(client, bridge.one_chunk(bridge.decoded(table[client]))).ids
    lists = _list_columns(table, client)
    columns, vocabularies, offsets = {}, {}, None
    for name in table.column_names:
        if name == client:
            continue
        if name not in lists:
            raise DataError(f"{where}where a row is a client, every column must be a list, {name!r} is not")
        if len(bridge.missing_rows(table[name])):
            raise DataError(f"{where}column {name!r} must have a value in every list, some are missing")
        values, ends = bridge.from_lists(table[name])
        if offsets is not None and not np.array_equal(ends, offsets):
            raise DataError(f"{where}the lists of a client must be of one length, {name!r} differs")
        offsets = ends
        if pa.types.is_dictionary(values.type) or bridge.is_text(values.type) or name in numbered:
            _check_ids(name, values)
            columns[name], words = bridge.encoded(bridge.decoded(values))
            vocabularies[name] = _words(name, words)
        else:
            columns[name] = _values(name, values, in_lists=True)
    return ids, offsets, columns, vocabularies, table_keys(ids)


def write_clients(path: FilePath, *parts: Any) -> None:
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

    offsets = offsets_of(num_examples)
    arrays = {
        "client": bridge.to_arrow(ids),
        "key": bridge.to_arrow(keys),
    }
    for name, column in columns.items():
        arrays[name] = bridge.to_lists(column, offsets)
    release = ReleasingFile(io.BytesIO(), columns.values()).release
    kept = {name: {"values": v.tolist(), "strings": v.dtype == object} for name, v in vocabularies.items()}
    metadata = {
        FRAME: UNSEALED,  # the first, so that no word of a vocabulary is taken for it
        "format": _FORMAT,
        "vocabularies": json.dumps(kept),
        "facts": json.dumps(field_stats),
        "clients": str(checksum_of_clients(ids, keys, offsets)),
        "columns": packed({name: chunk_checksums(column, release) for name, column in columns.items()}),
    }
    table = pa.table(arrays).replace_schema_metadata(metadata)
    temporary = folder / "clients"  # not by `tempfile`, whose files are for their owner alone
    with atomic_file(path, temporary) as file:
        mapped = ReleasingFile(file, columns.values())
        with pa.ipc.new_file(pa.PythonFile(mapped, mode="w"), table.schema) as writer:
            writer.write_table(table, max_chunksize=len(ids) or None)
        file.flush()
        for at, content in seal(temporary):
            file.seek(at)
            file.write(content)


def is_client_file(path: FilePath) -> bool:
    """Whether a file looks like one that `write_clients` made, or a folder holds such files."""
    if Path(path).is_dir():
        return any(is_client_file(file) for file in Path(path).glob("*.arrow") if file.is_file())
    try:
        with open(path, "rb") as file:
            return file.read(len(_MAGIC)) == _MAGIC
    except OSError:
        return False


def open_clients(
    path: FilePath,
    repair: Callable[[], Mapping[str, np.ndarray]] | None = None,
    *,
    warn: bool = True,
    limit: int | None = None,
) -> tuple[Any, ...]:
    """See `Clients.open`.

    Args:
        path: The file.
        repair: Makes the file anew where a column turns out to be damaged, and returns its columns.
        warn: Whether a file without checksums is opened with a warning; else it is refused.
        limit: Bytes that a compressed file may unpack to; None, the default, refuses compressed files.
    """
    import pyarrow as pa

    if not Path(path).is_file():
        raise DataError(f"{path}: there is no such client file")
    try:
        is_checked = bool(check_frame(Path(path)))
        reader = pa.ipc.open_file(pa.memory_map(str(path)))
        check_arrow(path, limit)
        metadata = {k.decode(): v.decode() for k, v in (reader.schema.metadata or {}).items()}
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path} is no client file, or it is cut short: {error}") from error
    if metadata.get("format") != _FORMAT:
        raise DataError(f"{path} is no client file of this version ({_FORMAT})")
    if not (is_checked or warn):
        raise DataError(f"{path}: has no checksums")
    if not is_checked:
        text = f"{path}: not checked: this client file of an earlier version has no checksums"
        warnings.warn(text, UncheckedWarning, stacklevel=3)
    return _opened(path, reader, metadata, is_checked, repair)


def _opened(
    path: FilePath,
    reader: Any,
    metadata: Mapping[str, str],
    is_checked: bool,
    repair: Callable[[], Mapping[str, np.ndarray]] | None,
) -> tuple[Any, ...]:
    import pyarrow as pa

    damaged = (
        f"{path}: is damaged: its clients are not what was written; make the file anew, or copy it again"
    )
    try:
        table = reader.read_all()
        if any(
            pa.types.is_dictionary(kind) for kind in table.schema.types
        ):  # which would have to be unpacked
            raise pa.ArrowInvalid("its columns must not have dictionaries")
        table["client"].validate(full=True)  # places in memory, which texts are read at
        table.validate()
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path} is no client file, or it is cut short: {error}") from error
    ids, keys = bridge.to_numpy(table["client"]), bridge.to_numpy(table["key"])
    mapped: dict[str, np.ndarray] = {}
    offsets = np.zeros(len(ids) + 1, np.int64)
    for name in table.column_names[2:]:
        values, ends = bridge.from_lists(table[name])
        if mapped and not np.array_equal(ends, offsets):
            raise DataError(damaged)
        mapped[name], offsets = bridge.to_numpy(values), ends
    stats = {name: FieldStats(*values) for name, values in json.loads(metadata.get("facts", "{}")).items()}
    columns: Mapping[str, Column] = mapped
    if is_checked:
        if metadata["clients"] != str(checksum_of_clients(ids, keys, offsets)):
            raise DataError(damaged)
        columns = CheckedColumns(path, mapped, unpacked(metadata["columns"]), repair).columns()
    else:
        stats = {}  # read from the columns where they are wanted: nothing says that these are still theirs
    vocabularies = {
        name: np.asarray(v["values"], object if v["strings"] else np.int64)
        for name, v in json.loads(metadata["vocabularies"]).items()
    }
    return ids, keys, offsets[:-1], np.diff(offsets), columns, vocabularies, stats


def _check_numbered(names: list[str], client: str, numbered: Sequence[str]) -> None:
    """Refuses names of columns whose ids are to be mapped, where there are no such fields."""
    if isinstance(numbered, str):
        raise DataError(f"vocabularies must be a list of columns, such as [{numbered!r}], got {numbered!r}")
    fields = [name for name in names if name != client]
    for name in numbered:
        if name not in fields:
            raise DataError(f"vocabularies must name columns of {fields}, got {name!r}")


def _check_ids(name: str, values: ArrowColumn) -> None:
    """Refuses a column whose values cannot be ids."""
    import pyarrow as pa

    kind = bridge.value_type(values.type)
    if not (pa.types.is_integer(kind) or bridge.is_text(kind)):
        raise DataError(f"column {name!r} must hold whole numbers or strings to be mapped, got {kind}")


def _values(name: str, values: ArrowColumn, *, in_lists: bool = False) -> np.ndarray:
    """A column of numbers, or of lists of a fixed length, as an array; without a copy where Arrow allows."""
    import pyarrow as pa

    kind = values.type
    while pa.types.is_fixed_size_list(kind):
        kind = kind.value_type
    if not (bridge.is_number(kind) or pa.types.is_boolean(kind)):
        raise DataError(f"column {name!r} must hold numbers or strings, got {kind}")
    numbers = bridge.to_numpy(values)
    # Polars and Arrow keep NaN apart from null; pandas, and most files, do not.
    if numbers.dtype.kind == "f" and numbers.size:
        missing = np.flatnonzero(np.isnan(numbers).reshape(len(numbers), -1).any(axis=1))
        if len(missing):
            raise DataError(
                f"column {name!r} must have a value in every row, {len(missing):,} are missing (NaN), the "
                f"first at position {missing[0]}{' of all lists together' * in_lists}"
            )
    return numbers


def _ids(name: str, words: ArrowColumn) -> TableIds:
    """The ids that the words of a column stand for, which names the clients."""
    _check_owners(name, words)
    try:
        return table_ids(words)
    except OverflowError as error:
        raise DataError(f"column {name!r} {error}") from None


def _check_owners(name: str, owners: ArrowColumn) -> None:
    """Refuses a column that cannot name clients."""
    import pyarrow as pa

    if not (pa.types.is_integer(owners.type) or bridge.is_text(owners.type)):
        raise DataError(
            f"column {name!r} must hold integers or strings, as it names the clients; got {owners.type}"
        )


def _words(name: str, words: ArrowColumn) -> np.ndarray:
    """The original ids of a field whose column is encoded, in the order in which they are numbered."""
    import pyarrow as pa

    if not (pa.types.is_integer(words.type) or bridge.is_text(words.type)):
        return vocabulary(name, words.to_pylist())  # which says what is wrong with them
    try:
        return table_ids(words).ids
    except OverflowError as error:
        raise DataError(f"the vocabulary of {name!r} {error}") from None


def _without_row_numbers(table: Any, client: str) -> Any:
    """The table without the row numbers of pandas, to which Arrow gives such names, in Parquet as well."""
    names = [n for n in table.column_names if re.fullmatch(r"__index_level_\d+__", n) and n != client]
    return table.drop_columns(names) if names else table


def _check_index(frame: object, wanted: Sequence[str]) -> bool:
    """Refuses a pandas index that has a name and was not asked for, and returns whether one was.

    It may be data or the numbers of rows. Arrow takes it for a column, but only where it is no range, so that
    a filter would add a field.
    """
    names = [name for name in getattr(getattr(frame, "index", None), "names", ()) if name is not None]
    for name in names:
        if name not in wanted:
            raise DataError(
                f"a table's index must have no name, got {name!r}: reset_index() makes it a column and so a "
                "field, reset_index(drop=True) leaves it out"
            )
    return bool(names)


def _require(names: list[str], client: str, path: FilePath | None = None) -> None:
    where = f"{path}: " if path is not None else ""
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise DataError(
            f"{where}columns must have different names, {names.count(twice)} are called {twice!r}"
        )
    if client not in names:
        raise DataError(f"{where}column {client!r}, which names the client, is missing; there are {names}")
