"""Finished runs, read back from their folders, the seeds of one method together."""

import functools
import json
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedrecon._safe_text import file_name
from fedrecon.data._arrow_bridge import to_numpy
from fedrecon.errors import RunError
from fedrecon.experiment.settings.sections import flat
from fedrecon.experiment.storage.metrics_log import METRICS, Records, read
from fedrecon.experiment.storage.run_folder import (
    CONFIG,
    ENVIRONMENT,
    EXAMPLES,
    FINGERPRINT,
    RESULT,
    is_place,
)


@dataclass(frozen=True, eq=False)
class Run:
    """A run folder, read when it is asked for.

    Attributes:
        path: The folder.
    """

    path: Path

    @functools.cached_property
    def config(self) -> dict[str, Any]:
        """Its settings by their dotted names; those of a run made in Python are fewer."""
        try:
            return flat(tomllib.loads((self.path / CONFIG).read_text(encoding="utf-8")))
        except FileNotFoundError:
            raise RunError(f"{self.path}: a run folder must have a {CONFIG}, this has none") from None
        except ValueError as error:
            raise RunError(f"{self.path / CONFIG}: no TOML: {error}") from None

    @functools.cached_property
    def result(self) -> dict[str, Any]:
        """Its `result.json`."""
        if not (self.path / RESULT).is_file():
            raise RunError(
                f"{self.path}: a run must have a {RESULT} to be compared, this has none yet: resume it"
            )
        return _json(self.path / RESULT)

    @functools.cached_property
    def fingerprint(self) -> dict[str, Any]:
        """What tells it from other runs."""
        return _json(self.path / FINGERPRINT)

    @functools.cached_property
    def examples(self) -> dict[str, str]:
        """Digests of what was measured, by set: without what its algorithm added, where that is known."""
        return _json(self.path / EXAMPLES) if self.tells_examples else self.fingerprint.get("clients", {})

    @property
    def tells_examples(self) -> bool:
        """Whether its algorithm's additions are left out of `examples`; older runs do not."""
        return (self.path / EXAMPLES).is_file()

    @functools.cached_property
    def environment(self) -> dict[str, Any]:
        """Where and with what it was made."""
        return _json(self.path / ENVIRONMENT)

    @functools.cached_property
    def records(self) -> Records:
        """Its numbers by round."""
        if not (self.path / METRICS).is_file():
            raise RunError(f"{self.path}: a run folder must have a {METRICS}, this has none")
        records = Records()
        records.append(read(self.path / METRICS))
        return records

    @property
    def seed(self) -> int:
        """Of its draws."""
        return int(self.fingerprint.get("seed", 0))

    def evaluations(self) -> Iterator[tuple[str, str, Mapping[str, Any]]]:
        """Split, protocol and metrics of every final evaluation."""
        for split, protocols in self.result.items():
            if isinstance(protocols, Mapping):
                for protocol, found in protocols.items():
                    if isinstance(found, Mapping) and "examples" in found:
                        yield split, protocol, found

    def tables(self) -> dict[tuple[str, str], Path]:
        """The files of clients' metrics, by split and protocol."""
        found: dict[tuple[str, str], Path] = {}
        for split, protocol, _ in self.evaluations():
            safe = file_name(split)
            names = (f"clients-{safe}-{protocol}.parquet", f"clients-{safe}.parquet")
            paths = [self.path / name for name in names if (self.path / name).is_file()]
            # A file that is not named by its protocol is of the split's only one.
            if paths and paths[0] not in found.values():
                found[split, protocol] = paths[0]
        return found

    def clients(self, split: str, protocol: str) -> dict[str, Any] | None:
        """Columns `client`, `weight` and each metric, as NumPy arrays; None if they were not written."""
        path = self.tables().get((split, protocol))
        return None if path is None else columns(path)


@dataclass(frozen=True, eq=False)
class Method:
    """What is compared: a run, or the runs of several seeds.

    Attributes:
        label: By which it is told from others.
        path: Its folder: of its runs, if they are several.
        runs: By seed, each seed once.
    """

    label: str
    path: Path
    runs: tuple[Run, ...]

    @property
    def seeds(self) -> tuple[int, ...]:
        """Of its runs."""
        return tuple(run.seed for run in self.runs)

    def of_seed(self, seed: int) -> Run:
        """The run of a seed."""
        return next(run for run in self.runs if run.seed == seed)


def methods(paths: Sequence[Path]) -> list[Method]:
    """What the folders hold.

    A folder of runs of several seeds is one method, and so are runs that differ in nothing but the seed.

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
    names = labels([(str(runs[0].config.get("name", path.name)), path) for path, runs in groups])
    return [
        Method(name, path, tuple(sorted(runs, key=lambda run: run.seed)))
        for name, (path, runs) in zip(names, groups, strict=True)
    ]


def seed_folders(path: Path) -> list[Path]:
    """The run folders that `--seeds` left in a folder; none if it is a run folder itself."""
    if (path / CONFIG).is_file():
        return []
    return sorted(p.parent for p in path.glob(f"seed-*/{CONFIG}"))


def labels(named: Sequence[tuple[str, Path]]) -> list[str]:
    """Names where these tell runs apart, and else their folders."""
    names = [name for name, _ in named]
    if len(set(names)) == len(names):
        return names
    folders = [path.name for _, path in named]
    return folders if len(set(folders)) == len(folders) else [str(path) for _, path in named]


def columns(path: Path) -> dict[str, Any]:
    """The columns of a Parquet file as NumPy arrays."""
    import pyarrow.parquet

    table = pyarrow.parquet.read_table(path)
    return {name: to_numpy(table[name]) for name in table.column_names}


def _identity(run: Run) -> str:
    """Equal in runs that differ in their seed, and in where things are, only."""
    kept = {k: v for k, v in run.config.items() if k != "seed" and not is_place(k)}
    return json.dumps(kept, sort_keys=True, default=str)


def _json(path: Path) -> dict[str, Any]:
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise RunError(f"{path.parent}: a run folder must have a {path.name}, this has none") from None
    except ValueError as error:
        raise RunError(f"{path}: no JSON: {error}") from None
    return content
