"""Writes and opens client files, which are Arrow files with a row for each client."""

import io
import json
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from fedrecon._files import atomic_file
from fedrecon.core._array_like import FilePath
from fedrecon.data import _arrow_bridge as bridge
from fedrecon.data._client_file.checksums import (
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
from fedrecon.data._columns import offsets_of
from fedrecon.data._field_stats import FieldStats
from fedrecon.data._scratch import ReleasingFile, scratch
from fedrecon.data._unpacking import check_arrow
from fedrecon.errors import DataError, UncheckedWarning

_FORMAT = "fedrecon-clients-1"
_MAGIC = b"ARROW1"


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
