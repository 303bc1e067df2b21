"""How well a run serves clients by what it is given: reconstruction steps, support examples, all examples."""

import csv
import io
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from fedrecon._files import write_atomically
from fedrecon._safe_text import csv_cell
from fedrecon.algorithms._base import Algorithm, Broadcast
from fedrecon.core._examples import Examples, Fraction, Split, first_share
from fedrecon.evaluation._evaluate import Evaluation, evaluate
from fedrecon.experiment.config import Config, override
from fedrecon.experiment.reporting.curve_points import Point
from fedrecon.experiment.serving.evaluate import hold_to_data, restored
from fedrecon.experiment.settings.sections import SettingError
from fedrecon.experiment.storage.metrics_log import SEEN
from fedrecon.experiment.training.build import spec_of, task_of

STEPS = (1, 2, 5, 10, 20, 50, 100)
SHARES = (0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0)
HELD = 0.2  # of an unseen client's examples, its last ones: the query set whatever the support set is
GROUPS = 8
_STAGES = ("tune", "reconstruct", "fit", "solve")  # what serves a client, the last one first


def draw(run: Path, config: Config, data: str | None, split: str, screen: Console) -> list[Point]:
    """Evaluates a run along the three curves; writes `curves.csv` and a figure into its folder.

    Args:
        run: Its folder.
        config: Its configuration.
        data: Where its data are now; None for where it found them.
        split: Which of its evaluated clients.
        screen: Where the points are shown.

    Raises:
        ValueError: The run has no checkpoint or no such clients, or its data are others now.
    """
    from fedrecon.experiment.reporting import curve_plots

    moved = config if data is None else override(config, {"data": {"path": data}})
    task = task_of(moved)
    hold_to_data(run, task, "say where they are now with --data PATH")
    spec = spec_of(config, task)
    if split not in spec.evaluated:
        raise SettingError(f"--split must be one of {', '.join(spec.evaluated)}, got {split!r}")
    clients, (round, state, client_states) = spec.evaluated[split], restored(run, spec)
    screen.print(f"{config.name}: parameters after round {round}, {len(clients):,} {split} clients")
    points = []

    def evaluated(algorithm: Algorithm, cut: Split) -> Evaluation:
        return evaluate(
            algorithm,
            state,
            clients,
            split=cut,
            seed=spec.seed,
            client_states=client_states,
            scoring=spec.scoring,
        )

    def add(curve: str, x: float, found: Evaluation) -> None:
        counts = next(iter(found.per_client.values())).weight
        points.append(Point(curve, x, found.over_examples(), int(np.count_nonzero(counts))))
        shown = "  ".join(f"{name} {value:.4f}" for name, value in points[-1].metrics.items())
        screen.print(f"{curve} {x:g}: {shown}")

    solver = _stage(config)
    for steps in STEPS if solver else ():
        # As many passes as steps: every client that has an example then takes them all.
        more = override(config, {"algorithm": {solver: {"epochs": steps, "max_steps": steps}}})
        add("steps", float(steps), evaluated(more.algorithm.build_for(task), spec.split_of(split)))
    # Of seen clients, whose other examples were trained on, those held out alone measure what is found.
    cut = spec.split_of(split) if split.startswith(SEEN) else Fraction(1 - HELD, query=HELD)
    for share in SHARES:
        add("support", share, evaluated(_given_less(spec.algorithm, share), cut))
    whole = evaluated(spec.algorithm, spec.split_of(split))
    for group in np.array_split(np.argsort(clients.num_examples, kind="stable"), min(GROUPS, len(clients))):
        part = {
            name: type(mean)(mean.total[group], mean.weight[group]) for name, mean in whole.per_client.items()
        }
        add("examples", float(np.mean(clients.num_examples[group])), Evaluation(clients.ids[group], part))
    write_atomically(run / "curves.csv", _csv(points))
    for path in curve_plots.write(run, config.name, points):
        screen.print(f"Plot:    {path}")
    screen.print(f"Numbers: {run / 'curves.csv'}")
    return points


def _given_less(algorithm: Algorithm, share: float) -> Algorithm:
    """The same, served with the first part of a support set. What it is scored by sees the whole set: items
    that a client is known to have do not become candidates of a ranking.
    """

    def personalize(broadcast: Broadcast, client_state: Any, support: Examples, key: Any) -> Any:
        return algorithm.personalize(broadcast, client_state, first_share(support, share), key)

    return replace(algorithm, personalize=personalize)


def _stage(config: Config) -> str | None:
    """The solver that serves a client, whose steps can be limited; None if nothing does or it is `Newton`."""
    for name in _STAGES:
        section = getattr(config.algorithm, name, None)
        if section is not None:
            return name if getattr(section, "kind", "solver") == "solver" else None
    return None


def _csv(points: Sequence[Point]) -> str:
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(["curve", "x", "metric", "value", "clients"])
    for point in points:
        for name, value in point.metrics.items():
            writer.writerow([point.curve, repr(point.x), csv_cell(name), repr(value), point.clients])
    return file.getvalue()
