"""Writes a Parquet file in parts, so that a kill loses only the parts that are in progress."""

import hashlib
import io
import json
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

from fedrecon._files import atomic_file, make_folder, write_atomically
from fedrecon._safe_text import counted
from fedrecon.errors import RunError
from fedrecon.experiment.serving.part_tables import repeating_columns, with_safe_cells, without_lists
from fedrecon.experiment.serving.requests import describe_difference
from fedrecon.experiment.serving.shares import WHOLE, Share, SharedFolder
from fedrecon.experiment.settings.sections import SettingError

_REQUEST = "request.json"
# The key of the request in the metadata of the finished file.
_KEY = b"fedrecon"


class ResumableParquetWriter:
    """Writes the parts of a file into a hidden folder beside it, and joins them when all are there.

    The request is written before the first part and compared by every later process: parts of another
    request must not get into the file. Several processes may each make a share of the parts; whoever is the
    last to finish joins them. A lock keeps two processes from making the same share.

    Args:
        out: The path of the file. If it already holds the result of the request, no part is missing.
        request: The JSON values that decide the content of the file.
        count: The number of parts into which the file is divided.
        share: The share of the parts that this process makes; all of them by default. None makes none: then
            `join` alone can be called.

    Raises:
        RunError: The file, or the parts that an earlier process left, belong to another request, another
            process is making the share, or others make shares of another number.
    """

    def __init__(self, out: Path, request: dict[str, Any], count: int, share: Share | None = WHOLE):
        self.out, self.request, self.count = out, json.loads(json.dumps(request)), count
        self.share = share
        self.folder = out.with_name(f".{out.name}.parts")
        self.format = personalized_format(out)
        # The file that says what a CSV file holds, which cannot say it itself.
        self._note = out.with_name(f".{out.name}.{_REQUEST}")
        self._shared = SharedFolder(self.folder, out.exists)
        if share is None and not (out.exists() or self.folder.exists()):
            raise RunError(f"{out}: there are no parts to join; --share I/N makes them")
        if not out.exists():
            try:
                make_folder(self.folder)
            except OSError as error:
                raise RunError(f"{self.folder}: cannot be written: {error.strerror}") from None
        with self._shared.alone() as is_unfinished:
            self.complete = not is_unfinished
            if is_unfinished:
                self._begin(share)
        if self.complete:
            saved = _request_of(out) if self.format == "parquet" else _request_beside(self._note, out)
            self._check(saved, f"{out}: the file that is there")
            self._clear()

    def _begin(self, share: Share | None) -> None:
        """Compares the request with that of the parts and of other processes, or writes it; needs a lock."""
        about, busy, parts = self.folder / _REQUEST, self._shared.busy(), self._parts()
        if about.exists() and (busy or share is None or parts):
            self._check(json.loads(about.read_text(encoding="utf-8")), f"{self.folder}: what is there")
        elif parts and (busy or share is None):
            raise RunError(
                f"{self.folder}: must hold {_REQUEST}, which says what its parts are of; remove it"
            )
        elif share is not None:
            for part in parts:  # nobody knows of which request they are
                part.unlink()
            write_atomically(about, json.dumps(self.request, indent=2) + "\n")
        if share is not None:
            self._shared.take(share, busy)

    def close(self) -> None:
        """Releases the lock, so that other processes can make the share."""
        self._shared.release()

    def __enter__(self) -> "ResumableParquetWriter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def missing(self) -> list[int]:
        """The numbers of the parts of the share that are not on the disk yet."""
        return [] if self.share is None else self._missing(self.share)

    def describe_unfinished(self) -> str:
        """A sentence on which shares lack how many parts, or why nobody joins the parts that are there."""
        count = self._shared.count_of_shares() if self.folder.exists() else 0
        # Without the number of shares it can only be told how many parts are missing.
        shares = [Share(number, count) for number in range(1, count + 1)] or [WHOLE]
        missing = {str(share): len(self._missing(share)) for share in shares}
        texts = [f"--share {share} lacks {counted(n, 'part')}" for share, n in missing.items() if n]
        # The file may have come while the parts were looked for.
        if not texts or self.out.exists():
            return "Another process joins the parts now"
        if count:
            return f"Missing: {', '.join(texts)}"
        lacking = counted(missing[str(WHOLE)], "part")
        return (
            f"Missing: {lacking} of {self.count}, and the file that says into how many shares they were "
            f"divided ({self._shared.manifest}): give the command of each share again"
        )

    def make(self, part: Callable[[int], Any], threads: int) -> Iterator[int]:
        """Makes the missing parts of the share, several at a time, and joins all parts if they are there.

        Args:
            part: Makes the Arrow table of a part from its number; several threads call it.
            threads: The number of parts that are made at a time.

        Yields:
            The number of each part as soon as it is on the disk.
        """

        def write(number: int) -> int:
            import pyarrow.parquet

            table, buffer = part(number), io.BytesIO()
            pyarrow.parquet.write_table(table, buffer, use_dictionary=repeating_columns(table.schema))
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
        self.join()

    def join(self) -> bool:
        """Joins the parts into the file if all are there, and nobody has done so.

        Returns:
            Whether the file is there.
        """
        if self.complete:
            return True
        with self._shared.alone() as is_unfinished:
            if is_unfinished:
                if any(not self._path(number).exists() for number in range(self.count)):
                    return False
                if self.format == "csv":
                    self._join_as_csv()
                else:
                    self._join_as_parquet()
        self.complete = True
        self._clear()
        return True

    def _clear(self) -> None:
        self.close()
        # The request goes last: parts without it might be taken for those of another request after a kill.
        for part in self._parts():
            part.unlink(missing_ok=True)
        # Whoever was waiting for the folder may remove it at the same time, since the file is there.
        shutil.rmtree(self.folder, ignore_errors=True)

    def _parts(self) -> list[Path]:
        return list(self.folder.glob("[0-9]*.parquet"))

    def _missing(self, share: Share) -> list[int]:
        if self.complete:
            return []
        return [number for number in share.parts(self.count) if not self._path(number).exists()]

    def _path(self, number: int) -> Path:
        return self.folder / f"{number:06d}.parquet"

    def _join_as_csv(self) -> None:
        import pyarrow.csv

        with atomic_file(self.out, self.folder / "joined.writing") as file:
            for number in range(self.count):
                table = pyarrow.parquet.ParquetFile(self._path(number)).read()
                options = pyarrow.csv.WriteOptions(include_header=number == 0)
                pyarrow.csv.write_csv(with_safe_cells(without_lists(table)), file, options)
            file.flush()
            # It is written before the file gets its name, so that no finished file lacks it after a kill.
            note = {"request": self.request, "sha256": _digest(self.folder / "joined.writing")}
            write_atomically(self._note, json.dumps(note, indent=2) + "\n")

    def _join_as_parquet(self) -> None:
        import pyarrow.parquet

        schema = pyarrow.parquet.read_schema(self._path(0))
        schema = schema.with_metadata({_KEY: json.dumps(self.request)})
        with (
            atomic_file(self.out, self.folder / "joined.writing") as file,
            pyarrow.parquet.ParquetWriter(file, schema, use_dictionary=repeating_columns(schema)) as writer,
        ):
            for number in range(self.count):
                table = pyarrow.parquet.ParquetFile(self._path(number)).read()
                writer.write_table(table.replace_schema_metadata(schema.metadata))

    def _check(self, there: Any, what: str) -> None:
        if difference := describe_difference(there, self.request):
            raise RunError(
                f"{what} belongs to another request: {difference}; remove it, or give another --out"
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


def _request_beside(note: Path, out: Path) -> Any:
    """The request of a CSV file that is there, from the file beside it that was written with it.

    Raises:
        RunError: The CSV file is not the one that was written.
    """
    try:
        written = json.loads(note.read_text(encoding="utf-8"))
        if written["sha256"] == _digest(out):
            return written["request"]
    except (OSError, ValueError, KeyError, TypeError):
        # A CSV file without a note that can be read is treated as somebody else's.
        pass
    raise RunError(f"{out}: there is a file already, and not as this command wrote it; remove it first")


def _digest(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _request_of(path: Path) -> Any:
    import pyarrow as pa
    import pyarrow.parquet

    try:
        return json.loads(pyarrow.parquet.read_schema(path).metadata[_KEY])
    except (pa.ArrowException, OSError, KeyError, TypeError):
        raise RunError(
            f"{path}: there is a file already, and not one of this command; remove it first"
        ) from None
