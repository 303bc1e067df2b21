"""The folder of a run: the names of its files, its lock, and the checks that it belongs to the run."""

import json
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedrecon._files import leftovers, lock, make_folder, remove, write_atomically
from fedrecon.errors import RunError
from fedrecon.experiment.settings.sections import flat, parse_toml
from fedrecon.experiment.storage.differing_sets import describe_differing_sets
from fedrecon.experiment.storage.digests import ADVICE, digest_of, missing, read_json, seal
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
# The key in `result.json` of the marks of the files that belong to the result.
FILES = "files"
# The key in `fingerprint.json` of the digest of the settings.
SETTINGS = "settings"
# The key in `environment.json` of the numbers of clients and examples by the name of their set.
SETS = "sets"
SUMMARY = "summary.md"
# Settings and fingerprint with another number of rounds, until both files have it; see `extension`.
EXTENSION = "extension.json"
LOCK = ".lock"

# Settings, and tables of settings, that may differ without making another run: the path of the data and how
# their file is written, since the examples read from it are compared by their digests; the limit on what
# packed data unpack to; what is recorded beside the run's own numbers; and the tracker.
PLACES = (
    "data.path",
    "data.separator",
    "data.encoding",
    "data.unrated",
    "data.unpacked_gib",
    "privacy.unprotected_metrics",
    "tracking",
)


class RunFolder:
    """An open run folder. Another process cannot open it until `close`, or the end of this process.

    Args:
        path: The folder; it is created where it does not exist.
        config: The settings of the run as nested tables.
        fingerprint: The JSON values that, beside the settings, must be equal in every call of the run.
        counts: The numbers of clients and examples by the name of their set, with which a message says what
            other data are; by default unknown.
        wait: The seconds for which a folder that another process uses is waited for; 0 by default.

    Raises:
        RunError: The folder cannot be written, belongs to another run, is in use by another process, or holds
            files that are not those of a run.
    """

    def __init__(
        self,
        path: Path,
        config: Mapping[str, Any],
        fingerprint: Mapping[str, Any],
        counts: Mapping[str, Mapping[str, int]] | None = None,
        wait: float = 0.0,
    ):
        self.path = path
        self._counts = counts
        try:
            make_folder(path)
            self._lock = lock_folder(path, wait)
        except OSError as error:
            raise RunError(f"{path}: the run folder cannot be written: {error.strerror or error}") from None
        try:
            self._claim(config, fingerprint)
        except OSError as error:
            self.close()
            name = error.filename or self.path
            raise RunError(f"{name}: the run folder cannot be written: {error.strerror}") from None
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Releases the lock, so that other processes can open the folder."""
        self._lock.release()

    def read(self, name: str) -> str | None:
        """The content of a file of the folder; None if there is none.

        Raises:
            RunError: The file is no UTF-8 text, so that it is not what was written.
        """
        file = self.path / name
        try:
            return file.read_text(encoding="utf-8") if file.exists() else None
        except UnicodeDecodeError as error:
            raise RunError(f"{file}: must be UTF-8 text, and is damaged at byte {error.start}") from None

    def write(self, name: str, content: str) -> None:
        """Writes a file of the folder atomically."""
        write_atomically(self.path / name, content)

    def write_json(self, name: str, content: Mapping[str, Any]) -> None:
        """Writes a JSON file of the folder with its digest, atomically.

        Args:
            name: The name of the file.
            content: The values by their names, to which the digest is added.
        """
        self.write(name, json.dumps(seal(content), indent=2) + "\n")

    def read_json(self, name: str) -> Any:
        """The content of a JSON file of the folder, without its digest; None if there is none.

        Raises:
            RunError: The file is not what was written.
        """
        return read_json(self.path / name) if (self.path / name).exists() else None

    def check(self) -> None:
        """Checks that the folder still exists.

        Raises:
            RunError: The folder was removed while the run was using it.
        """
        if not (self.path / CONFIG).is_file():
            raise RunError(f"{self.path}: the run folder was removed while the run was using it")

    def _claim(self, config: Mapping[str, Any], fingerprint: Mapping[str, Any]) -> None:
        import tomli_w

        for path in leftovers(self.path):
            if path.is_dir():
                remove(path)
            else:
                path.unlink()
        finish_extension(self.path)
        saved = self.read(CONFIG)
        if saved is None:
            others = sorted(p.name for p in self.path.iterdir() if p.name != LOCK)
            if others:
                raise RunError(f"{self.path}: a run needs an empty folder, but this one holds {others[0]!r}")
            saved = tomli_w.dumps(config)
            self.write(CONFIG, saved)
        else:
            check_settings(self.path)
            compare(self.path, flat(tomllib.loads(saved)), flat(config))
        # The configuration is written first and compared first: its settings are what a user can tell apart.
        if self.read(FINGERPRINT) is None:
            if has_checkpoint(self.path):
                raise missing(self.path / FINGERPRINT)
            self.write_json(FINGERPRINT, {**fingerprint, SETTINGS: settings_digest(tomllib.loads(saved))})
        else:
            there = read_fingerprint(self.path)
            here = in_format_of(there, fingerprint, self.path / FINGERPRINT)
            # The clients come last, whose digests differ whenever the settings of the data do.
            compare(self.path, flat({**there, "clients": {}}), flat({**here, "clients": {}}))
            compare_clients(self.path, there.get("clients", {}), here.get("clients", {}), self._counts or {})


def saved_digests(run: Path) -> dict[str, str]:
    """The digests of a run's clients, by the name of their set; none where there is no run yet."""
    return dict(read_fingerprint(run).get("clients", {})) if (run / FINGERPRINT).is_file() else {}


