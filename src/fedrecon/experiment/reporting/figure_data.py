"""What the figures of runs show, decided without Matplotlib, whose import takes a second."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from fedrecon.evaluation._metric_names import PREFERRED, shown_first
from fedrecon.experiment.storage.metrics_log import PROTOCOLS, Records, name_of, place

PROGRESS, CLIENTS = "progress", "clients"
SUFFIXES = ("png", "svg")


class Curves(NamedTuple):
    """A run to draw.

    Attributes:
        label: The name of the run in the figure; runs of one name, such as several seeds, share a colour.
        records: The numbers of the run by round.
        clients: The values of each metric, one per client, by the name of the set of clients.
    """

    label: str
    records: Records
    clients: Mapping[str, Mapping[str, Any]]


def figure_files(folder: Path, runs: Sequence[Curves]) -> list[Path]:
    """The paths of the files that `plots.write` makes of runs, relative to the folder that `folder` is in.

    Args:
        folder: The folder of the figures.
        runs: One run, or several to compare.
    """
    shown = {PROGRESS: progress_metrics(runs), CLIENTS: clients_metrics(runs)}
    return [
        Path(folder.name) / f"{name}.{suffix}"
        for name, metrics in shown.items()
        if metrics
        for suffix in SUFFIXES
    ]


def progress_metrics(runs: Sequence[Curves]) -> list[str]:
    """The metrics by round that a figure shows; none before the first evaluation."""
    where = place(split_to_plot(runs))
    return metrics_to_plot(
        {
            row.metric
            for run in runs
            for row in run.records
            if (row.split, row.protocol) == where and row.weighting == "examples"
        }
    )


def clients_metrics(runs: Sequence[Curves]) -> list[str]:
    """The metrics whose distribution over the clients a figure shows; none if no client was evaluated."""
    name = clients_to_plot(runs)
    return metrics_to_plot({metric for run in runs for metric in run.clients.get(name, ())})


def clients_to_plot(runs: Sequence[Curves]) -> str:
    """The set of clients whose metrics' distribution is shown: those of the test, if there are any."""
    tested = (name for name in ("test", "seen test") if any(name in run.clients for run in runs))
    return next(tested, None) or split_to_plot(runs)


def split_to_plot(runs: Sequence[Curves]) -> str:
    """The clients that are evaluated while training: `"validation"`, or what the runs call them."""
    names = dict.fromkeys(
        name_of(r.split, r.protocol) for run in runs for r in run.records if r.protocol in PROTOCOLS
    )
    return next((n for n in ("validation", *names) if n in names), "validation")


def metrics_to_plot(names: set[str]) -> list[str]:
    """At most two of the metrics: those that the table of metrics prefers, else the first in its order."""
    ordered = shown_first(sorted(names))
    return ([m for m in ordered if m in PREFERRED] or ordered)[:2]
