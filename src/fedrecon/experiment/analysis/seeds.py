"""One experiment under several seeds: mean and deviation of its metrics."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from fedrecon import _safe_text as safe_text
from fedrecon._files import write_atomically
from fedrecon.experiment.analysis.compare import plot_runs
from fedrecon.experiment.config import Config, override
from fedrecon.experiment.reporting import summary as report
from fedrecon.experiment.reporting.tables import Spread, markdown
from fedrecon.experiment.storage.metrics_log import WEIGHTINGS, place
from fedrecon.experiment.storage.run_folder import PLOTS, RESULT, SUMMARY
from fedrecon.experiment.training.run_experiment import rich_table, run_experiment


def train_seeds(config: Config, out: Path, count: int, screen: Console) -> bool:
    """Runs an experiment with `count` seeds, from its own on, each in a folder of its own.

    Args:
        config: What to do.
        out: The folder of the runs, of their `result.json`, `summary.md` and figure.
        count: How many seeds.
        screen: Where progress is shown.

    Returns:
        Whether all were finished; Ctrl-C ends it.
    """
    screen.print(f"{config.name}: {count} seeds, folder {out}")
    results, folders = [], []
    for seed in range(config.seed, config.seed + count):
        folders.append(out / f"seed-{seed}")
        result = run_experiment(override(config, {"seed": seed}), folders[-1], screen)
        if result.interrupted:
            screen.print(f"Interrupted at seed {seed}; all of it is saved.")
            screen.print(f"To go on: the same command, with --seeds {count} --out {out}")
            return False
        results.append(report.result_values(result))
    values = {"seeds": [config.seed + i for i in range(count)], **statistics(results)}
    figures = plot_runs(folders, out / PLOTS)
    table = report.table(values, lambda x: f"{x['mean']:.4f} ± {x['deviation']:.4f}")
    title = safe_text.markdown(config.name)
    lines = [f"# {title}: {count} seeds", "", "Mean ± standard deviation over the seeds.", ""]
    lines += [markdown(table), ""]
    lines += [f"![{p.stem}]({PLOTS}/{p.name})" for p in figures if p.suffix == ".png"]
    write_atomically(out / SUMMARY, "\n".join(lines) + "\n")
    write_atomically(out / RESULT, report.dumps(values))
    screen.print(rich_table(table))
    screen.print(f"Plot:    {out / PLOTS / 'progress.png'}")
    screen.print(f"Summary: {out / SUMMARY}")
    return True


def statistics(results: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Each metric as `{"mean", "deviation", "values"}`, under the same names as in one run's result."""
    combined: dict[str, Any] = {}
    for name, evaluation in report.evaluated(results[0]):
        split, protocol = place(name)
        combined.setdefault(split, {})[protocol] = {
            weighting: {
                metric: _spread([r[split][protocol][weighting][metric] for r in results])
                for metric in evaluation[weighting]
            }
            for weighting in WEIGHTINGS
        }
    combined["seconds"] = {"total": sum(r["seconds"]["total"] for r in results)}
    return combined


def _spread(values: Sequence[float]) -> dict[str, Any]:
    spread = Spread.of(values)
    return {"mean": spread.mean, "deviation": spread.deviation, "values": list(values)}
