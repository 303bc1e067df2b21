"""Processes on this machine that end with the process that started them."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType

from fedrecon.errors import RunError

_MOST_STARTS = 3
# On Linux a small program asks the system to end it when its parent is killed (prctl with PR_SET_PDEATHSIG,
# 1), and then replaces itself by the command; elsewhere the command would stay after a kill. The request is
# not made between fork and exec (`preexec_fn`): this process has the threads of JAX, and a child that forked
# while one of them held a lock may wait for ever. What Flower's processes start watches its parent by itself.
_CODE = "import ctypes, os, sys; ctypes.CDLL(None).prctl(1, 15); os.execvp(sys.argv[1], sys.argv[1:])"
_ENDING_WITH_PARENT = [sys.executable, "-S", "-c", _CODE] if sys.platform == "linux" else []
# Seconds between the request to end and the end by force.
_GRACE = 5.0


class Processes:
    """Processes that end together, with all processes that they have started.

    Args:
        logs: The folder of the log files, to which the output of each process is appended.
        environment: Environment variables of the processes, added to those of this process.
    """

    def __init__(self, logs: Path, environment: Mapping[str, str]):
        self._logs, self._environment = logs, {**os.environ, **environment}
        self._all: dict[str, subprocess.Popen[bytes]] = {}
        self._commands: dict[str, list[str]] = {}
        self._again = Counter[str]()
        logs.mkdir(parents=True, exist_ok=True)

    def __enter__(self) -> "Processes":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.end()

    def start(self, name: str, command: Sequence[str]) -> None:
        """Starts a process.

        Args:
            name: The name of the process, and of its log.
            command: The program and its arguments.
        """
        with open(self.log(name), "ab") as log:
            self._all[name] = subprocess.Popen(
                [*_ENDING_WITH_PARENT, *command],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=self._environment,
            )
        self._commands[name] = list(command)

    def start_again(self, name: str, *, always: bool = False) -> None:
        """Starts a process that has ended once more, with the same command.

        Args:
            name: The name of the process.
            always: Whether it may end as often as it likes; False by default.

        Raises:
            RunError: The process has ended more than three times, and `always` is false.
        """
        self._again[name] += 1
        if self._again[name] > _MOST_STARTS and not always:
            raise RunError(f"{self.log(name)}: the process {name!r} has ended {self._again[name]} times")
        self.start(name, self._commands[name])

    def status(self, name: str) -> int | None:
        """The exit status of a process; None while it runs."""
        return self._all[name].poll()

    def log(self, name: str) -> Path:
        """The file that gets what a process prints."""
        return self._logs / f"{name}.log"

    def pid(self, name: str) -> int:
        """The id of a process."""
        return self._all[name].pid

    def find_ended(self) -> list[str]:
        """Names of the processes that have ended without a request."""
        return [name for name, process in self._all.items() if process.poll() is not None]

    def end(self) -> None:
        """Ends all processes and their descendants: by SIGTERM, and after five seconds by SIGKILL."""
        # Some of those are in sessions of their own, which a signal to a process group would not reach.
        family = descendants([process.pid for process in self._all.values()])
        for ask in (signal.SIGTERM, signal.SIGKILL):
            for pid in family:
                _signal(pid, ask)
            end = time.monotonic() + _GRACE
            while time.monotonic() < end and any(map(self._lives, family)):
                time.sleep(0.05)
        self._all.clear()

    def _lives(self, pid: int) -> bool:
        # A child that has ended stays as a zombie, with its id, until it is polled.
        children = [process for process in self._all.values() if process.pid == pid]
        return children[0].poll() is None if children else lives(pid)


@contextmanager
def ending_on_request() -> Iterator[None]:
    """Turns the request to end, which managers of services send, into an exception, so that a block ends as
    after an error: with all processes that it has started.
    """

    def end(number: int, frame: object) -> None:
        raise SystemExit(128 + number)

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def descendants(pids: Sequence[int]) -> list[int]:
    """The ids of processes and of all their living descendants."""
    listed = subprocess.run(["ps", "-A", "-o", "pid=,ppid="], capture_output=True, text=True, check=True)
    parents = {int(pid): int(parent) for pid, parent in map(str.split, listed.stdout.splitlines())}
    family = list(pids)
    # The list grows while the loop runs over it, so that children of children are added, too.
    for pid in family:
        family += [child for child, parent in parents.items() if parent == pid and child not in family]
    return family


def _signal(pid: int, number: int) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return


def lives(pid: int) -> bool:
    """Whether a process of this id runs; one that has ended but was not waited for does not."""
    try:
        os.kill(pid, 0)
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (ProcessLookupError, PermissionError):
        return False
    # Either there is no /proc here, as on macOS, or the process has ended since.
    except FileNotFoundError:
        return not Path("/proc/self/stat").exists()
    return state != "Z"


def free_ports(count: int) -> list[int]:
    """Ports of the loopback interface that are free now."""
    # All are held open until the last one is chosen, since the system may give a closed one a second time.
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports: list[int] = [s.getsockname()[1] for s in sockets]
    for s in sockets:
        s.close()
    return ports
