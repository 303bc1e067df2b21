"""Writes a Parquet file in parts, so that a kill loses only the parts that are in progress."""

import io
import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from fedrecon._files import atomic_file, make_folder, remove, write_atomically
from fedrecon.data._arrow_bridge import to_numpy
from fedrecon.errors import RunError
from fedrecon.experiment.settings.sections import SettingError, flat
from fedrecon.experiment.storage.run_folder import lock_folder

if TYPE_CHECKING:
    import pyarrow as pa
    from filelock import BaseFileLock

_REQUEST = "request.json"
# The key of the request in the metadata of the finished file.
_KEY = b"fedrecon"


class ResumableParquetWriter:
    """Writes the parts of a file into a hidden folder beside it, and joins them when all are there.

    The request is written before the first part and compared by every later process: parts of another
    request must not get into the file. A lock on the folder keeps two processes from writing the same file.

    Args:
        out: The path of the file. If it already holds the result of the request, no part is missing.
        request: The JSON values that decide the content of the file.
        count: The number of parts into which the file is divided.

    Raises:
        RunError: The file, or the parts that an earlier process left, belong to another request, or another
            process is writing it.
    """

    def __init__(self, out: Path, request: dict[str, Any], count: int):
        self.out, self.request, self.count = out, json.loads(json.dumps(request)), count
        self.folder = out.with_name(f".{out.name}.parts")
        self.format = personalized_format(out)
        self.complete = out.exists()
        self._lock: BaseFileLock | None = None
        if self.complete:
            # A CSV file cannot say of which request it is. After a kill just before the end the folder can.
            about = self.folder / _REQUEST
            saved = _request_of(out) if self.format == "parquet" else _request_beside(about, out)
            self._check(saved, f"{out}: the file that is there")
            if self.folder.exists():
                remove(self.folder)
            return
        try:
            make_folder(self.folder)
        except OSError as error:
            raise RunError(f"{self.folder}: cannot be written: {error.strerror}") from None
        self._lock = lock_folder(self.folder, "output")
        about = self.folder / _REQUEST
        if about.exists() and any(self.folder.glob("[0-9]*.parquet")):
            try:
                self._check(json.loads(about.read_text(encoding="utf-8")), f"{self.folder}: what is there")
            except RunError:
                self.close()
                raise
        else:
            write_atomically(about, json.dumps(self.request, indent=2) + "\n")

    def close(self) -> None:
        """Releases the lock, so that other processes can write the file."""
        if self._lock is not None:
            self._lock.release()

    def __enter__(self) -> "ResumableParquetWriter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def missing(self) -> list[int]:
        """The numbers of the parts that are not on the disk yet."""
        return [] if self.complete else [i for i in range(self.count) if not self._path(i).exists()]

    def make(self, part: Callable[[int], Any], threads: int) -> Iterator[int]:
        """Makes the missing parts, several at a time, and joins all parts into the file.

        Args:
            part: Makes the Arrow table of a part from its number; several threads call it.
            threads: The number of parts that are made at a time.

        Yields:
            The number of each part as soon as it is on the disk.
        """

        def write(number: int) -> int:
            import pyarrow.parquet

            table, buffer = part(number), io.BytesIO()
            pyarrow.parquet.write_table(table, buffer, use_dictionary=_repeating(table.schema))
            write_atomically(self._path(number), buffer.getvalue())
            return number

        with ThreadPoolExecutor(threads) as pool:
            waiting = [pool.submit(write, number) for number in self.missing()]
            try:
                for done in as_completed(waiting):
                    yield done.result()
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise
        if not self.complete:
            self._join()

    def _path(self, number: int) -> Path:
        return self.folder / f"{number:06d}.parquet"

    def _join(self) -> None:
        if self.format == "csv":
            self._join_as_csv()
        else:
            self._join_as_parquet()
        self.complete = True
        self.close()
        remove(self.folder)

    def _join_as_csv(self) -> None:
        import pyarrow.csv

        with atomic_file(self.out, self.folder / "joined.writing") as file:
            for number in range(self.count):
                table = _flat(pyarrow.parquet.ParquetFile(self._path(number)).read())
                options = pyarrow.csv.WriteOptions(include_header=number == 0)
                pyarrow.csv.write_csv(table, file, options)

    def _join_as_parquet(self) -> None:
        import pyarrow.parquet

        schema = pyarrow.parquet.read_schema(self._path(0))
        schema = schema.with_metadata({_KEY: json.dumps(self.request)})
        with (
            atomic_file(self.out, self.folder / "joined.writing") as file,
            pyarrow.parquet.ParquetWriter(file, schema, use_dictionary=_repeating(schema)) as writer,
        ):
            for number in range(self.count):
                table = pyarrow.parquet.ParquetFile(self._path(number)).read()
                writer.write_table(table.replace_schema_metadata(schema.metadata))

    def _check(self, there: Any, what: str) -> None:
        saved, asked = flat(there), flat(self.request)
        for name in [*saved, *asked]:
            if saved.get(name) != asked.get(name):
                raise RunError(
                    f"{what} belongs to another request: {name} is {saved.get(name)!r} there and "
                    f"{asked.get(name)!r} here; remove it, or give another --out"
                )


