"""Runs one experiment under several seeds, and reports mean and deviation of its metrics."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console

from fedrecon import _safe_text as safe_text
from fedrecon._files import write_atomically
from fedrecon.experiment.analysis.compare import plot_runs
from fedrecon.experiment.config import Config, override
from fedrecon.experiment.console.screen import rich_table
from fedrecon.experiment.reporting import summary
from fedrecon.experiment.reporting.baselines import BASELINES
from fedrecon.experiment.reporting.figure_process import FigureProcess
from fedrecon.experiment.reporting.tables import Spread, markdown
from fedrecon.experiment.storage.metrics_log import WEIGHTINGS, place
from fedrecon.experiment.storage.run_folder import PLOTS, RESULT, SUMMARY
from fedrecon.experiment.training.run_experiment import run_experiment


class Ended(NamedTuple):
    """How the runs of several seeds ended.

    Attributes:
        interrupted: Whether Ctrl-C ended one of them, and thereby all.
        diverged: Whether one of them diverged.
    """

    interrupted: bool
    diverged: bool


def train_seeds(config: Config, out: Path, count: int, screen: Console) -> Ended:
    """Runs an experiment with `count` consecutive seeds, each in a folder of its own.

    Args:
        config: The configuration of the experiment, whose seed is the first one.
        out: The folder that gets the run folders, and their common `result.json`, `summary.md` and figure.
        count: The number of seeds.
        screen: The console that shows the progress.

    Returns:
        How they ended. Seeds after one that diverged are trained, those after Ctrl-C are not.
    """
    screen.print(f"{config.name}: {count} seeds, folder {out}")
    results, folders, diverged = [], [], []
    with FigureProcess() as drawing:
        for seed in range(config.seed, config.seed + count):
            folders.append(out / f"seed-{seed}")
            result = run_experiment(override(config, {"seed": seed}), folders[-1], screen, figures=drawing)
            if result.interrupted:
                screen.print(f"Interrupted at seed {seed}; all of it is saved.")
                screen.print(f"To go on: the same command, with --seeds {count} --out {out}")
                return Ended(interrupted=True, diverged=False)
            diverged += [seed] if result.diverged else []
            results.append(summary.result_values(result))
    values = {
        "seeds": [config.seed + i for i in range(count)],
        "diverged": bool(diverged),
        **statistics(results),
    }
    figures = plot_runs(folders, out / PLOTS)
    table = summary.table(values, lambda x: f"{x['mean']:.4f} ± {x['deviation']:.4f}")
    title = safe_text.markdown(config.name)
    lines = [f"# {title}: {count} seeds", "", "Mean ± standard deviation over the seeds.", ""]
    lines += [markdown(table), "", *([f"- {_diverged(diverged)}.", ""] if diverged else [])]
    lines += [f"![{p.stem}]({PLOTS}/{p.name})" for p in figures if p.suffix == ".png"]
    write_atomically(out / SUMMARY, "\n".join(lines) + "\n")
    write_atomically(out / RESULT, summary.dumps(values))
    screen.print(rich_table(table))
    if diverged:
        screen.print(f"Note: {_diverged(diverged)}.")
    screen.print(f"Plot:    {out / PLOTS / 'progress.png'}")
    screen.print(f"Summary: {out / SUMMARY}")
    return Ended(interrupted=False, diverged=bool(diverged))


def _diverged(seeds: Sequence[int]) -> str:
    return f"Of these seeds training diverged, and is part of the means: {', '.join(map(str, seeds))}"


def statistics(results: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Mean, deviation and values of each metric over several results.

    Args:
        results: The values that `result_values` returns, a mapping for each seed.

    Returns:
        The nested tables of one run's result, with `{"mean", "deviation", "values"}` in place of each metric,
        and the seconds of all runs together.
    """
    combined: dict[str, Any] = {}
    for name, evaluation in summary.evaluations_of(results[0]):
        split, protocol = place(name)
        combined.setdefault(split, {})[protocol] = {
            weighting: {
                metric: _spread([r[split][protocol][weighting][metric] for r in results])
                for metric in evaluation[weighting]
                # A metric may depend on a seed's training clients: accuracy is left out where not all of
                # their ratings are stars.
                if all(metric in r[split][protocol][weighting] for r in results)
            }
            for weighting in WEIGHTINGS
        } | {n: _spread([float(r[split][protocol][n]) for r in results]) for n in COUNTS if n in evaluation}
    for split, values in results[0].items():
        for baseline, protocols in values.get(BASELINES, {}).items() if isinstance(values, Mapping) else ():
            combined[split].setdefault(BASELINES, {})[baseline] = {
                protocol: {
                    weighting: {
                        m: _spread([r[split][BASELINES][baseline][protocol][weighting][m] for r in results])
                        for m in means[weighting]
                        if all(m in r[split][BASELINES][baseline][protocol][weighting] for r in results)
                    }
                    for weighting in WEIGHTINGS
                }
                for protocol, means in protocols.items()
            }
    combined["seconds"] = {"total": sum(r["seconds"]["total"] for r in results)}
    return combined


COUNTS = ("evaluated_clients", "asked_clients")


def _spread(values: Sequence[float]) -> dict[str, Any]:
    spread = Spread.of(values)
    return {"mean": spread.mean, "deviation": spread.deviation, "values": list(values)}
