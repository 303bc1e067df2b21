"""The folder of a run: the names of its files, its lock, and the check that it belongs to this run."""

import json
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedrecon._files import leftovers, lock, make_folder, remove, write_atomically
from fedrecon.errors import RunError
from fedrecon.experiment.settings.sections import flat
from fedrecon.experiment.storage.fingerprint import in_format_of

if TYPE_CHECKING:
    from filelock import BaseFileLock

CONFIG = "config.toml"
FINGERPRINT = "fingerprint.json"
EXAMPLES = "examples.json"
ENVIRONMENT = "environment.json"
PLAN = "plan.json"
TUNED = "plan-tuned.json"
VOCABULARIES = "vocabularies.json"
CHECKPOINTS = "checkpoints"
CLIENT_STATES = "kept"
PLOTS = "plots"
RESULT = "result.json"
SUMMARY = "summary.md"
LOCK = ".lock"

# Settings, and tables of settings, that may differ without making another run: the path of the data, which
# are compared by their digests, and the tracker.
PLACES = ("data.path", "tracking")


class RunFolder:
    """An open run folder. Another process cannot open it until `close`, or the end of this process.

    Args:
        path: The folder; it is made where it does not exist.
        config: The settings of the run as nested tables.
        fingerprint: The JSON values that must be equal for two runs to be the same, beside the settings.

    Raises:
        RunError: The folder cannot be written, belongs to another run, is in use by another process, or holds
            files that are no run.
    """

    def __init__(self, path: Path, config: Mapping[str, Any], fingerprint: Mapping[str, Any]):
        self.path = path
        try:
            make_folder(path)
            self._lock = lock_folder(path)
        except OSError as error:
            raise RunError(f"{path}: the run folder cannot be written: {error.strerror}") from None
        try:
            self._claim(config, fingerprint)
        except OSError as error:
            self.close()
            raise RunError(f"{error.filename}: the run folder cannot be written: {error.strerror}") from None
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Lets other processes open the folder."""
        self._lock.release()

    def read(self, name: str) -> str | None:
        """The content of a file of the folder; None if there is none."""
        file = self.path / name
        return file.read_text(encoding="utf-8") if file.exists() else None

    def write(self, name: str, content: str) -> None:
        """Writes a file of the folder, whole or not at all."""
        write_atomically(self.path / name, content)

    def write_json(self, name: str, content: object) -> None:
        """Writes a JSON file of the folder, whole or not at all."""
        self.write(name, json.dumps(content, indent=2) + "\n")

    def _claim(self, config: Mapping[str, Any], fingerprint: Mapping[str, Any]) -> None:
        import tomli_w

        for path in leftovers(self.path):
            if path.is_dir():
                remove(path)
            else:
                path.unlink()
        saved = self.read(CONFIG)
        if saved is None:
            others = sorted(p.name for p in self.path.iterdir() if p.name != LOCK)
            if others:
                raise RunError(f"{self.path}: a run needs an empty folder, but this one holds {others[0]!r}")
            self.write(CONFIG, tomli_w.dumps(config))
        else:
            compare(self.path, flat(tomllib.loads(saved)), flat(config))
        # The configuration is written first and compared first: its settings are what a user can tell apart.
        fingerprint_text = self.read(FINGERPRINT)
        if fingerprint_text is None:
            self.write_json(FINGERPRINT, fingerprint)
        else:
            there = json.loads(fingerprint_text)
            compare(self.path, flat(there), flat(in_format_of(there, fingerprint, self.path / FINGERPRINT)))


def compare(path: Path, there: Mapping[str, Any], here: Mapping[str, Any]) -> None:
    """Refuses a run folder of another run.

    Args:
        path: The folder, for the message.
        there: Settings or fingerprint in the folder, by their dotted names.
        here: Those of this run.

    Raises:
        RunError: A value differs; the message names the first such setting.
    """
    for name in [*there, *here]:
        if is_place(name):
            continue
        if name not in there or name not in here or there[name] != here[name]:
            saved = repr(there[name]) if name in there else "not set"
            given = repr(here[name]) if name in here else "not set"
            difference = f"{name} is {saved} there and {given} here"
            raise RunError(f"{path}: this run folder belongs to another configuration: {difference}")


def lock_folder(path: Path, what: str = "run folder") -> "BaseFileLock":
    """Locks a folder against other processes, see `lock`, until the lock is released.

    Args:
        path: The folder; it must exist.
        what: What the message calls the folder; by default `"run folder"`.

    Raises:
        RunError: Another process has locked it.
        OSError: The folder cannot be written, or its file system has no locks.
    """
    try:
        return lock(path / LOCK)
    except BlockingIOError:
        raise RunError(f"{path}: another process is using this {what}") from None


def is_place(name: str) -> bool:
    """Whether a setting, by its dotted name, tells only where something is, and not what the run computes."""
    return any(name == place or name.startswith(f"{place}.") for place in PLACES)
