"""The figure of a run's curves."""

from collections.abc import Sequence
from pathlib import Path

from matplotlib.ticker import LogLocator, NullFormatter, ScalarFormatter

from fedrecon import _safe_text as safe_text
from fedrecon._files import write_atomically
from fedrecon.evaluation._metric_names import label_of
from fedrecon.experiment.reporting.curve_points import Point
from fedrecon.experiment.reporting.figure_data import metrics_to_plot
from fedrecon.experiment.reporting.plots import COLORS, new_figure, render, style
from fedrecon.experiment.storage.run_folder import PLOTS

_LABELS = {
    "steps": "reconstruction steps",
    "support": "share of the other examples that is support",
    "examples": "examples of a client (mean of its group)",
}


def write(run: Path, title: str, points: Sequence[Point]) -> list[Path]:
    """Draws the curves, a column for each, and writes the figure as PNG and SVG.

    Args:
        run: The run folder; the figure goes into its folder of plots.
        title: The title of the figure.
        points: The points of all curves, which have the same metrics.

    Returns:
        The paths of the two files.
    """
    curves = [name for name in _LABELS if any(point.curve == name for point in points)]
    metrics = metrics_to_plot(set().union(*(point.metrics for point in points)))
    paths = []
    with style():
        figure = new_figure(3.5 * len(curves), 2.9 * len(metrics) + 0.7)
        axes = figure.subplots(len(metrics), len(curves), sharex="col", squeeze=False)
        for row, metric in zip(axes, metrics, strict=True):
            for axis, curve in zip(row, curves, strict=True):
                of_curve = [point for point in points if point.curve == curve]
                xs = [point.x for point in of_curve]
                values = [point.metrics[metric] for point in of_curve]
                axis.plot(xs, values, color=COLORS[0], marker="o", markersize=3.2)
                if curve != "support":
                    axis.set_xscale("log")
                    axis.xaxis.set_major_formatter(ScalarFormatter())
                    # Within a decade or two the powers of ten alone would leave the axis without numbers.
                    close = max(xs) < 100 * min(xs)
                    axis.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if close else (1,)))
                    axis.xaxis.set_minor_formatter(NullFormatter())
            row[0].set_ylabel(safe_text.figure(label_of(metric)))
        for axis, curve in zip(axes[-1], curves, strict=True):
            axis.set_xlabel(_LABELS[curve])
        figure.suptitle(safe_text.figure(title), fontsize=11, color="#333333")
        (run / PLOTS).mkdir(exist_ok=True)
        for suffix in ("png", "svg"):
            path = run / PLOTS / f"curves.{suffix}"
            write_atomically(path, render(figure, suffix))
            paths.append(path)
    return paths
