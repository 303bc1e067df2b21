"""Personalises all clients of some data by the processes of a Ray cluster, each of which makes a share.

Every process is an actor with one core. What holds for shares holds here: parts are on the disk whole or not
at all, a lock keeps two processes from making the same share, and another run, other data or other options
are refused. So a process that dies is replaced by another one that makes its missing parts.
"""

import os
import platform
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console

from fedrecon.errors import RunError
from fedrecon.experiment.serving.shares import Share
from fedrecon.experiment.serving.wanted import Wanted
from fedrecon.experiment.settings.sections import SettingError

# How often a process may die without a part made before the whole is given up.
_MOST_DEATHS = 3
# What decides the last digits of results beside the machine.
_PACKAGES = ("fedrecon", "jax", "jaxlib", "numpy")


def _versions() -> dict[str, str]:
    return {name: version(name) for name in _PACKAGES}


@dataclass(frozen=True)
class Request:
    """What the processes are to do.

    Attributes:
        run: The absolute path of the run folder, which all hosts see.
        data: The path of the clients, likewise.
        out: The path of the file, likewise.
        wanted: The options, which decide what is written of each client.
        reading: Settings by which the data are read where they differ from the run's.
        code: Modules and functions that the run names and that may run.
        versions: The versions of the packages that decide the last digits of results.
    """

    run: str
    data: str
    out: str
    wanted: Wanted
    reading: tuple[str, ...] = ()
    code: tuple[str, ...] = ()
    versions: dict[str, str] = field(default_factory=_versions)


class Made(NamedTuple):
    """What a process did.

    Attributes:
        process: The number of its process in the operating system.
        text: The lines that the share printed, as the command prints them for its user.
    """

    process: int
    text: str


class Worker:
    """A process of the cluster."""

    def make(self, request: Request, share: Share) -> Made:
        """Makes a share of the file.

        Raises:
            RunError: This process has other versions of the packages that decide the results' last digits.
            ValueError: As for `personalize_run`.
        """
        here = _versions()
        for name, there in request.versions.items():
            if here[name] != there:
                raise RunError(
                    f"all hosts must have the same {name}: {platform.node()} has {here[name]}, the host of "
                    f"the command {there}"
                )
        import io

        from fedrecon.experiment.config import load_saved
        from fedrecon.experiment.console.screen import Screen
        from fedrecon.experiment.serving.personalize import personalize_run

        printed = io.StringIO()
        screen = Screen(file=printed, soft_wrap=True, highlight=False)
        run = Path(request.run)
        config = load_saved(run, request.code)
        out = Path(request.out)
        personalize_run(run, config, request.data, out, screen, request.wanted, request.reading, share, 1)
        return Made(os.getpid(), printed.getvalue())


def personalize_on_ray(
    request: Request, screen: Console, address: str | None = None, workers: int | None = None
) -> None:
    """Personalises all clients of some data on a Ray cluster; the file is that of one process.

    Args:
        request: What is to be done; its paths must be seen by all hosts of the cluster.
        screen: The console that shows which shares are made.
        address: The address of a cluster, as `ray.init` takes it, such as `"auto"`; None, the default, starts
            one on this host, and ends it.
        workers: The number of processes, each with a core; None, the default, for one for each core that the
            cluster has.

    Raises:
        RunError: Processes die without making a part; or as for `personalize_run`.
        SettingError: Ray is not installed, there is no such cluster, or it has no core.
    """
    ray = _ray()
    try:
        ray.init(address, include_dashboard=False if address is None else None, log_to_driver=False)
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise SettingError(f"--ray must name a cluster of Ray that runs, got {address!r}: {error}") from None
    try:
        cores = int(ray.cluster_resources().get("CPU", 0))
        count = cores if workers is None else workers
        if not 1 <= count <= cores:
            raise SettingError(f"--workers must be from 1 to the {cores} cores of the cluster, got {count}")
        _make(ray, request, screen, count)
    finally:
        ray.shutdown()


def _make(ray: Any, request: Request, screen: Console, count: int) -> None:
    # One thread: XLA makes as many as it finds cores, unless it is told how many there are.
    settings = {"num_cpus": 1, "max_restarts": 0, "runtime_env": {"env_vars": {"NPROC": "1"}}}
    actor = ray.remote(**settings)(Worker)
    actors: dict[Any, Any] = {}
    shares: dict[Any, Share] = {}
    deaths = dict.fromkeys(range(1, count + 1), 0)
    parts: dict[int, int] = {}

    def start(number: int) -> None:
        share, worker = Share(number, count), actor.remote()
        task = worker.make.remote(request, share)
        actors[task], shares[task] = worker, share
        parts[number] = _parts_of(request, share)

    screen.print(f"Ray: {count:,} processes, each with a core")
    for number in range(1, count + 1):
        start(number)
    while shares:
        (task,), _ = ray.wait(list(shares), num_returns=1)
        share, worker = shares.pop(task), actors.pop(task)
        try:
            made = ray.get(task)
        except ray.exceptions.RayActorError as error:
            is_stuck = _parts_of(request, share) == parts[share.number]
            deaths[share.number] = deaths[share.number] + 1 if is_stuck else 1
            if deaths[share.number] >= _MOST_DEATHS:
                raise RunError(
                    f"{request.out}: the process of share {share} died {_MOST_DEATHS} times without making a "
                    f"part: {error}"
                ) from None
            screen.print(f"The process of share {share} died; another one goes on")
            start(share.number)
            continue
        except ray.exceptions.RayTaskError as error:
            if isinstance(error.cause, ValueError):
                raise error.cause from None
            raise
        screen.print(f"Share {share}, process {made.process}: {made.text.strip().splitlines()[-1]}")
        ray.kill(worker)  # which frees its memory for those that are left


def _parts_of(request: Request, share: Share) -> int:
    """How many parts of a share are on the disk, as far as this host sees them."""
    out = Path(request.out)
    folder = out.with_name(f".{out.name}.parts")
    numbers = [int(path.stem) for path in folder.glob("[0-9]*.parquet")]
    return sum(number % share.count == share.number - 1 for number in numbers)


def _ray() -> Any:
    try:
        import ray
        import ray.exceptions
    except ImportError:
        raise SettingError("--ray needs the package ray: pip install 'fedrecon[ray]'") from None
    return ray
