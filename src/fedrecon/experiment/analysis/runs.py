"""Reads finished runs back from their folders, and groups the seeds of one method."""

import functools
import json
import os.path
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import takewhile
from pathlib import Path
from typing import Any

from fedrecon._safe_text import file_name
from fedrecon.data._arrow_bridge import to_numpy
from fedrecon.errors import RunError
from fedrecon.experiment.settings.sections import flat, parse_toml
from fedrecon.experiment.storage.digests import check_mark, read_json
from fedrecon.experiment.storage.metrics_log import EPSILON, METRICS, Records, read
from fedrecon.experiment.storage.run_folder import (
    CONFIG,
    ENVIRONMENT,
    EXAMPLES,
    FILES,
    RESULT,
    check_settings,
    is_place,
    read_fingerprint,
)
from fedrecon.privacy._ledger import Ledger

# What is left at the end of a name whose last part was a seed.
_SEED_AT_END = re.compile(r"[-_. =]*(?:seed)?[-_. =]*\d*\Z", re.IGNORECASE)


@dataclass(frozen=True, eq=False)
class Run:
    """A run folder. Each file is read when it is first needed.

    Attributes:
        path: The run folder.
    """

    path: Path

    @functools.cached_property
    def config(self) -> dict[str, Any]:
        """The settings of the run by their dotted names; a run made in Python has fewer of them."""
        if not (self.path / CONFIG).is_file():
            raise RunError(f"{self.path}: a run folder must have a {CONFIG}, this has none")
        check_settings(self.path)
        try:
            return flat(parse_toml((self.path / CONFIG).read_text(encoding="utf-8")))
        except ValueError as error:
            raise RunError(f"{self.path / CONFIG}: no TOML: {error}") from None

    @functools.cached_property
    def result(self) -> dict[str, Any]:
        """The content of the run's `result.json`."""
        if not (self.path / RESULT).is_file():
            raise RunError(
                f"{self.path}: a run must have a {RESULT} to be compared, this has none yet: resume it"
            )
        return read_json(self.path / RESULT)

    @functools.cached_property
    def fingerprint(self) -> dict[str, Any]:
        """The content of the run's `fingerprint.json`."""
        return read_fingerprint(self.path)

    @functools.cached_property
    def examples(self) -> dict[str, str]:
        """Digests of the measured examples by set of clients; see `tells_examples` for what they cover."""
        return read_json(self.path / EXAMPLES) if self.tells_examples else self.fingerprint.get("clients", {})

    @property
    def tells_examples(self) -> bool:
        """Whether `examples` leaves out the fields that the run's algorithm added; older runs cover them."""
        return (self.path / EXAMPLES).is_file()

    @functools.cached_property
    def environment(self) -> dict[str, Any]:
        """The content of the run's `environment.json`: machine, versions, command."""
        return read_json(self.path / ENVIRONMENT)

    @functools.cached_property
    def records(self) -> Records:
        """The recorded numbers of the run by round."""
        if not (self.path / METRICS).is_file():
            raise RunError(f"{self.path}: a run folder must have a {METRICS}, this has none")
        self._check(METRICS)
        records = Records()
        records.append(read(self.path / METRICS))
        return records

    @functools.cached_property
    def privacy(self) -> Ledger | None:
        """The ledger of what the run has released so far; None for a run that is not private.

        The result of an interrupted run is behind what the run released after it was resumed: epsilon is then
        that of the last round in its records.
        """
        values = self.result.get("privacy")
        if values is None:
            return None
        ledger = Ledger.from_values(values)
        if self.result["finished"]:
            return ledger
        by_round, rounds = self.records.series("train", EPSILON, "total"), self.result["rounds"]
        last = max(by_round, default=0)
        if last <= rounds:
            return ledger
        return replace(ledger, epsilon=by_round[last], releases=ledger.releases + last - rounds)

    @property
    def seed(self) -> int:
        """The seed of the run's draws."""
        return int(self.fingerprint.get("seed", 0))

    def evaluations(self) -> Iterator[tuple[str, str, Mapping[str, Any]]]:
        """Split, protocol and metrics of every final evaluation."""
        for split, protocols in self.result.items():
            if isinstance(protocols, Mapping):
                for protocol, metrics in protocols.items():
                    if isinstance(metrics, Mapping) and "examples" in metrics:
                        yield split, protocol, metrics

    def tables(self) -> dict[tuple[str, str], Path]:
        """The files of clients' metrics, by split and protocol."""
        files: dict[tuple[str, str], Path] = {}
        for split, protocol, _ in self.evaluations():
            safe = file_name(split)
            names = (f"clients-{safe}-{protocol}.parquet", f"clients-{safe}.parquet")
            paths = [self.path / name for name in names if (self.path / name).is_file()]
            # A file whose name has no protocol belongs to the first protocol of its split.
            if paths and paths[0] not in files.values():
                files[split, protocol] = paths[0]
        return files

    def clients(self, split: str, protocol: str) -> dict[str, Any] | None:
        """The metrics of every client of a set.

        Args:
            split: The split of the clients.
            protocol: The protocol of the evaluation.

        Returns:
            The columns `client`, `weight` and each metric as NumPy arrays, `[clients]`; None if the run has
            no such file.
        """
        path = self.tables().get((split, protocol))
        return None if path is None else self.table(path)

    def table(self, path: Path) -> dict[str, Any]:
        """The columns of one of the run's files of clients' metrics, as NumPy arrays `[clients]`.

        Raises:
            RunError: The file is not what the run wrote.
        """
        self._check(path.name)
        return columns(path)

    def _check(self, name: str) -> None:
        """Refuses a file that is not the one that `result.json` has the mark of."""
        marks = self.result.get(FILES, {}) if (self.path / RESULT).is_file() else {}
        if name in marks:
            check_mark(self.path / name, marks[name])


