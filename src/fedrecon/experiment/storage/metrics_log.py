"""The metrics of a run as one tidy CSV table."""

import csv
import hashlib
import io
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from fedrecon._files import naming, sync, write_atomically
from fedrecon._safe_text import csv_cell, from_csv_cell
from fedrecon.core._costs import COSTS
from fedrecon.errors import RunError
from fedrecon.experiment.storage.digests import check_mark, missing

METRICS = "metrics.csv"
# The training metrics of a private run's clients, and the first line of their file.
UNPROTECTED = "metrics_unprotected.csv"
NOT_COVERED = "# not covered by epsilon: training metrics that no client sends; nobody else may see them\n"

TRAINING = "training"
# The metric of a private run's releases so far.
EPSILON = "epsilon"
RECON_EVAL, STANDARD_EVAL = PROTOCOLS = "recon_eval", "standard_eval"
# The prefix of the name of a set of clients that were trained on.
SEEN = "seen "

WEIGHTINGS = ("examples", "clients")

# Training metrics that are recorded as their total over the cohort, which tells more than the mean.
COUNTS = ("dropped", "empty", *COSTS)


def place(name: str) -> tuple[str, str]:
    """Split and protocol of a set of clients by its name; `"seen test"` gives `("test", "standard_eval")`."""
    return (name.removeprefix(SEEN), STANDARD_EVAL) if name.startswith(SEEN) else (name, RECON_EVAL)


def name_of(split: str, protocol: str) -> str:
    """The name of the set of clients of a split and a protocol; the inverse of `place`."""
    return SEEN + split if protocol == STANDARD_EVAL else split


class Row(NamedTuple):
    """One recorded number of a run.

    Attributes:
        round: The number of rounds done when it was measured.
        split: The set of clients without the prefix `SEEN`: `"train"`, `"validation"`, `"test"`, …
        protocol: `"training"` (query predictions before each step of the update phase), `"recon_eval"`
            (unseen clients) or `"standard_eval"` (held-out examples of seen ones).
        weighting: `"examples"` or `"clients"` for a mean over these, `"total"` for a sum over the round's
            cohort.
        metric: The name of the metric, for instance `"rmse"`.
        value: The number, in the unit of its metric; `seconds` count from the start of the run.
    """

    round: int
    split: str
    protocol: str
    weighting: str
    metric: str
    value: float


