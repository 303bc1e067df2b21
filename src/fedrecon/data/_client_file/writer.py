"""Client files written piece by piece, for federations that do not fit in memory."""

from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import IO, Any

import numpy as np

from fedrecon.core._array_like import FilePath
from fedrecon.data._client_file.file import write_within
from fedrecon.data._clients import Clients
from fedrecon.data._field_stats import FieldStats, merged
from fedrecon.data._from_arrays import check_codes, check_repeats, vocabulary
from fedrecon.data._scratch import scratch
from fedrecon.data._table_ids import alike
from fedrecon.errors import DataError

_FLOATS = {np.dtype(np.float32), np.dtype(np.float64)}
_CHUNK = 1 << 20  # numbers that are converted together


class ClientWriter:
    """Writes a client file from pieces, whole or not at all.

    The columns grow side by side in files of their own, in a hidden folder beside the client file, and are
    joined at the end: on the way the disk holds them twice, and the memory a piece. What a kill leaves
    there is removed when the same host writes the same file next (not on Windows).

    Args:
        path: The path of the client file.
        vocabularies: For fields that hold dense ids, the original id of each.

    Example:
        >>> import tempfile
        >>> from fedrecon import Clients
        >>> path = tempfile.mkdtemp() + "/clients.arrow"
        >>> with ClientWriter(path) as writer:
        ...     for i in range(3):
        ...         writer.add(Clients.from_arrays({i: {"rating": [4.0, 5.0]}}))
        >>> Clients.open(path)
        Clients(3 clients, 6 examples, fields rating)
    """

    def __init__(self, path: FilePath, vocabularies: Mapping[str, Any] | None = None):
        self._path = Path(path)
        self._vocabularies = {name: vocabulary(name, values) for name, values in (vocabularies or {}).items()}
        for name, ids in self._vocabularies.items():
            check_repeats(name, ids)
        self._ids: list[np.ndarray] = []
        self._keys: list[np.ndarray] = []
        self._counts: list[np.ndarray] = []
        self._files: dict[str, IO] = {}
        self._kinds: dict[str, tuple[np.dtype, tuple[int, ...]]] = {}
        self._written: dict[str, list[tuple[np.dtype, int]]] = {}  # of each piece, its type and examples
        self._field_stats: dict[str, FieldStats] = {}
        self._folder: Path | None = None
        self._open = ExitStack()

    def __enter__(self) -> "ClientWriter":
        self._folder = self._open.enter_context(scratch(self._path))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._open:
            for file in self._files.values():
                file.close()
            if kind is None:
                self._join()

    def add(self, clients: Clients) -> None:
        """Adds clients after those before.

        Raises:
            DataError: Their fields are others than those of the first piece, or numbered otherwise than by
                the vocabularies of this writer, or beyond these.
        """
        self._check_numbering(clients)
        kinds = {f: (x.dtype, x.shape[1:]) for f in clients.fields for x in [clients.blank(f, 0)]}
        if not self._kinds:
            self._kinds = kinds
            self._written = {f: [] for f in kinds}
            self._files = {f: open(self._column(i), "wb") for i, f in enumerate(kinds)}  # noqa: SIM115
        if kinds.keys() != self._kinds.keys():
            raise DataError(f"all pieces must have the fields {list(self._kinds)}, got {list(kinds)}")
        for f, kind in kinds.items():
            known = self._kinds[f]
            if {kind[0], known[0]} == _FLOATS and kind[1] == known[1]:
                self._kinds[f] = np.dtype(np.float64), kind[1]  # some pieces need more digits, see `in_order`
            elif kind != known:
                before, now = _show(*self._kinds[f]), _show(*kind)
                raise DataError(
                    f"field {f!r} must be of one type and shape in all pieces, it was {before} and is {now}; "
                    "give it as arrays of one type of 32 bits"
                )
        for piece in clients.pieces():
            check_codes({f: piece.column(f) for f in kinds if f in self._vocabularies}, self._vocabularies)
            for name, file in self._files.items():
                file.write(np.ascontiguousarray(piece.column(name)).data)
        for name in kinds:
            self._written[name].append((kinds[name][0], int(clients.offsets[-1])))
            stats = clients.field_stats(name)
            earlier = self._field_stats.get(name)
            self._field_stats[name] = stats if earlier is None else merged(earlier, stats)
        self._ids.append(clients.ids)
        self._keys.append(clients.keys)
        self._counts.append(clients.num_examples)

    def _check_numbering(self, clients: Clients) -> None:
        """Raises a DataError where a piece's ids stand for others than in the file."""
        for name, ids in clients.vocabularies.items():
            if name not in clients.fields:
                continue
            if name not in self._vocabularies:
                raise DataError(
                    f"field {name!r} of a piece has original ids: give `ClientWriter` the vocabulary of all "
                    "pieces, else the ids would be lost"
                )
            theirs, wanted = alike(ids, self._vocabularies[name])
            if theirs != wanted:
                raise DataError(
                    f"field {name!r} of a piece must be numbered by the writer's vocabulary of "
                    f"{len(self._vocabularies[name]):,} ids, it has another of {len(ids):,}"
                )

    def _column(self, number: int) -> Path:
        assert self._folder is not None
        return self._folder / str(number)

    def _join(self) -> None:
        if not self._kinds:
            raise DataError(f"{self._path}: a client file must have at least one piece, got none")
        ids, counts = np.concatenate(self._ids), np.concatenate(self._counts)
        if ids.dtype == object:  # some pieces may have integers alone
            ids = np.asarray([str(x) for x in ids.tolist()], object)
        if len(np.unique(ids)) < len(ids):
            raise DataError("client ids must be unique over all pieces")
        columns = {}
        for number, (name, (dtype, shape)) in enumerate(self._kinds.items()):
            full = (int(counts.sum()), *shape)
            if 0 in full:
                columns[name] = np.zeros(full, dtype)
                continue
            if any(kind != dtype for kind, _ in self._written[name]):
                self._widen(number, dtype, self._written[name])
            columns[name] = np.memmap(self._column(number), dtype, "r", shape=full)
        keys = np.concatenate(self._keys)
        assert self._folder is not None
        stats = self._field_stats
        write_within(self._folder, self._path, ids, keys, counts, columns, self._vocabularies, stats)

    def _widen(self, number: int, dtype: np.dtype, pieces: list[tuple[np.dtype, int]]) -> None:
        """Writes a column of numbers, of which some pieces are narrower, anew in one type."""
        path, wide = self._column(number), self._column(number).with_suffix(".wide")
        with open(path, "rb") as narrow, open(wide, "wb") as file:
            for kind, count in pieces:
                for start in range(0, count, _CHUNK):
                    column = np.fromfile(narrow, kind, min(_CHUNK, count - start))
                    file.write(column.astype(dtype).data)
        wide.replace(path)


def _show(dtype: np.dtype, shape: tuple[int, ...]) -> str:
    return f"{dtype}{list(shape) if shape else ''}"