@dataclass(frozen=True, eq=False)
class Method:
    """A method of a comparison: a run, or the runs of several seeds.

    Attributes:
        label: The name of the method, different for each method of a comparison.
        path: The folder of the run, or the folder that holds those of several seeds.
        runs: The runs in the order of their seeds, each seed once.
    """

    label: str
    path: Path
    runs: tuple[Run, ...]

    @property
    def seeds(self) -> tuple[int, ...]:
        """The seeds of the runs."""
        return tuple(run.seed for run in self.runs)

    def run_of(self, seed: int) -> Run:
        """The run of a seed."""
        return next(run for run in self.runs if run.seed == seed)


def methods(paths: Sequence[Path]) -> list[Method]:
    """The methods whose runs are in some folders.

    A folder of runs of several seeds is one method, and so are runs that differ in nothing but the seed.

    Args:
        paths: Run folders, or folders of several seeds, at least one.

    Raises:
        RunError: A folder holds no run.
    """
    groups: list[tuple[Path, list[Run]]] = []
    by_settings: dict[str, int] = {}
    for path in paths:
        several = seed_folders(path)
        if several:
            groups.append((path, [Run(p) for p in several]))
            continue
        run = Run(path)
        key = _identity(run)
        group = groups[by_settings[key]][1] if key in by_settings else None
        if group is not None and run.seed not in {other.seed for other in group}:
            group.append(run)
        else:
            by_settings[key] = len(groups)
            groups.append((path, [run]))
    named = [
        (str(runs[0].config.get("name", path.name)), _shared_path(runs) if path == runs[0].path else path)
        for path, runs in groups
    ]
    names = labels(named)
    return [
        Method(name, path, tuple(sorted(runs, key=lambda run: run.seed)))
        for name, (path, runs) in zip(names, groups, strict=True)
    ]


def seed_folders(path: Path) -> list[Path]:
    """The run folders that `fedrecon run --seeds` left in a folder; none if it is a run folder itself."""
    if (path / CONFIG).is_file():
        return []
    return sorted(p.parent for p in path.glob(f"seed-*/{CONFIG}"))


def labels(named: Sequence[tuple[str, Path]]) -> list[str]:
    """Labels of runs: their names if these differ, else the names of their folders, else the whole paths.

    Args:
        named: The name and the folder of each run.
    """
    names = [name for name, _ in named]
    if len(set(names)) == len(names):
        return names
    folders = [path.name for _, path in named]
    return folders if len(set(folders)) == len(folders) else [str(path) for _, path in named]


def has_several_seeds(methods: Sequence[Method]) -> bool:
    """Whether a method has runs of several seeds, so that its numbers are means with deviations."""
    return any(len(method.runs) > 1 for method in methods)


def _shared_path(runs: Sequence[Run]) -> Path:
    """The folder of a run; for the runs of several seeds a path that has what their folders' names share.

    The folders `a-seed0` and `a-seed1` give `a`, and names that begin differently the folder they are in.
    """
    paths = [run.path for run in runs]
    if len(paths) == 1:
        return paths[0]
    parents = {path.parent for path in paths}
    if len(parents) > 1:
        return Path(os.path.commonpath([path.absolute() for path in parents]))
    letters = takewhile(lambda at: len(set(at)) == 1, zip(*(path.name for path in paths), strict=False))
    shared = _SEED_AT_END.sub("", "".join(at[0] for at in letters))
    return paths[0].with_name(shared) if shared else paths[0].parent


def columns(path: Path) -> dict[str, Any]:
    """The columns of a Parquet file as NumPy arrays."""
    import pyarrow.parquet

    # Not by `read_table`, which imports pandas where it is installed: half a second.
    with pyarrow.parquet.ParquetFile(path) as file:
        table = file.read()
    return {name: to_numpy(table[name]) for name in table.column_names}


_UNRATED = "data.unrated"


def _identity(run: Run) -> str:
    """A text that is equal for two runs which differ only in their seed and in the places of things.

    Which ratings stand for none is no place: such runs have other examples.
    """
    kept = {k: v for k, v in run.config.items() if k == _UNRATED or (k != "seed" and not is_place(k))}
    return json.dumps(kept, sort_keys=True, default=str)
