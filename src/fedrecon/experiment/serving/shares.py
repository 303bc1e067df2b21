"""Several processes that fill one output: which parts each makes, and the locks that keep them apart.

A share's lock is held as long as its process works. The lock of the folder is held only while somebody reads
or writes what the folder is for, or joins the parts. The operating system frees both when a process ends,
however that ends.
"""

import json
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from fedrecon._files import lock, write_atomically
from fedrecon.errors import RunError
from fedrecon.experiment.settings.sections import SettingError
from fedrecon.experiment.storage.run_folder import LOCK

if TYPE_CHECKING:
    from filelock import BaseFileLock

_MANIFEST = "manifest.json"
_POLL = 0.1  # seconds between two looks at a lock that is held


@dataclass(frozen=True)
class Share:
    """One of several shares of an output's parts.

    Attributes:
        number: Which share this is, from 1 to `count`.
        count: The number of shares.
    """

    number: int
    count: int

    @staticmethod
    def parse(text: str) -> "Share":
        """The share that a text such as `"2/4"` names.

        Raises:
            SettingError: It names none.
        """
        match = re.fullmatch(r"([0-9]{1,9})/([0-9]{1,9})", text)
        share = Share(*map(int, match.groups())) if match else None
        if share is None or not 1 <= share.number <= share.count:
            raise SettingError(
                f"--share must be I/N with I from 1 to N, such as 1/4 for the first of four, got {text!r}"
            )
        return share

    def parts(self, count: int) -> range:
        """The numbers of the parts that the share makes, of `count` parts."""
        # Every Nth, so that shares take as long where clients are sorted by their number of examples.
        return range(self.number - 1, count, self.count)

    def __str__(self) -> str:
        return f"{self.number}/{self.count}"


WHOLE = Share(1, 1)


class SharedFolder:
    """The folder of an output's parts, which several processes fill.

    Args:
        path: The folder.
        is_done: Whether the output is there, so that nobody needs the folder any more.
    """

    def __init__(self, path: Path, is_done: Callable[[], bool]):
        self.path, self._is_done = path, is_done
        self._held: BaseFileLock | None = None

    @contextmanager
    def alone(self) -> Iterator[bool]:
        """Waits until no other process reads or writes what the folder is for, or joins its parts.

        Yields:
            False, without a lock, where the output is there by then.
        """
        while True:
            if self._is_done():
                yield False
                return
            try:
                held = lock(self.path / LOCK)
                break
            except BlockingIOError:
                time.sleep(_POLL)
            except FileNotFoundError:  # who joined the parts removes the folder
                if not self._is_done():
                    raise
        try:
            yield not self._is_done()
        finally:
            held.release()

    def busy(self) -> list[str]:
        """The shares, such as `"2/4"`, that other processes, or other calls in this one, are making."""
        busy = []
        for path in sorted(self.path.glob("share-*-of-*.lock")):
            try:
                lock(path).release()
            except BlockingIOError:
                busy.append(path.stem.removeprefix("share-").replace("-of-", "/"))
        return busy

    def take(self, share: Share, busy: list[str]) -> None:
        """Takes a share, which nobody else can then take until `release`; needs `alone`.

        Args:
            share: The share.
            busy: The shares that others are making.

        Raises:
            RunError: Somebody is making that share, or others of another number of shares.
        """
        others = self.count_of_shares()
        if str(share) in busy or (busy and others != share.count):
            now = "" if busy == ["1/1"] else f": share {', '.join(busy)} is being made"
            asked = "" if share == WHOLE else f" (--share {share})"
            raise RunError(f"{self.path}: another process is using this output{now}{asked}")
        if others != share.count:
            write_atomically(self.manifest, json.dumps({"shares": share.count}) + "\n")
        self._held = lock(self.path / f"share-{share.number}-of-{share.count}.lock")

    def count_of_shares(self) -> int:
        """The number of shares in which the parts are made now, or were made last; 0 before."""
        path = self.manifest
        if not path.exists():
            return 0
        try:
            count = json.loads(path.read_text(encoding="utf-8"))["shares"]
        except (ValueError, KeyError, TypeError):
            count = None
        if not isinstance(count, int) or count < 1:
            raise RunError(f"{path}: must hold the number of shares, and is damaged; remove it")
        return count

    @property
    def manifest(self) -> Path:
        """The file that holds the number of shares."""
        return self.path / _MANIFEST

    def release(self) -> None:
        """Frees the share, so that other processes can take it."""
        if self._held is not None:
            self._held.release()
            self._held = None
