"""The names of the files with the metrics of every client of a set."""

from pathlib import Path

from fedrecon import _safe_text as safe_text
from fedrecon.experiment.storage.metrics_log import SEEN, STANDARD_EVAL, name_of, place


def clients_file(name: str) -> str:
    """The name of the file with the metrics of every client of a set."""
    split, protocol = place(name)
    split = safe_text.file_name(split)
    return f"clients-{split}-{protocol}.parquet" if name.startswith(SEEN) else f"clients-{split}.parquet"


def evaluated_file(name: str) -> str:
    """The name of the file with the metrics of every client of a set, evaluated again after the run.

    It differs from that of the run's own file, which must stay: that one belongs to the run's `result.json`.
    """
    return f"evaluated-{clients_file(name)}"


def clients_of(file: Path) -> str:
    """The name of the set of clients of a file; the inverse of `clients_file`."""
    split, _, protocol = file.stem.removeprefix("clients-").rpartition(f"-{STANDARD_EVAL}")
    if split and not protocol:
        return name_of(safe_text.name_of_file(split), STANDARD_EVAL)
    return safe_text.name_of_file(file.stem.removeprefix("clients-"))
