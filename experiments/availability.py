"""What devices that are away, slow or lost do to MovieLens 1M: the table of docs/availability.md.

    python -m experiments.availability --data PATH/TO/ml-1m

It can be interrupted; the same command goes on.
"""

import argparse
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import NamedTuple

from experiments.side_by_side import command, measured, run_side_by_side

from fedrecon._files import write_atomically
from fedrecon.experiment.reporting.tables import markdown, spread
from fedrecon.experiment.storage.metrics_log import METRICS, read
from fedrecon.experiment.storage.run_folder import RESULT
from fedrecon.experiment.training.run_experiment import console

_NIGHTLY = ('devices.model.name="nightly"',)
# Slow clients lie in the way of a round only where the spread of speeds is wide.
_SLOW = ("devices.speed_spread=1.0",)
_STALE = ("devices.max_staleness=10",)
_FIGURES = (
    "asked_clients",
    "counted_clients",
    "late_clients",
    "stale_clients",
    "lost_clients",
    "round_seconds",
)


class Line(NamedTuple):
    """A line of the table: its name, and the settings of the devices."""

    name: str
    label: str
    settings: Sequence[str] = ()


TABLE = (
    Line("all", "all answer, the round waits for the last"),
    Line("wide", "as before, speeds spread twice as widely", _SLOW),
    Line("deadline", "deadline of 30 s", (*_SLOW, "devices.deadline=30.0")),
    Line(
        "stale",
        "as before, late answers counted later",
        (*_SLOW, "devices.deadline=30.0", "devices.round_seconds=30.0", *_STALE),
    ),
    Line("over", "130% asked, the fastest 100% counted", (*_SLOW, "devices.over_selection=1.3")),
    Line(
        "over-stale",
        "as before, late answers counted later",
        (*_SLOW, "devices.over_selection=1.3", "devices.round_seconds=47.0", *_STALE),
    ),
    Line(
        "dropout",
        "20% never answer, 130% asked",
        (*_SLOW, "devices.over_selection=1.3", "devices.dropout=0.2"),
    ),
    Line("nightly", "each there for 8 hours a day, around 3 o'clock", (*_SLOW, *_NIGHTLY)),
    Line(
        "fleet",
        "all of these",
        (*_SLOW, *_NIGHTLY, "devices.over_selection=1.3", "devices.dropout=0.2", "devices.deadline=60.0"),
    ),
)


def mean_figure(out: Path, name: str) -> float:
    """The mean over all rounds, and all seeds, of a number that the sampling records; 0 where it does not."""
    files = [out / METRICS] if (out / METRICS).exists() else sorted(out.glob(f"*/{METRICS}"))
    values = [row.value for path in files for row in read(path) if row.metric == name]
    return fmean(values) if values else 0.0


def main() -> int:
    """Runs what is left to run, and prints the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", required=True, help="MovieLens 1M")
    parser.add_argument("--seeds", type=int, default=3, help="of the split and of all draws (default: 3)")
    parser.add_argument("--jobs", type=int, default=2, help="experiments at once (default: 2)")
    parser.add_argument(
        "--out", type=Path, default=Path("runs/availability"), help="default: runs/availability"
    )
    options = parser.parse_args()
    screen, started = console(), time.monotonic()
    experiment = Path(__file__).with_name("movielens-newton.toml")
    data = str(Path(options.data).absolute())
    commands = {
        options.out / line.name: command(
            experiment,
            options.out / line.name,
            data,
            options.seeds,
            ("training.sampling=availability", *line.settings),
        )
        for line in TABLE
        if not (options.out / line.name / RESULT).exists()
    }
    failed = run_side_by_side(commands, options.jobs, screen)
    if failed:
        return failed
    rows = [["devices", "test RMSE", "asked", "counted", "late", "counted later", "lost", "seconds a round"]]
    for line in TABLE:
        out = options.out / line.name
        figures = [mean_figure(out, name) for name in _FIGURES]
        rmse = spread(measured(out, "test", "recon_eval", "rmse"), "{:.4f}".format)
        rows.append([line.label, rmse, *(f"{value:.0f}" for value in figures)])
    table = markdown(rows)
    write_atomically(options.out / "availability.md", table + "\n")
    screen.print(table, markup=False)
    screen.print(
        f"{options.seeds} seeds, {time.monotonic() - started:.0f} s; {options.out / 'availability.md'}"
    )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
