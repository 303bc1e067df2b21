"""The figure of the audits of runs."""

import base64
from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure

from fedrecon import _safe_text as safe_text
from fedrecon._files import write_atomically
from fedrecon.experiment.analysis.audits import NAME, SHARES, Audit
from fedrecon.experiment.reporting.plots import COLORS, new_figure, render, style


def audit_figure(audits: Sequence[tuple[str, Audit]]) -> Figure:
    """What each observer found out, and the bounds of epsilon beside the ledgers'.

    Args:
        audits: The audits with their methods' labels; at least one.
    """
    figure = new_figure(10.5, 1.6 + 0.5 * len(audits) * 1.4)
    shares, epsilons = figure.subplots(1, 2, sharey=True, width_ratios=(3, 2))
    height = 0.8 / len(SHARES)
    places = range(len(audits))
    for number, (name, label) in enumerate(SHARES.items()):
        values = [getattr(audit, name) for _, audit in audits]
        shares.barh(
            [place + (number - (len(SHARES) - 1) / 2) * height for place in places],
            [0.0 if value is None else value for value in values],
            height,
            color=COLORS[number],
            label=label,
        )
    shares.set_xlim(0, 1)
    shares.set_xlabel("share found, or area under the curve")
    names = [safe_text.figure(f"{label}\n{audit.observer}") for label, audit in audits]
    shares.set_yticks(list(places), names)
    shares.invert_yaxis()
    epsilons.barh(list(places), [audit.epsilon_lower for _, audit in audits], 0.4, color=COLORS[0])
    promised = [(place, x.epsilon) for place, (_, x) in enumerate(audits) if x.epsilon is not None]
    marks, heights = [epsilon for _, epsilon in promised], [place for place, _ in promised]
    epsilons.plot(marks, heights, "|", color=COLORS[4], markersize=22)
    epsilons.set_xlim(left=0)
    epsilons.set_xlabel("epsilon: bar, the lower bound; mark, the ledger's")
    figure.legend(loc="outside upper center", ncols=3)
    return figure


def write_audit_figure(folder: Path, audits: Sequence[tuple[str, Audit]]) -> list[Path]:
    """Writes the figure of audits into a folder as PNG and SVG, and returns the paths."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    with style():
        figure = audit_figure(audits)
        for suffix in ("png", "svg"):
            paths.append(folder / f"{NAME}.{suffix}")
            write_atomically(paths[-1], render(figure, suffix))
    return paths


def embedded_figure(audits: Sequence[tuple[str, Audit]]) -> str:
    """The figure of audits as the address of an image that holds its own data."""
    with style():
        content = render(audit_figure(audits), "png")
    return f"data:image/png;base64,{base64.b64encode(content).decode()}"
