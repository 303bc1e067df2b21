"""Commands of a checkout of the repository, and what each costs as a process from start to end."""

import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

HERE = Path(__file__).resolve().parents[1]
_LAST = 2_000  # characters of a failed command's output that its error shows
_ORIGINS = "import benchmarks, fedrecon; print(benchmarks.__file__); print(fedrecon.__file__)"


class NotACheckoutError(ValueError):
    """A folder is not a checkout of this repository whose commands can run."""


class Usage(NamedTuple):
    """What a process used from its start to its end, its own children included.

    Attributes:
        wall: Wall time, in seconds.
        cpu: User and system time of all threads, in seconds.
        memory: The largest resident memory of one process among it and its children, in megabytes.
        printed: Its standard output.
    """

    wall: float
    cpu: float
    memory: float
    printed: str


class Checkout:
    """A checkout of this repository whose commands run on its own code and with caches of their own.

    Attributes:
        commands: The number of commands that were run so far.

    Args:
        root: The checkout's folder, which holds `src/fedrecon` and `benchmarks`.
        scratch: A folder for its caches and for what its commands write; it is made where it is missing.

    Raises:
        NotACheckoutError: `root` does not hold these folders, or Python imports the packages from elsewhere.
    """

    def __init__(self, root: Path, scratch: Path):
        self.root, self.scratch = root.resolve(), scratch
        self.commands = 0
        for part in ("src/fedrecon/__init__.py", "benchmarks/__main__.py"):
            if not (self.root / part).is_file():
                raise NotACheckoutError(
                    f"WORKTREE must be a checkout of this repository with src/fedrecon and benchmarks, "
                    f"got {str(root)!r}, which has no {part}"
                )
        scratch.mkdir(parents=True, exist_ok=True)
        # An installed package that came first would compare a checkout with itself, without a word.
        for origin in self.run(["-c", _ORIGINS]).printed.splitlines():
            if not Path(origin).resolve().is_relative_to(self.root):
                raise NotACheckoutError(
                    f"WORKTREE {str(root)!r}: Python imports {origin} in place of its files"
                )

    def run(self, arguments: Sequence[str]) -> Usage:
        """Runs this Python with `arguments` in the checkout and waits for its end.

        Raises:
            RuntimeError: The command failed; the message holds the end of what it printed.
        """
        self.commands += 1
        # Programs that the user has compiled before must not spare one side its work.
        environment = {k: v for k, v in os.environ.items() if k != "JAX_COMPILATION_CACHE_DIR"}
        environment["PYTHONPATH"] = os.pathsep.join([str(self.root / "src"), str(self.root)])
        environment["XDG_CACHE_HOME"] = str(self.scratch / "cache")
        # An installed package has its modules' byte code; where Python is told to write none, every run would
        # compile them again, and longer docstrings would take longer. The first run, to warm up, writes it.
        environment.pop("PYTHONDONTWRITEBYTECODE", None)
        environment["PYTHONPYCACHEPREFIX"] = str(self.scratch / "bytecode")
        # Files instead of pipes: nobody has to read while the process runs.
        printed, errors = self.scratch / "stdout", self.scratch / "stderr"
        with printed.open("wb") as out, errors.open("wb") as err:
            start = time.perf_counter()
            process = subprocess.Popen(
                [sys.executable, *arguments],
                cwd=self.root,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
            )
            try:
                # wait4 answers for this one process; RUSAGE_CHILDREN would keep the largest memory so far.
                _, status, used = os.wait4(process.pid, 0)
            except BaseException:
                process.kill()
                process.wait()
                raise
            wall = time.perf_counter() - start
        process.returncode = os.waitstatus_to_exitcode(status)
        text = printed.read_text(encoding="utf-8", errors="replace")
        if process.returncode != 0:
            both = f"{text}\n{errors.read_text(encoding='utf-8', errors='replace')}".strip()
            command = " ".join(["python", *arguments])
            raise RuntimeError(f"in {self.root}: {command} ended with {process.returncode}: {both[-_LAST:]}")
        bytes_per_unit = 1 if sys.platform == "darwin" else 1024
        memory = used.ru_maxrss * bytes_per_unit / 1e6
        return Usage(wall, used.ru_utime + used.ru_stime, memory, text)
