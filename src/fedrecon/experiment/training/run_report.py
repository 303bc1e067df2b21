"""Writes the files at the end of a run, and checks those that a resumed run needs."""

from fedrecon.experiment.reporting import summary
from fedrecon.experiment.reporting.client_files import clients_file
from fedrecon.experiment.reporting.figure_data import Curves, figure_files
from fedrecon.experiment.reporting.figure_process import FigureDrawer
from fedrecon.experiment.reporting.result import Result
from fedrecon.experiment.storage import run_folder as folders
from fedrecon.experiment.storage.digests import is_marked, mark_of, missing
from fedrecon.experiment.storage.metrics_log import METRICS
from fedrecon.experiment.storage.run_folder import FILES, RunFolder
from fedrecon.experiment.training.vocabularies import vocabularies_of


def require_files(folder: RunFolder) -> None:
    """Checks that the folder of a run with a checkpoint has all files that were written at its start.

    Raises:
        RunError: A file was deleted or damaged.
    """
    if folders.has_checkpoint(folder.path):
        vocabularies_of(folder.path)
        if not (folder.path / folders.PLAN).exists():
            raise missing(folder.path / folders.PLAN)


def write_report(folder: RunFolder, result: Result, title: str, figures: FigureDrawer, *, over: bool) -> None:
    """Writes the clients' metrics, `result.json`, `summary.md`, and then the figures.

    A run that was over before keeps its `result.json` and `summary.md`, which tell what it took.

    Args:
        folder: The run folder, to which the files are written.
        result: The result of the run.
        title: The title of the summary and of the figures.
        figures: Draws the figures, maybe after this returns.
        over: Whether the run was resumed from the checkpoint of its last round, so that no round was left.
    """
    folder.check()
    saved = (_earlier_result(folder) if over else None) or {}
    written = saved.get(FILES, {})
    files = {METRICS: result.records.mark}
    for name, evaluation in result.evaluations.items():
        path = folder.path / clients_file(name)
        if path.name not in written or not is_marked(path, written[path.name]):
            summary.write_clients(path, evaluation)
        files[path.name] = mark_of(path)
    if not saved:
        folder.write(folders.RESULT, summary.dumps({**summary.result_values(result), FILES: files}))
    elif written and written != files:
        # The evaluations were made again on another machine, whose numbers differ in the last digits.
        folder.write(folders.RESULT, summary.dumps({**saved, FILES: files}))
    values = {name: evaluation.values() for name, evaluation in result.evaluations.items()}
    curves, plots = Curves(title, result.records, values), folder.path / folders.PLOTS
    # A kill after `result.json` was written leaves a run without its summary.
    if not saved or not (folder.path / folders.SUMMARY).exists():
        folder.write(folders.SUMMARY, summary.summary_page(result, title, figure_files(plots, [curves])))
    # The figures come after the numbers, which must not be lost if a figure cannot be drawn.
    figures.draw(plots, curves)


def _earlier_result(folder: RunFolder) -> dict | None:
    """The content of `result.json` of a run that was finished before; None if it was not."""
    saved: dict | None = folder.read_json(folders.RESULT)
    return saved if saved is not None and saved["finished"] else None