def read_fingerprint(run: Path) -> dict[str, Any]:
    """The content of a run's `fingerprint.json`, without the digest of the settings.

    Raises:
        RunError: The file is missing, or not what was written.
    """
    path = run / FINGERPRINT
    if not path.exists() and has_checkpoint(run):
        raise missing(path)
    content: dict[str, Any] = read_json(path)
    content.pop(SETTINGS, None)
    return content


def check_settings(run: Path) -> None:
    """Checks that the settings in a run folder are those with which the run began.

    Settings that only say where something is (`PLACES`) may change.

    Raises:
        RunError: A setting other than those was changed, or the file is not TOML.
    """
    path = run / FINGERPRINT
    written = read_json(path).get(SETTINGS) if path.exists() else None
    try:
        saved = parse_toml((run / CONFIG).read_text(encoding="utf-8"))
    # Also the error for a file that is not UTF-8, which derives from ValueError.
    except ValueError as error:
        raise RunError(f"{run / CONFIG}: no TOML: {error}") from None
    if written is not None and written != settings_digest(saved):
        raise RunError(
            f"{run / CONFIG}: is not what the run began with: another configuration takes a folder of its "
            f"own; {ADVICE} if the file is damaged"
        )


def settings_digest(config: Mapping[str, Any]) -> str:
    """A digest of the settings of a run, without those that only say where something is."""
    return digest_of({name: value for name, value in flat(config).items() if not is_place(name)})


def finish_extension(run: Path) -> None:
    """Gives a run the number of rounds that `extension.extend` wrote down, where a kill left that undone.

    Raises:
        RunError: The file that `extension.extend` wrote is damaged.
    """
    path = run / EXTENSION
    if not path.exists():
        return
    content = read_json(path)
    write_atomically(run / CONFIG, content["config"])
    write_atomically(run / FINGERPRINT, json.dumps(seal(content["fingerprint"]), indent=2) + "\n")
    # They are of the fewer rounds, and the first one has the marks of files that now change.
    for name in (RESULT, SUMMARY):
        (run / name).unlink(missing_ok=True)
    path.unlink(missing_ok=True)


def has_checkpoint(run: Path) -> bool:
    """Whether a run has a checkpoint."""
    return any(path.name.isdecimal() for path in (run / CHECKPOINTS).glob("*"))


def compare(path: Path, there: Mapping[str, Any], here: Mapping[str, Any]) -> None:
    """Checks that a run folder belongs to this run.

    Args:
        path: The folder, for the message.
        there: Settings or fingerprint in the folder, by their dotted names.
        here: Settings or fingerprint of this run, by their dotted names.

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


def compare_clients(
    path: Path,
    there: Mapping[str, str],
    here: Mapping[str, str],
    counts: Mapping[str, Mapping[str, int]],
) -> None:
    """Refuses a run folder of other clients.

    Args:
        path: The folder.
        there: The digests of the sets of clients in the folder, by their names.
        here: The digests of the sets of clients of this run, by their names.
        counts: The numbers of clients and examples of this run's sets, for the message.

    Raises:
        RunError: A set differs; the message says how many clients and examples are there and here.
    """
    differing = [name for name in dict.fromkeys([*there, *here]) if there.get(name) != here.get(name)]
    if differing:
        text = describe_differing_sets(differing, saved_counts(path), counts)
        raise RunError(f"{path}: this run folder belongs to other data: {text}")


def saved_counts(run: Path) -> Mapping[str, Mapping[str, int]]:
    """The numbers of clients and examples of a run by the name of their set; `{}` if it did not note them."""
    file = run / ENVIRONMENT
    counts: Mapping[str, Mapping[str, int]] = read_json(file).get(SETS, {}) if file.exists() else {}
    return counts


def lock_folder(path: Path, wait: float = 0.0) -> "BaseFileLock":
    """Locks a run folder against other processes until the lock is released or the process ends.

    Args:
        path: The folder; it must exist.
        wait: The seconds for which another process that has locked it is waited for; 0 by default.

    Raises:
        RunError: Another process has locked it.
        OSError: The folder cannot be written, or its file system has no locks.
    """
    try:
        return lock(path / LOCK, wait)
    except BlockingIOError:
        raise RunError(f"{path}: another process is using this run folder") from None


def is_place(name: str) -> bool:
    """Whether a setting, by its dotted name, only says where something is, and not what the run computes."""
    return any(name == place or name.startswith(f"{place}.") for place in PLACES)
