"""Figures of runs: their metrics by round, and the distribution of the metrics over the clients."""

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from fedrecon import _safe_text as safe_text
from fedrecon._files import write_atomically
from fedrecon.evaluation._metric_names import label_of
from fedrecon.experiment.reporting.figure_data import (
    CLIENTS,
    PROGRESS,
    SUFFIXES,
    Curves,
    clients_metrics,
    clients_to_plot,
    progress_metrics,
    split_to_plot,
)
from fedrecon.experiment.storage.metrics_log import Records

COLORS = ("#1f5a92", "#c8702a", "#3c8a5b", "#8a4f9e", "#a83c46", "#5d6b74", "#b29a24", "#2b8c9c")
STYLE: Any = {
    "font.size": 9.5,
    "axes.titlesize": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#8a8a8a",
    "axes.labelcolor": "#333333",
    "xtick.color": "#555555",
    "ytick.color": "#555555",
    "axes.grid": True,
    "grid.color": "#e4e4e4",
    "grid.linewidth": 0.8,
    "axes.axisbelow": True,
    "legend.frameon": False,
    "svg.fonttype": "none",
    "svg.hashsalt": "fedrecon",
    # Names may hold dollar signs.
    "text.parse_math": False,
}


@contextmanager
def style() -> Iterator[None]:
    """While entered, figures are made, drawn and written in the library's style.

    A character that the font lacks is drawn as a box, without a warning: it is there in the SVG file.
    """
    with mpl.rc_context(STYLE), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        yield


def new_figure(width: float, height: float) -> Figure:
    """An empty figure that is drawn by matplotlib's backend Agg, which needs no screen.

    It is made without `pyplot`, and has a canvas of its own: so the backend that a notebook or a program has
    chosen for its own figures stays as it is.

    Args:
        width: The width in inches.
        height: The height in inches.
    """
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def write(folder: Path, runs: Sequence[Curves]) -> list[Path]:
    """Draws runs, and writes each figure as PNG and SVG.

    Args:
        folder: The folder of the figures; it is made where it does not exist.
        runs: One run, or several to compare.

    Returns:
        The paths of the files, relative to the folder that `folder` is in.
    """
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    with style():
        for name, figure in ((PROGRESS, progress(runs)), (CLIENTS, clients(runs))):
            if figure is None:
                continue
            # This lays the figure out once, and not again for each format, and does not draw it for that; the
            # engine "none", a placeholder, would have every format drawn twice.
            layout = figure.get_layout_engine()
            if layout is not None:
                layout.execute(figure)
            figure.set_layout_engine(None)
            for suffix in SUFFIXES:
                path = folder / f"{name}.{suffix}"
                write_atomically(path, render(figure, suffix))
                paths.append(Path(folder.name) / path.name)
    return paths


def progress(runs: Sequence[Curves]) -> Figure | None:
    """The evaluated metrics by round, by bytes sent and by wall time; None before the first evaluation."""
    split, metrics = split_to_plot(runs), progress_metrics(runs)
    if not metrics:
        return None
    figure = new_figure(10.5, 2.9 * len(metrics) + 0.7)
    axes = figure.subplots(len(metrics), 3, sharex="col", sharey="row", squeeze=False)
    scale, unit = _bytes_unit(max((_last(_sent(run.records)) for run in runs), default=0.0))
    colors = _colors(runs)
    alone = len(colors) == len(runs)
    for run in runs:
        sent = _sent(run.records)
        seconds = run.records.series("train", "seconds", "total")
        for row, metric in zip(axes, metrics, strict=True):
            points = run.records.series(split, metric)
            rounds = [r for r in points if r in sent and r in seconds]
            values = [points[r] for r in rounds]
            marker = {"marker": "o", "markersize": 3.2} if len(rounds) <= 30 else {}
            for axis, x in zip(
                row, (rounds, [sent[r] / scale for r in rounds], [seconds[r] for r in rounds]), strict=True
            ):
                axis.plot(
                    x,
                    values,
                    color=colors[run.label],
                    linewidth=1.6 if alone else 1.1,
                    label=str(list(colors).index(run.label)),
                    **marker,
                )
    for row, metric in zip(axes, metrics, strict=True):
        row[0].set_ylabel(safe_text.figure(f"{label_of(metric)}, {split} clients"))
    for axis, label in zip(axes[-1], ("rounds", f"{unit} sent by and to clients", "seconds"), strict=True):
        axis.set_xlabel(label)
        axis.set_xlim(left=0)
    _head(figure, axes[0][0], runs)
    return figure


