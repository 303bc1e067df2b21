"""What lets several processes, on one host or on several, work on the study in one folder.

A lock of the operating system orders them: only its holder changes the study. It ends with its process, so
that a kill blocks nobody, and a line of the journal that a kill tore is cut off by the next holder. Between
hosts it holds where the file system's own locks do.
"""

import os
import secrets
import socket
from pathlib import Path
from types import TracebackType
from typing import Any

from fedrecon._files import lock
from fedrecon.errors import RunError
from fedrecon.experiment.storage.run_folder import LOCK

JOURNAL, WORKERS = "journal.log", "workers"
# Seconds for which a process waits for its turn.
_PATIENCE = 300.0


class Turn:
    """The right of one process at a time to change a study: a context manager, and a lock of its journal.

    A process that has it may enter it again.

    Args:
        folder: The folder of the sweep, which exists.
    """

    def __init__(self, folder: Path):
        # Imported here as in `_files`, since the import takes 30 ms.
        from filelock import FileLock

        self._lock = FileLock(
            folder / LOCK,
            timeout=_PATIENCE,
            thread_local=False,
            fallback_to_soft=False,
            preserve_lock_file=True,
        )
        self._journal = folder / JOURNAL

    def acquire(self) -> bool:
        """Waits for the turn.

        Raises:
            RunError: Another process keeps it for minutes, though a turn takes moments.
        """
        from filelock import Timeout

        try:
            self._lock.acquire()
        except Timeout:
            raise RunError(
                f"{self._lock.lock_file}: another process of the sweep has held this lock for {_PATIENCE:g} "
                "seconds; if it is stopped, end it, and run the same command again"
            ) from None
        try:
            if self._lock.lock_counter == 1:
                self._mend()
        except BaseException:
            self._lock.release()  # else no process could go on
            raise
        return True

    def release(self) -> None:
        """Ends the turn, once it was released as often as it was acquired."""
        self._lock.release()

    def __enter__(self) -> "Turn":
        self.acquire()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()

    def _mend(self) -> None:
        """Cuts off a line of the journal that a killed process did not write to its end."""
        if not self._journal.exists() or not self._journal.stat().st_size:
            return
        with open(self._journal, "r+b") as file:
            file.seek(-1, os.SEEK_END)
            if file.read(1) == b"\n":
                return
            file.seek(0)
            file.truncate(file.read().rfind(b"\n") + 1)


class Worker:
    """A process that runs trials, which others can ask for being alive.

    Args:
        folder: The folder of the sweep.
        name: The name of the process, as of `worker_name`.
    """

    def __init__(self, folder: Path, name: str):
        self.name, self._folder = name, folder / WORKERS
        self._folder.mkdir(exist_ok=True)
        for file in self._folder.glob("*.lock"):
            self.alive(file.stem)  # removes those of the dead
        self._lock: Any = lock(self._file(name))

    def alive(self, name: str | None) -> bool:
        """Whether the process of that name is this one or runs; none has no name."""
        if name is None or not self._file(name).exists():
            return False
        if name == self.name:
            return True
        try:
            lock(self._file(name)).release()
        except BlockingIOError:
            return True
        self._file(name).unlink(missing_ok=True)  # names are used once
        return False

    def close(self) -> None:
        """Says that the process runs no trial any more."""
        self._lock.release()
        self._file(self.name).unlink(missing_ok=True)

    def _file(self, name: str) -> Path:
        return self._folder / f"{name}.lock"


def worker_name() -> str:
    """A name for a process that no other one has, on any host."""
    return f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}"


def storage_of(folder: Path, turn: Turn) -> Any:
    """Optuna's storage of a sweep.

    Args:
        folder: The folder of the sweep.
        turn: The lock under which its journal is written.
    """
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    # Optuna's own locks are files that a kill leaves behind, and that others break after half a minute.
    journal: Any = turn
    return JournalStorage(JournalFileBackend(str(folder / JOURNAL), journal))
