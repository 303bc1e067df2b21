"""Table 1 of the paper on MovieLens 1M: every row under several seeds, the paper's figure beside ours.

    python -m experiments.table1 --data PATH/TO/ml-1m

It can be interrupted; the same command goes on.
"""

import argparse
import time
from pathlib import Path
from typing import NamedTuple

from experiments.side_by_side import command, measured, run_side_by_side

from fedrecon._files import write_atomically
from fedrecon.experiment.reporting.tables import markdown, spread
from fedrecon.experiment.training.run_experiment import console


class Line(NamedTuple):
    """A line of the table: its experiment, and the paper's RMSE and accuracy (%), where it has them."""

    method: str
    protocol: str
    experiment: str
    paper: str = ""


TABLE = (
    Line("centralised", "standard_eval", "centralized-standard", ".923 / 43.2"),
    Line("centralised", "recon_eval", "centralized-recon", "1.36 / 40.8"),
    Line("FedAvg, one user vector for all", "standard_eval", "fedavg-standard", ".939 / 41.5"),
    Line("FedAvg, one user vector for all", "recon_eval", "fedavg-recon", ".934 / 40.0"),
    Line("FedAvg, then reconstruction", "standard_eval", "fedavg-then-standard"),
    Line("FedAvg, then reconstruction", "recon_eval", "fedavg-then-recon"),
    Line("FedRecon", "recon_eval", "fedrecon-recon", ".907 / 43.3"),
)


def main() -> int:
    """Runs what is left to run, and prints the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", required=True, help="MovieLens 1M")
    parser.add_argument("--seeds", type=int, default=5, help="of the split and of all draws (default: 5)")
    parser.add_argument("--jobs", type=int, default=2, help="experiments at once (default: 2)")
    parser.add_argument("--out", type=Path, default=Path("runs/table1"), help="default: runs/table1")
    options = parser.parse_args()
    screen, started = console(), time.monotonic()
    folder, data = Path(__file__).with_name("table1"), str(Path(options.data).absolute())
    commands = {
        options.out / x.experiment: command(
            folder / f"{x.experiment}.toml", options.out / x.experiment, data, options.seeds
        )
        for x in TABLE
    }
    failed = run_side_by_side(commands, options.jobs, screen)
    if failed:
        return failed
    rows = [["method", "protocol", "RMSE", "accuracy %", "paper's RMSE / accuracy %"]]
    for line in TABLE:
        rmse, accuracy = (
            measured(options.out / line.experiment, "test", line.protocol, metric)
            for metric in ("rmse", "accuracy")
        )
        shown = spread(rmse, "{:.3f}".format), spread(accuracy, lambda x: f"{100 * x:.1f}")
        rows.append([line.method, line.protocol, *shown, line.paper])
    table = markdown(rows)
    write_atomically(options.out / "table1.md", table + "\n")
    screen.print(table, markup=False)
    screen.print(f"{options.seeds} seeds, {time.monotonic() - started:.0f} s; {options.out / 'table1.md'}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