def clients(runs: Sequence[Curves]) -> Figure | None:
    """How the metrics are distributed over the clients; None if no client was evaluated."""
    name, metrics = clients_to_plot(runs), clients_metrics(runs)
    runs = [run for run in runs if name in run.clients]
    if not metrics:
        return None
    figure = new_figure(10.5, 3.6)
    axes = figure.subplots(1, len(metrics), squeeze=False)[0]
    colors = _colors(runs)
    for axis, metric in zip(axes, metrics, strict=True):
        values = {label: _values(runs, label, name, metric) for label in colors}
        everything = np.concatenate(list(values.values()))
        if not everything.size:
            continue
        edges = _edges(everything, max(len(v) for v in values.values()))
        for label, v in values.items():
            color, filled = colors[label], len(colors) == 1
            axis.hist(
                np.clip(v, edges[0], edges[-1]),
                edges,
                histtype="stepfilled" if filled else "step",
                color=color,
                alpha=0.55 if filled else 1.0,
                linewidth=1.4,
                label=str(list(colors).index(label)),
            )
            if v.size:
                axis.axvline(float(np.median(v)), color=color, linewidth=1.4, linestyle=(0, (4, 2)))
        axis.set_xlabel(safe_text.figure(f"{label_of(metric)} of a client (dashed: median)"))
        axis.set_ylabel(safe_text.figure(f"{name} clients"))
        axis.yaxis.set_major_locator(MaxNLocator(integer=True))
    _head(figure, axes[0], runs)
    return figure


def _edges(values: np.ndarray, clients: int) -> Any:
    """Bins of a histogram: more for more clients; a few far clients share the last one."""
    low, high = float(values.min()), float(np.quantile(values, 0.995))
    if high <= low:
        low, high = low - 0.5, low + 0.5
    return np.linspace(low, high, round(np.clip(1.6 * np.sqrt(clients), 6, 40)) + 1)


def _head(figure: Figure, axis: Axes, runs: Sequence[Curves]) -> None:
    names = _colors(runs)
    if len(names) == 1:
        figure.suptitle(safe_text.figure(runs[0].label), fontsize=11, color="#333333")
    else:
        # The artists are labelled by numbers, since Matplotlib leaves those out whose labels begin with "_".
        handles, labels = axis.get_legend_handles_labels()
        drawn = dict(zip(labels, handles, strict=True))
        columns = min(len(names), 4)
        legend = figure.legend(list(drawn.values()), list(drawn), loc="outside upper center", ncols=columns)
        for text, number in zip(legend.get_texts(), drawn, strict=True):
            text.set_text(safe_text.figure(list(names)[int(number)]))


def _sent(records: Records) -> dict[int, float]:
    """Bytes that clients sent and received up to each round, that round included."""
    total, result = 0.0, {}
    up = records.series("train", "bytes_up", "total")
    for round, down in records.series("train", "bytes_down", "total").items():
        total += down + up[round]
        result[round] = total
    return result


def _last(series: Mapping[int, float]) -> float:
    return series[max(series)] if series else 0.0


def _bytes_unit(most: float) -> tuple[float, str]:
    for scale, unit in ((1e12, "TB"), (1e9, "GB"), (1e6, "MB")):
        if most >= scale:
            return scale, unit
    return 1e3, "kB"


def _colors(runs: Sequence[Curves]) -> dict[str, str]:
    """A colour for each label."""
    names = dict.fromkeys(run.label for run in runs)
    return {name: COLORS[i % len(COLORS)] for i, name in enumerate(names)}


def _values(runs: Sequence[Curves], label: str, split: str, metric: str) -> Any:
    """A metric of every client of the runs with a label that have it, where it is a number."""
    named = [run.clients[split] for run in runs if run.label == label]
    of_runs = [np.asarray(columns[metric], np.float64) for columns in named if metric in columns]
    values = np.concatenate([np.empty(0), *of_runs])
    return values[np.isfinite(values)]


def render(figure: Figure, suffix: str) -> bytes:
    """The content of a file that shows a figure.

    Args:
        figure: The figure.
        suffix: The format, `"png"` or `"svg"`.
    """
    import io

    buffer = io.BytesIO()
    # Without a date the same run draws the same file.
    metadata = {"Date": None} if suffix == "svg" else None
    figure.savefig(buffer, format=suffix, dpi=150, metadata=metadata)
    return buffer.getvalue()
