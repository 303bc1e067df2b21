"""The secret keys of private runs, and a record of what was released with each.

A key lies in a file of its own, readable by its owner alone, outside the run folder: whoever has it can take
the noise off what was released. It is removed when the run is finished.
"""

import os
import secrets
from pathlib import Path
from typing import Any

from fedrecon._files import being_written, make_folder, rename, sync, sync_folder
from fedrecon.errors import RunError
from fedrecon.experiment.storage.run_folder import RunFolder
from fedrecon.privacy._secret import SECRET_BYTES, Secret

FOLDER_VARIABLE = "FEDRECON_KEYS"
RELEASES = "releases.json"
_SUFFIX = ".noise-key"


class NoiseKeys:
    """The keys of a run: the present one, and those that it replaced because they were lost.

    The run folder's `releases.json` has for each key a name, the round after which it was made and the last
    round that was released with it. Another key gives other noise: rounds that were released before and are
    computed again with it are released twice.

    Args:
        folder: The run folder; None for a run that keeps nothing on the disk.
        done: The number of rounds done at the checkpoint from which the run continues.
        left: Whether there are rounds after that checkpoint, True by default; without any, no key is made.

    Raises:
        RunError: The record was changed, or a key's file cannot be read or written.
    """

    def __init__(self, folder: RunFolder | None, done: int, left: bool = True):
        self._folder = folder
        saved = None if folder is None else folder.read_json(RELEASES)
        self._keys: list[dict[str, Any]] = [] if saved is None else saved["keys"]
        held = self._read() if self._keys else None
        self._secret = secrets.token_bytes(SECRET_BYTES) if held is None else held
        if held is None and left:
            self._add(done)

    def secret(self, context: bytes) -> Secret:
        """The secret from which noise is drawn.

        Args:
            context: Bytes that the noise depends on beside the key, so that other runs have other noise: the
                run's fingerprint.
        """
        return Secret(self._secret, context, max(0, len(self._keys) - 1))

    def record_release(self, done: int) -> None:
        """Records the release of a round on the disk, before anyone can see the round.

        Args:
            done: The number of rounds done, the released one included.
        """
        if not self._keys:
            return
        self._keys[-1]["released"] = max(done, self._keys[-1]["released"])
        self._write()

    def repetitions(self) -> int:
        """The number of rounds that were released with a lost key, and computed again with another one."""
        pairs = zip(self._keys, self._keys[1:], strict=False)
        return sum(max(0, lost["released"] - new["after"]) for lost, new in pairs)

    @property
    def was_lost(self) -> bool:
        """Whether a key was lost with which something had been released."""
        return len(self._keys) > 1

    def remove(self) -> None:
        """Removes the file of the key, which is not needed any more when the run is finished."""
        path = self._path()
        if path is not None and path.exists():
            path.unlink()
            sync_folder(path.parent)

    def _add(self, done: int) -> None:
        # A key with which nothing was released keeps its entry: a kill may have come before its file was
        # written, and a new secret under the same name does no harm.
        if not self._keys or self._keys[-1]["released"] > self._keys[-1]["after"]:
            # The record, which names the key's file, is written before the file: in the other order a kill
            # between the two would leave a secret to which nothing refers, and which nothing removes.
            self._keys.append({"key": secrets.token_hex(8), "after": done, "released": done})
            self._write()
        path = self._path()
        if path is None:
            return
        temporary = being_written(path)
        try:
            make_folder(path.parent)
            temporary.unlink(missing_ok=True)
            # Created with its mode: a file that is narrowed later could be opened by others before that.
            with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
                file.write(self._secret)
                sync(file)
            rename(temporary, path)
        except OSError as error:
            raise RunError(
                f"{path}: the noise key must be written beside the run folder, or in the folder that "
                f"${FOLDER_VARIABLE} names: {error.strerror}"
            ) from None

    def _read(self) -> bytes | None:
        path = self._path()
        if path is None or not path.exists():
            return None
        try:
            key = path.read_bytes()
        except OSError as error:
            raise RunError(f"{path}: the run's noise key cannot be read: {error.strerror}") from None
        if len(key) != SECRET_BYTES:
            raise RunError(f"{path}: a noise key must have {SECRET_BYTES} bytes, got {len(key)}")
        return key

    def _path(self) -> Path | None:
        if self._folder is None or not self._keys:
            return None
        given = os.environ.get(FOLDER_VARIABLE)
        folder = Path(given) if given else self._folder.path.absolute().parent
        return folder / f"{self._keys[-1]['key']}{_SUFFIX}"

    def _write(self) -> None:
        if self._folder is not None:
            self._folder.write_json(RELEASES, {"keys": self._keys})
