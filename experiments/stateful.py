"""Approaches whose clients keep parameters, beside two whose clients keep none, on MovieLens 1M.

    python -m experiments.stateful --data PATH/TO/ml-1m

Seen users are trained on with the first 80 % of their ratings by time and scored on the last 10 %; unseen
users reconstruct on the even batches of five and are scored on the odd ones. It can be interrupted; the same
command goes on.
"""

import argparse
import json
import time
from pathlib import Path
from typing import Any, NamedTuple

from experiments.side_by_side import command, measured, run_side_by_side

from fedrecon._files import write_atomically
from fedrecon.experiment.reporting.summary import size
from fedrecon.experiment.reporting.tables import markdown, spread
from fedrecon.experiment.training.run_experiment import console


class Approach(NamedTuple):
    """A row: its name, that of its folder, and its settings."""

    name: str
    folder: str
    settings: tuple[str, ...]


def sgd(stage: str, rate: float, epochs: int = 1) -> tuple[str, ...]:
    """A stage in batches of 5 and at most 50 steps."""
    values = {"batch_size": 5, "epochs": epochs, "max_steps": 50, "optimizer.learning_rate": rate}
    return tuple(f"algorithm.{stage}.{name}={value}" for name, value in values.items())


PROTOCOLS = (
    "data.order=time",
    "data.held_out.validation=0.1",
    "data.held_out.test=0.1",
    "evaluation.every=100",
)
REFIT = sgd("reconstruct", 0.1, 5)
BIASES = ("model.item_bias=true",)
HEAD = ('algorithm.head=["1", "0/item/bias"]', *BIASES)
APPROACHES = (
    # The paper's rate of 0.5 diverges on ratings in order of time.
    Approach("FedRecon", "fedrecon", sgd("update", 0.3)),
    Approach(
        "FedAvg, then reconstruction",
        "fedavg",
        ("algorithm.name=finetuning", 'algorithm.part=["1/user"]', *sgd("update", 0.1), *sgd("tune", 0.1, 5)),
    ),
    Approach("FedAlt", "fedalt", ("algorithm.name=fedalt", *REFIT, *sgd("update", 0.3))),
    Approach("FedSim", "fedsim", ("algorithm.name=fedsim", *REFIT, *sgd("update", 0.1))),
    Approach(
        "FedRep, item biases local too",
        "fedrep",
        ("algorithm.name=fedrep", *HEAD, *REFIT, *sgd("update", 0.5)),
    ),
    Approach(
        "FedPer, item biases local too",
        "fedper",
        ("algorithm.name=fedper", *HEAD, *REFIT, *sgd("update", 0.1)),
    ),
    Approach(
        "LG-FedAvg, user vector local",
        "lg_fedavg",
        ("algorithm.name=lg_fedavg", 'algorithm.body=["1"]', *REFIT, *sgd("update", 0.1)),
    ),
    Approach(
        "Ditto",
        "ditto",
        ("algorithm.name=ditto", "algorithm.strength=1.0", *sgd("update", 0.1), *sgd("fit", 0.05)),
    ),
    Approach(
        "pFedMe",
        "pfedme",
        (
            "algorithm.name=pfedme",
            "algorithm.strength=15.0",
            *sgd("update", 0.05),
            "algorithm.solve.optimizer.learning_rate=0.02",
        ),
    ),
)


def main() -> int:
    """Runs what is left to run, and prints the table."""
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    parser.add_argument("--data", required=True, help="MovieLens 1M")
    parser.add_argument("--seeds", type=int, default=1, help="of the split and of all draws (default: 1)")
    parser.add_argument("--rounds", type=int, default=500, help="of each run (default: 500)")
    parser.add_argument("--jobs", type=int, default=2, help="runs at once (default: 2)")
    parser.add_argument("--only", nargs="+", help="folders of the approaches to run (default: all)")
    parser.add_argument("--out", type=Path, default=Path("runs/stateful"), help="default: runs/stateful")
    options = parser.parse_args()
    screen, started = console(), time.monotonic()
    experiment, data = Path(__file__).with_name("movielens.toml"), str(Path(options.data).absolute())
    chosen = [x for x in APPROACHES if not options.only or x.folder in options.only]
    commands = {}
    for approach in chosen:
        out = options.out / approach.folder
        settings = (f"name={approach.folder}", *approach.settings, *PROTOCOLS)
        rounds = (f"training.rounds={options.rounds}",)
        commands[out] = command(experiment, out, data, options.seeds, (*settings, *rounds))
    failed = run_side_by_side(commands, options.jobs, screen)
    if failed:
        return failed
    head = [
        "approach",
        "seen RMSE",
        "accuracy %",
        "unseen RMSE",
        "accuracy %",
        "down",
        "up",
        "gradient steps",
    ]
    rows = [[*head, "seconds per round"]]
    for approach in chosen:
        out = options.out / approach.folder
        cells = [approach.name]
        for protocol in ("standard_eval", "recon_eval"):
            cells.append(spread(measured(out, "test", protocol, "rmse"), "{:.3f}".format))
            cells.append(spread(measured(out, "test", protocol, "accuracy"), lambda x: f"{100 * x:.1f}"))
        rows.append([*cells, *_cost(out / "seed-0" if options.seeds > 1 else out)])
    table = markdown(rows)
    write_atomically(options.out / "stateful.md", table + "\n")
    screen.print(table, markup=False)
    screen.print(f"{options.seeds} seeds, {time.monotonic() - started:.0f} s; {options.out / 'stateful.md'}")
    return 0


def _cost(run: Path) -> list[str]:
    result: Any = json.loads((run / "result.json").read_text(encoding="utf-8"))
    sent, work = result["bytes_per_client_and_round"], result["work_per_client_and_round"]
    seconds = (result["seconds"]["total"] - result["seconds"]["to_first_round"]) / result["rounds"]
    return [size(sent["down"]), size(sent["up"]), f"{work['gradient_steps']:.0f}", f"{seconds:.2f}"]


if __name__ == "__main__":
    raise SystemExit(main())
