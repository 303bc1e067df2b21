"""Warnings about a run: updates that were dropped or changed nothing, evaluations that measured nothing."""

from fedrecon.experiment.reporting.result import Result
from fedrecon.experiment.storage.metrics_log import Records


def all_warnings(result: Result, many: float = 0.1) -> list[str]:
    """Sentences about a run: of its clients, its updates and its evaluations.

    Args:
        result: The result of the run.
        many: The share of updates without a change above which there is a warning; 0.1 by default.
    """
    problems = [text for name, x in result.evaluations.items() for text in x.problems(name)]
    diverged = [] if result.divergence is None else [f"the run diverged: {result.divergence}"]
    return [*result.warnings, *training_warnings(result.records, many), *problems, *diverged]


def training_warnings(records: Records, many: float = 0.1) -> list[str]:
    """Sentences about updates that were dropped, or that changed nothing; none if all is well.

    Args:
        records: The records of the run.
        many: The share of updates without a change above which there is a warning; 0.1 by default, since most
            data have a few clients that are too small to have a query example.
    """
    total = sum(records.series("train", "clients", "total").values())
    sentences = []
    dropped = {r: x for r, x in records.series("train", "dropped", "total").items() if x}
    if dropped:
        first, last = min(dropped), max(dropped)
        sentences.append(
            f"{sum(dropped.values()):,.0f} of {total:,.0f} updates, of rounds {first} to {last}, were "
            f"dropped as not finite: training diverged at these clients; a smaller learning rate may help"
        )
    empty = sum(records.series("train", "empty", "total").values())
    if empty > many * total:
        sentences.append(
            f"{empty:,.0f} of {total:,.0f} updates changed nothing: their clients had no query example to "
            f"learn from; a smaller batch size, or another split, may leave them some"
        )
    return sentences
