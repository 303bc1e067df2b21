"""The steps that several commands on runs share: configurations, folders, processes, training."""

import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from fedrecon._safe_text import file_name, terminal
from fedrecon.errors import RunError, whole_number
from fedrecon.experiment import config as configs
from fedrecon.experiment.cli.options import Invocation
from fedrecon.experiment.config import Config
from fedrecon.experiment.distributed.processes import ALONE, ProcessGroup, join
from fedrecon.experiment.settings.sections import SettingError, parse_override
from fedrecon.experiment.settings.solvers import ended_schedules
from fedrecon.experiment.storage.compilation_cache import use_compilation_cache
from fedrecon.experiment.tasks._spec import task_spec

# They take JAX, which is loaded when a command computes.
if TYPE_CHECKING:
    from fedrecon.experiment.analysis.seeds import Ended
    from fedrecon.experiment.reporting.result import Result

# Exit statuses.
DIVERGED, INTERRUPTED = 4, 130


def begin(invocation: Invocation) -> ProcessGroup:
    """Prepares JAX for a command that computes.

    Returns:
        The processes of the run: this one alone, or with `--distributed` all that have joined.
    """
    use_compilation_cache()
    return join() if invocation.distributed else ALONE


def train(config: Config, out: Path, invocation: Invocation) -> int:
    """Trains, and prints the result.

    Args:
        config: The configuration of the experiment.
        out: The run folder; if it holds this run already, the run goes on.
        invocation: The call of the command line.

    Returns:
        The exit status.
    """
    begin(invocation)
    from fedrecon.experiment.reporting.figure_process import FigureProcess
    from fedrecon.experiment.training.run_experiment import console, run_experiment, show

    screen = console()
    # The table is on the screen before the figures are drawn.
    with FigureProcess() as figures:
        result = run_experiment(config, out, screen, invocation.started, figures)
        show(result, screen)
    return status_of(result)


def status_of(result: "Result | Ended") -> int:
    """The exit status of a run: 130 where it was interrupted, 4 where it diverged, else 0."""
    return INTERRUPTED if result.interrupted else DIVERGED if result.diverged else 0


def with_options(config: Config, data: str | None, seed: int | None = None) -> Config:
    """A configuration with the settings that have an option of their own, which wins over `--set`.

    Args:
        config: The configuration of the experiment.
        data: The value of the option `--data`; None if it was not given.
        seed: The value of the option `--seed`; None, the default, if it was not given.

    Raises:
        SettingError: The task reads no data, or the seed is out of its range; the message names the option.
    """
    if data is not None:
        if "path" not in type(config.data).model_fields:
            raise SettingError(
                f"--data: the task {config.task} reads no data; choose one that does by an experiment file, "
                f"or by --set task=movielens for ratings and --set task=next_word for texts"
            )
        config = configs.override(config, {"data": {"path": absolute(data, config)}}, "--data")
    return config if seed is None else configs.override(config, {"seed": seed}, "--seed")


def packaged_for(experiment: str | None, data: str | None, overrides: Sequence[str]) -> str:
    """Which packaged experiment runs where none is named: that of one's own ratings if there are some.

    Args:
        experiment: The value of the argument EXPERIMENT.
        data: The value of the option `--data`; None if it was not given.
        overrides: Settings that the command line changes; one that names a task chooses for itself.
    """
    names = [parse_override(text) for text in overrides]
    if experiment is not None or data is None or any("task" in name for name in names):
        return configs.DEFAULT
    columns = any("columns" in name["data"] for name in names if isinstance(name.get("data"), dict))
    return configs.RATINGS if columns or holds_ratings(Path(data)) else configs.DEFAULT


def holds_ratings(path: Path) -> bool:
    """Whether a file or folder holds ratings rather than texts, by the names of files and of their fields."""
    from fedrecon.data._client_file.file import is_client_file
    from fedrecon.data._clients import Clients
    from fedrecon.data._unpacking import strip_packing
    from fedrecon.datasets.text._load import LINES, SQLITE, holds_texts

    if not path.exists():
        # Only the name can tell which experiment's message about the missing file helps more.
        return not strip_packing(path.name.lower()).endswith((*LINES, *SQLITE))
    if is_client_file(path):
        return {"item", "rating"} <= (set(Clients.open(path).fields) if path.is_dir() else _names_in(path))
    return not holds_texts(path)


def _names_in(path: Path) -> set[str]:
    """The names of a client file's columns, of which nothing is unpacked."""
    import pyarrow as pa

    from fedrecon.errors import DataError

    try:
        return set(pa.ipc.open_file(pa.memory_map(str(path))).schema.names)
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path} is no client file, or it is cut short: {error}") from error


