"""Runs an experiment from its configuration to the last table on the screen."""

from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from rich.console import Console

from fedrecon._safe_text import counted
from fedrecon.experiment.config import Config
from fedrecon.experiment.console.progress import progress_for
from fedrecon.experiment.console.screen import Screen, rich_table, screen_of_output
from fedrecon.experiment.distributed.processes import ProcessGroup
from fedrecon.experiment.reporting import summary
from fedrecon.experiment.reporting.figure_process import FigureDrawer
from fedrecon.experiment.reporting.result import Result
from fedrecon.experiment.reporting.tables import size
from fedrecon.experiment.reporting.training_warnings import all_warnings
from fedrecon.experiment.settings.sections import flat
from fedrecon.experiment.storage.run_folder import PLOTS
from fedrecon.experiment.tracking.follower import Follower, follower
from fedrecon.experiment.training.build import spec_of, task_of
from fedrecon.experiment.training.run import run


def console() -> Console:
    """The console of a command; it does not wrap output to a file, and only the first process prints."""
    if not ProcessGroup.present().first:
        return Screen(quiet=True)
    return screen_of_output()


def run_experiment(
    config: Config,
    out: Path,
    screen: Console,
    started: float | None = None,
    figures: FigureDrawer | None = None,
) -> Result:
    """Runs an experiment, or resumes it from its last checkpoint.

    Args:
        config: The configuration of the experiment.
        out: The run folder, which is created where it does not exist.
        screen: The console that shows the progress.
        started: When the command began, in seconds of `time.monotonic`; None, the default, for now.
        figures: Draws the figures, see `run`; None, the default, to draw them in this process at the end.

    Raises:
        ValueError: The data, a setting or the run folder cannot be used.
    """
    screen.print(
        f"{config.name}: task {config.task}, {config.algorithm.name}, seed {config.seed}, folder {out}"
    )
    progress = progress_for(screen)
    followed = follow(config, out, progress.note) if ProcessGroup.present().first else None
    # Arguments that only Optax can check are checked here, before the data are read.
    config.algorithm.parts()
    task = task_of(config)
    spec = spec_of(config, task)
    screen.print("  ".join(f"{name} {counted(len(x), 'client')}" for name, x in task.sets().items()))
    if not spec.while_training() and spec.at_the_end():
        # Else a reader would look for metrics of evaluations in the lines about rounds.
        names = " and ".join(f"{name} clients" for name in spec.at_the_end())
        screen.print(f"Nothing is evaluated while training; at the end {names} are")
    with ExitStack() as stack:
        if followed is not None:
            stack.enter_context(followed)
        result = run(
            spec,
            out=out,
            progress=progress,
            listener=followed,
            started=started,
            title=config.name,
            notes=task.notes,
            figures=figures,
        )
        if followed is not None:
            followed.finished = not result.interrupted and not result.diverged
    return result


def follow(config: Config, out: Path, note: Callable[[str], None]) -> Follower | None:
    """Passes the numbers of a run on to the tracker of its configuration; None if that sets no tracker.

    Args:
        config: The configuration of the run.
        out: The run folder, where the tracker keeps what it needs after a resume.
        note: A function that is called with a line of text when the tracker fails.

    Raises:
        SettingError: The tracker's package is not installed.
    """
    settings = flat(config.model_dump(exclude={"tracking"}))
    return follower(config.tracking, out, f"{config.name}, seed {config.seed}", settings, note)


def show(result: Result, screen: Console) -> None:
    """Prints the table of a result, its costs, and the paths of its plot and summary."""
    values = summary.result_values(result)
    if result.interrupted:
        screen.print(f"Interrupted after round {result.rounds} of {result.asked}; all of it is saved.")
        screen.print(f"To go on: fedrecon resume {result.out}")
        return
    reason = summary.reason(result)
    if reason:
        screen.print(f"Parameters after round {result.selected_round}{reason}")
    screen.print(rich_table(summary.table(values)))
    for text in all_warnings(result):
        screen.print(f"Note: {text}.")
    if result.privacy is not None:
        screen.print(f"Privacy of each client: {result.privacy}")
    for name, text in result.notes.items():
        screen.print(f"{name}: {text}")
    seconds, sent = values["seconds"], values["bytes_per_client_and_round"]
    screen.print(
        f"{counted(result.rounds, 'round')} in {seconds['total']:.1f} s, "
        f"{seconds['compilation']:.1f} s to compile; "
        f"{size(sent['down'])} down and {size(sent['up'])} up per client and round; "
        f"{summary.describe_work(values)}; "
        f"peak memory {size(values['peak_memory_bytes'])}"
    )
    if result.out is not None:
        screen.print(f"Plot:    {result.out / PLOTS / 'progress.png'}")
        screen.print(f"Summary: {result.out / 'summary.md'}")