class Records:
    """The rows of a run, in memory and, where a file is given, appended to it.

    Args:
        path: The CSV file; by default None, which keeps the rows in memory only.
        listener: A function that is called with each list of new rows; None, the default, for none.
        comment: A line before the columns of the file, which begins with `#`; none by default.
    """

    def __init__(
        self,
        path: Path | None = None,
        listener: Callable[[list[Row]], Any] | None = None,
        comment: str = "",
    ):
        self.path, self.listener, self._comment = path, listener, comment
        self.rows: list[Row] = []
        self._unwritten = 0
        self._size, self._digest = 0, hashlib.blake2b(digest_size=16)  # size and digest of the file

    def __getstate__(self) -> dict[str, Any]:
        """Pickles the rows alone: a copy must not write into the file of the run."""
        return {"rows": self.rows}

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        Records.__init__(self)
        self.rows = list(state["rows"])

    def append(self, rows: Iterable[Row]) -> None:
        """Adds rows; `write` and `commit` put them in the file."""
        new = list(rows)
        self.rows += new
        self._unwritten += len(new)
        if self.listener is not None:
            self.listener(new)

    def write(self) -> None:
        """Appends new rows to the file, where others can read them; a power cut may still lose them."""
        if self.path is None or not self._unwritten:
            return
        new = self.rows[len(self.rows) - self._unwritten :]
        text = _text(new).encode()
        try:
            if not self._is_whole():
                self._write_anew()
                return
            with naming(self.path), open(self.path, "ab") as file:
                file.write(text)
        except FileNotFoundError:
            raise RunError(
                f"{self.path.parent}: the run folder was removed while the run was using it"
            ) from None
        self._note(text)
        self._unwritten = 0

    def _is_whole(self) -> bool:
        """Whether the file is as this process left it, and was not removed or cut in the meantime."""
        assert self.path is not None
        return self.path.exists() and self.path.stat().st_size == self._size

    def _write_anew(self) -> None:
        assert self.path is not None
        text = (self._comment + ",".join(Row._fields) + "\n" + _text(self.rows)).encode()
        write_atomically(self.path, text)
        self._size, self._digest = 0, hashlib.blake2b(digest_size=16)
        self._note(text)
        self._unwritten = 0

    def _note(self, text: bytes) -> None:
        self._size += len(text)
        self._digest.update(text)

    @property
    def mark(self) -> dict[str, Any]:
        """Size in bytes and digest of what was written into the file, for `check_mark`."""
        return {"bytes": self._size, "digest": self._digest.hexdigest()}

    def commit(self) -> None:
        """Writes all rows, and waits until they are on the disk."""
        self.write()
        if self.path is not None:
            if not self._is_whole():  # removed since the last row was written
                self._unwritten = 1
                self.write()
            with naming(self.path), open(self.path, "r+b") as file:
                sync(file)

    def restart(self, round: int, mark: Mapping[str, Any] | None = None) -> int:
        """Goes back to the end of a round: removes later rows, and a line that a kill cut short.

        The rows of the test clients are removed as well, since they are made after the last round. The
        listener gets the rows that stay, since a kill may have come before it got the last of them.

        Args:
            round: The number of rounds done; 0 for the start of the run.
            mark: The mark of the file when that round was saved; None, the default, for a checkpoint of an
                earlier version, which has none.

        Returns:
            The number of later rounds that the file had, which will be computed again.

        Raises:
            RunError: The file is missing or damaged.
        """
        if self.path is not None and round and not self.path.exists():
            raise missing(self.path)
        if self.path is not None and mark is not None:
            check_mark(self.path, mark)
        old = read(self.path) if self.path is not None and self.path.exists() else []
        self.rows = [row for row in old if row.split != "test"]
        self.forget(round)
        if self.listener is not None and self.rows:
            self.listener(list(self.rows))
        return len({row.round for row in old if row.round > round})

    def forget(self, round: int) -> None:
        """Removes the rows of later rounds from memory and from the file.

        Args:
            round: The last round whose rows stay.
        """
        self.rows = [row for row in self.rows if row.round <= round]
        self._rewrite()

    def _rewrite(self) -> None:
        self._unwritten = 0
        if self.path is not None:
            self._write_anew()

    def forget_evaluations(self, round: int) -> None:
        """Removes the evaluations after a round from memory and from the file."""
        self.rows = [row for row in self.rows if row.round != round or row.protocol == TRAINING]
        self.forget(round)

    def forget_test(self) -> None:
        """Removes the rows of the test clients from memory and from the file."""
        self.rows = [row for row in self.rows if row.split != "test"]
        self._rewrite()

    def series(self, name: str, metric: str, weighting: str = "examples") -> dict[int, float]:
        """A metric by round.

        Args:
            name: `"train"`, or the name of a set of evaluated clients, for instance `"seen test"`.
            metric: The name of the metric.
            weighting: `"examples"` (the default), `"clients"` or `"total"`, as in `Row`.
        """
        split, protocol = place(name)
        key = (split, TRAINING if split == "train" else protocol, weighting, metric)
        return {r.round: r.value for r in self.rows if r[1:5] == key}

    def __iter__(self) -> Iterator[Row]:
        return iter(self.rows)

    def __len__(self) -> int:
        return len(self.rows)


def rows(round: int, split: str, protocol: str, summary: Mapping[str, Any]) -> Iterator[Row]:
    """The rows of an evaluation.

    Args:
        round: The number of rounds done before the evaluation.
        split: The split of the evaluated clients, as in `Row`.
        protocol: The protocol of the evaluation, as in `Row`.
        summary: The metrics, `{weighting: {metric: value}}`; other keys than `WEIGHTINGS` are ignored.
    """
    for weighting in WEIGHTINGS:
        for metric, value in summary.get(weighting, {}).items():
            yield Row(round, split, protocol, weighting, metric, float(value))


def read(path: Path) -> list[Row]:
    """The rows of a file; a last line without its line break, which a kill leaves, is left out.

    Raises:
        RunError: A line that has its line break is not a `Row`.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise RunError(f"{path}: must be UTF-8: {error}") from None
    lines = text[: text.rfind("\n") + 1].splitlines()
    comments = 1 if lines and lines[0].startswith("#") else 0
    lines = lines[comments:]
    if not lines:
        return []
    if lines[0] != ",".join(Row._fields):
        raise RunError(
            f"{path}:{comments + 1}: the columns must be {','.join(Row._fields)}, got {lines[0]!r}"
        )
    result = []
    for number, fields in enumerate(csv.reader(lines[1:]), start=comments + 2):
        try:
            round, *names, value = fields
            result.append(Row(int(round), *_four(names), float(value)))
        except ValueError:
            line = ",".join(fields)
            raise RunError(f"{path}:{number}: a line must be {','.join(Row._fields)}, got {line!r}") from None
    return result


def _four(names: list[str]) -> tuple[str, str, str, str]:
    split, protocol, weighting, metric = names
    return from_csv_cell(split), protocol, weighting, from_csv_cell(metric)


def _text(rows: Iterable[Row]) -> str:
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    for row in rows:
        # repr is the shortest text that gives the same number back.
        writer.writerow([row.round, *map(csv_cell, row[1:-1]), repr(row.value)])
    return file.getvalue()
