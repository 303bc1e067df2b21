"""The curves of a run: its metrics by reconstruction steps, by support share, and by examples per client."""

import csv
import io
import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int
from rich.console import Console

from fedrecon._files import write_atomically
from fedrecon._safe_text import counted, csv_cell
from fedrecon.algorithms._base import Algorithm, Broadcast
from fedrecon.core._examples import Examples
from fedrecon.core._splits import Fraction, Split, first_share
from fedrecon.data._clients import Clients
from fedrecon.evaluation._evaluate import measure
from fedrecon.evaluation._evaluation import Evaluation
from fedrecon.experiment.config import Config, override
from fedrecon.experiment.reporting.curve_points import Point
from fedrecon.experiment.serving.evaluate import hold_to_data, restore_parameters
from fedrecon.experiment.settings.sections import SettingError
from fedrecon.experiment.storage.metrics_log import SEEN
from fedrecon.experiment.tasks._task import Task
from fedrecon.experiment.training.build import algorithm_of, spec_of, task_of
from fedrecon.experiment.training.run_spec import RunSpec

STEPS = (1, 2, 5, 10, 20, 50, 100)
SHARES = (0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0)
# The share of an unseen client's examples, the last ones, that are the query set for every support share.
HELD = 0.2
# The number of groups of clients, by their number of examples.
GROUPS = 8
# The settings of solvers that serve a client; if an algorithm has several, the first of these runs last.
_SOLVERS = ("tune", "reconstruct", "fit", "solve")


def draw(run: Path, config: Config, data: str | None, split: str, screen: Console) -> list[Point]:
    """Evaluates a run along the three curves; writes `curves.csv` and a figure into its folder.

    Args:
        run: The run folder.
        config: The configuration of the run.
        data: The path of the run's data now; None for the path at which the run found them.
        split: The name of one of the run's evaluated sets of clients.
        screen: The console that shows the points.

    Returns:
        The points of all curves.

    Raises:
        ValueError: The run has no checkpoint or no such clients, or its data have changed.
    """
    from fedrecon.experiment.reporting import curve_plots

    moved = config if data is None else override(config, {"data": {"path": data}})
    task = task_of(moved)
    hold_to_data(run, task, "say where they are now with --data PATH")
    spec = spec_of(config, task)
    if split not in spec.evaluated:
        raise SettingError(f"--split must be one of {', '.join(spec.evaluated)}, got {split!r}")
    clients, (round, state, client_states) = spec.evaluated[split], restore_parameters(run, spec)
    screen.print(f"{config.name}: parameters after round {round}, {counted(len(clients), f'{split} client')}")
    points = []

    def score(algorithm: Algorithm, cut: Split) -> Evaluation:
        return measure(
            algorithm,
            state,
            clients,
            split=cut,
            seed=spec.seed,
            client_states=client_states,
            scoring=spec.scoring,
        )

    for curve, x, evaluation in _evaluations(config, task, spec, clients, split, score):
        counts = next(iter(evaluation.per_client.values())).weight
        points.append(Point(curve, x, evaluation.over_examples(), int(np.count_nonzero(counts))))
        metrics = "  ".join(f"{name} {value:.4f}" for name, value in points[-1].metrics.items())
        screen.print(f"{curve} {x:g}: {metrics}")
    write_atomically(run / "curves.csv", _csv(points))
    for path in curve_plots.write(run, config.name, points):
        screen.print(f"Plot:    {path}")
    screen.print(f"Numbers: {run / 'curves.csv'}")
    return points


def _evaluations(
    config: Config,
    task: Task,
    spec: RunSpec,
    clients: Clients,
    split: str,
    score: Callable[[Algorithm, Split], Evaluation],
) -> Iterator[tuple[str, float, Evaluation]]:
    """The name of the curve, the x value and the evaluation of each point, one curve after the other."""
    solver = _serving_solver(config)
    for steps in STEPS if solver else ():
        # With as many epochs as steps even a client with a single batch takes all steps.
        limited = override(config, {"algorithm": {solver: {"epochs": steps, "max_steps": steps}}})
        yield "steps", float(steps), score(algorithm_of(limited, task), spec.split_of(split))
    # The other examples of seen clients were trained on: only held-out ones can be their query set.
    cut = spec.split_of(split) if split.startswith(SEEN) else Fraction(1 - HELD, query=HELD)
    for share in SHARES:
        yield "support", share, score(_with_less_support(spec.algorithm, share), cut)
    whole = score(spec.algorithm, spec.split_of(split))
    for size, group in groups_by_size(clients.num_examples):
        part = {
            name: type(mean)(mean.total[group], mean.weight[group]) for name, mean in whole.per_client.items()
        }
        yield "examples", float(size), Evaluation(clients.ids[group], part)


def groups_by_size(num_examples: Int[np.ndarray, " client"]) -> list[tuple[int, Int[np.ndarray, " member"]]]:
    """Groups of about as many clients each, by their numbers of examples.

    Clients with as many examples are in one group, so that no size stands for two groups.

    Args:
        num_examples: The number of examples of each client, `[client]`, at least one client.

    Returns:
        For each of at most `GROUPS` groups, in ascending order, the mean number of examples of its clients,
        rounded to a whole number and different for each group, and the clients' positions, `[member]`.
    """
    sizes = np.sort(num_examples)
    firsts = [part[0] for part in np.array_split(sizes, min(GROUPS, len(sizes)))]
    groups = []
    for low, high in itertools.pairwise([*dict.fromkeys(firsts), np.inf]):
        members = np.flatnonzero((num_examples >= low) & (num_examples < high))
        groups.append((round(float(np.mean(num_examples[members]))), members))
    return groups


def _with_less_support(algorithm: Algorithm, share: float) -> Algorithm:
    """The algorithm, served with the first part of a support set.

    Its scoring still sees the whole set: items that a client is known to have must not become candidates of
    a ranking.
    """

    def personalize(broadcast: Broadcast, client_state: Any, support: Examples, key: Any) -> Any:
        return algorithm.personalize(broadcast, client_state, first_share(support, share), key)

    return replace(algorithm, personalize=personalize)


def _serving_solver(config: Config) -> str | None:
    """The setting of the solver that serves a client; None if there is none, or if it is Newton's method.

    Newton's method has no mini-batch steps that could be limited.
    """
    for name in _SOLVERS:
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
