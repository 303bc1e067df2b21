"""What a run leaves in its folder when its rounds are over, and what it needs there to go on."""

from collections.abc import Mapping
from pathlib import Path

from fedrecon.evaluation._evaluation import Evaluation
from fedrecon.experiment.reporting import summary
from fedrecon.experiment.reporting.result import Result
from fedrecon.experiment.storage import run_folder as folders
from fedrecon.experiment.storage.digests import is_marked, mark_of, missing
from fedrecon.experiment.storage.metrics_log import METRICS, Records
from fedrecon.experiment.storage.run_folder import FILES, RunFolder
from fedrecon.experiment.training.vocabularies import vocabularies_of


def require_files(folder: RunFolder) -> None:
    """Holds a run with a checkpoint to have all files that it began with.

    Raises:
        RunError: One was deleted or damaged.
    """
    if folders.has_checkpoint(folder.path):
        vocabularies_of(folder.path)
        if not (folder.path / folders.PLAN).exists():
            raise missing(folder.path / folders.PLAN)


def write_report(folder: RunFolder, result: Result, title: str, *, over: bool) -> None:
    """Writes tables of clients, the numbers, and then the figures and the page.

    A run that was over before keeps its numbers and its page, which tell what it took.

    Args:
        folder: The run folder.
        result: What the run gave.
        title: Of the page and the figures.
        over: Whether the run went on from the checkpoint of its last round.
    """
    folder.check()
    saved = (_finished(folder) if over else None) or {}
    written = saved.get(FILES, {})
    files = {METRICS: result.records.mark}
    for name, evaluation in result.evaluations.items():
        path = folder.path / summary.clients_file(name)
        if path.name not in written or not is_marked(path, written[path.name]):
            summary.write_clients(path, evaluation)
        files[path.name] = mark_of(path)
    if not saved:
        folder.write(folders.RESULT, summary.dumps({**summary.result_values(result), FILES: files}))
    elif written and written != files:  # another machine has computed other digits
        folder.write(folders.RESULT, summary.dumps({**saved, FILES: files}))
    # After the numbers, which must not be lost where a figure cannot be drawn.
    figures = _write_figures(folder, result.records, result.evaluations, title)
    if not saved:
        folder.write(folders.SUMMARY, summary.summary_page(result, title, figures))


def _finished(folder: RunFolder) -> dict | None:
    """The numbers of a run that was finished before; None where it was not."""
    saved: dict | None = folder.read_json(folders.RESULT)
    return saved if saved is not None and saved["finished"] else None


def _write_figures(
    folder: RunFolder, records: Records, evaluations: Mapping[str, Evaluation], title: str
) -> list[Path]:
    from fedrecon.experiment.reporting import plots  # takes a second

    values = {name: evaluation.values() for name, evaluation in evaluations.items()}
    return plots.write(folder.path / folders.PLOTS, [plots.Curves(title, records, values)])