def personalized_format(out: Path) -> Literal["parquet", "csv"]:
    """The format of a file of personalised clients, by its name.

    Raises:
        SettingError: The name has another ending.
    """
    suffix = out.suffix.lower()
    if suffix not in (".parquet", ".pq", ".csv"):
        raise SettingError(f"--out must end in .parquet or .csv, which says the format, got {str(out)!r}")
    return "csv" if suffix == ".csv" else "parquet"


def _flat(table: "pa.Table") -> "pa.Table":
    """A table without lists: a row for each entry of lists that differ in length, else a column for each.

    Lists that differ in length are those of recommendations, whose first columns are the items; their place
    in the list becomes the column `rank`, from 1.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    lists = [f.name for f in table.schema if pa.types.is_list(f.type) or pa.types.is_large_list(f.type)]
    table = table.combine_chunks()
    if lists:
        owners = pc.list_parent_indices(table[lists[0]]).combine_chunks()
        counts = pc.list_value_length(table[lists[0]]).to_numpy()
        ranks = np.concatenate([np.arange(1, count + 1) for count in counts] or [np.zeros(0, np.int64)])
        columns = {n: table[n].take(owners) for n in table.column_names if n not in lists}
        columns["rank"] = pa.array(ranks)
        columns |= {name: pc.list_flatten(table[name]) for name in lists}
        return pa.table(columns)
    columns = {}
    for field in table.schema:
        if not pa.types.is_fixed_size_list(field.type):
            columns[field.name] = table[field.name]
            continue
        values = to_numpy(table[field.name])
        for place in np.ndindex(values.shape[1:]):
            name = ".".join([field.name, *map(str, place)])
            columns[name] = pa.array(np.ascontiguousarray(values[(slice(None), *place)]))
    return pa.table(columns)


def _request_beside(about: Path, out: Path) -> Any:
    """The request of a CSV file that is there, from the folder that a kill left beside it."""
    if not about.exists():
        raise RunError(f"{out}: there is a file already, and CSV does not say of what; remove it first")
    return json.loads(about.read_text(encoding="utf-8"))


def _request_of(path: Path) -> Any:
    import pyarrow as pa
    import pyarrow.parquet

    try:
        return json.loads(pyarrow.parquet.read_schema(path).metadata[_KEY])
    except (pa.ArrowException, OSError, KeyError, TypeError):
        raise RunError(
            f"{path}: there is a file already, and not one of this command; remove it first"
        ) from None


def _repeating(schema: "pa.Schema") -> list[str]:
    """The columns, by their paths in Parquet, that are written with a dictionary of their values.

    Floating-point columns are not among them, since their values hardly repeat: building a dictionary takes
    four times as long as writing the values, and the file becomes larger.
    """
    import pyarrow as pa

    names = []
    for field in schema:
        path, kind = field.name, field.type
        while isinstance(kind, pa.ListType | pa.LargeListType | pa.FixedSizeListType):
            path, kind = f"{path}.list.element", kind.value_type
        if not pa.types.is_floating(kind):
            names.append(path)
    return names