def tracked(config: Config, overrides: Sequence[str]) -> Config:
    """A run's configuration with the tracking that the command line names.

    Numbers are sent to no address that only the run folder names, since it may be somebody else's. What stays
    on this machine, and a server that the environment names, is kept.

    Args:
        config: The configuration of the run folder.
        overrides: Settings of tracking, as `--set` takes them.

    Raises:
        SettingError: A setting among `overrides` is none of tracking.
    """
    for text in overrides:
        if not text.strip().startswith("tracking."):
            raise SettingError(f"--set: of a run that goes on only tracking may change, got {text!r}")
    address = config.tracking.address
    if address is not None:
        config = configs.override(config, {"tracking": {"name": "none"}})
        if not overrides:
            print(
                terminal(
                    f"tracking: nothing is sent to {address}, which only the run folder names; --set "
                    "tracking.name=… and its settings on the command line do"
                )
            )
    return configs.with_overrides(config, overrides)


def reading(overrides: Sequence[str]) -> Sequence[str]:
    """The settings by which data that a run did not have are read, after a check that they are of the data.

    Raises:
        SettingError: A setting is none of the data, so that the run has fixed it.
    """
    for text in overrides:
        if not text.strip().startswith("data.") or text.strip().startswith("data.path"):
            raise SettingError(
                f"--set: of a run only how other data are read may change, such as data.columns.item=NAME, "
                f"got {text!r}"
            )
    return overrides


def with_rounds(run: str, config: Config, rounds: int) -> Config:
    """A run's configuration with more rounds, which its folder gets as well.

    Args:
        run: The path of the run folder.
        config: The configuration of the run.
        rounds: The number of rounds, those that are done included.

    Raises:
        SettingError: There are fewer rounds than the run had before, or something of the run was planned for
            as many as it had; the message names it.
        RunError: The folder is in use, or damaged.
    """
    planned = config.training.rounds
    whole_number("--rounds", rounds, planned, error=SettingError)
    if rounds > planned:
        if config.privacy.on:
            raise SettingError(
                f"--rounds: the noise of a private run is calibrated to its {planned:,} planned rounds "
                f"(section privacy), and more of them would release more than it promises"
            )
        for path, schedule, end in ended_schedules(config, planned, rounds):
            raise SettingError(
                f"--rounds must be at most {end:,}, where the schedule {path} ({schedule}) ends with a "
                f"learning rate of 0, got {rounds:,}: with a longer schedule it is another run, of its own "
                "folder"
            )
        from fedrecon.experiment.storage.extension import extend

        extend(Path(run), rounds)
    return configs.override(config, {"training": {"rounds": rounds}}, "--rounds")


def absolute(path: str | None, config: Config) -> str | None:
    """A path of data as an absolute path, which still holds when the run is resumed from another folder.

    The name of data that a task takes from an installed package stays as it is, unless there is such a file.
    """
    packaged = task_spec(config.task).packaged_data
    if path is None or (path in packaged and not Path(path).exists()):
        return path
    return os.path.abspath(os.path.expanduser(path))


def saved_config(run: str, data: str | None = None, code: Sequence[str] = ()) -> Config:
    """The configuration of a run folder.

    Args:
        run: The path of the run folder.
        data: The path of its data now; None, the default, for the path at which the run found them.
        code: Modules and functions that the command line names; by default none. The folder may be somebody
            else's, so that no other code that it names is imported.

    Raises:
        RunError: The folder is not that of a single run.
        SettingError: The folder names code that the command line does not name.
    """
    from fedrecon.experiment.analysis.runs import seed_folders
    from fedrecon.experiment.storage.run_folder import CONFIG, finish_extension

    finish_extension(Path(run))
    path = Path(run) / CONFIG
    if not path.is_file():
        if seed_folders(Path(run)):
            raise RunError(
                f"{run}: must be the folder of one run, this holds those of several seeds: name one of them, "
                f"or go on with all by the command that began them, with --seeds and --out {run}"
            )
        raise RunError(f"{run}: a run folder must have a {CONFIG}, this has none")
    return with_options(configs.load_saved(Path(run), code), data)


def fresh_folder(parent: Path, name: str) -> Path:
    """The path of a folder in `parent` that does not exist yet, named after the experiment and the time."""
    base = parent / f"{file_name(name)}-{time.strftime('%Y%m%d-%H%M%S')}"
    candidates = [base, *(base.with_name(f"{base.name}-{i}") for i in range(2, 100))]
    return next(path for path in candidates if not path.exists())
