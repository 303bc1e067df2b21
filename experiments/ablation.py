"""What the parts of the best recipe on MovieLens 1M contribute: each is taken out, or added, on its own.

    python -m experiments.ablation --data PATH/TO/ml-1m

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


class Change(NamedTuple):
    """A change of the recipe, as settings."""

    name: str
    what: str
    settings: tuple[str, ...] = ()


SGD = (
    "algorithm.reconstruct.kind=solver",
    "algorithm.reconstruct.batch_size=5",
    "algorithm.reconstruct.epochs=5",
    "algorithm.reconstruct.max_steps=50",
    "algorithm.reconstruct.optimizer.name=sgd",
    "algorithm.reconstruct.optimizer.learning_rate=0.1",
)
NO_PENALTIES = ("model.user_penalty=0.0", "model.user_bias_penalty=0.0")
NO_BIASES = ("model.item_bias=false", "model.user_bias=false", "model.global_bias=none")
SERVER_SGD = ("algorithm.server_optimizer.name=sgd", "algorithm.server_optimizer.learning_rate=0.3")
FIXED_HALVES = ("algorithm.split.name=alternate_batches", "algorithm.split.batch_size=5")
FULL_GRADIENT = (  # another algorithm: its settings start from their defaults
    "algorithm.name=full_gradient",
    "algorithm.client_weight=uniform",
    "algorithm.split.name=random_fraction",
    "algorithm.reconstruct.kind=newton",
    "algorithm.update.batch_size=all",
    "algorithm.update.reduction=sum",
    "algorithm.update.max_steps=none",
    "algorithm.update.optimizer.learning_rate=1.0",
    "algorithm.server_optimizer.name=adam",
    "algorithm.server_optimizer.learning_rate=0.003",
    "algorithm.server_optimizer.schedule.name=cosine_decay",
)
DECAY = "algorithm.server_optimizer.schedule.decay_steps"
CHANGES = (
    Change("recipe", "experiments/movielens-newton.toml"),
    Change("sgd", "reconstruction by 50 steps of SGD, without penalties", (*SGD, *NO_PENALTIES)),
    Change("no-biases", "no item, user or global bias", NO_BIASES),
    Change("server-sgd", "server SGD 0.3", SERVER_SGD),
    Change("fixed-halves", "the same alternate batches as support in every round", FIXED_HALVES),
    Change("joint", "joint training of the local parameters", ("algorithm.joint=true",)),
    Change("full-gradient", "the gradient through the reconstruction, implicit", FULL_GRADIENT),
)


def main() -> int:
    """Runs what is left to run, and prints the table."""
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    parser.add_argument("--data", required=True, help="MovieLens 1M")
    parser.add_argument("--seeds", type=int, default=1, help="of the split and of all draws (default: 1)")
    parser.add_argument("--rounds", type=int, default=1500, help="of each run (default: 1500)")
    parser.add_argument("--jobs", type=int, default=2, help="runs at once (default: 2)")
    parser.add_argument("--out", type=Path, default=Path("runs/ablation"), help="default: runs/ablation")
    options = parser.parse_args()
    screen, started = console(), time.monotonic()
    experiment, data = Path(__file__).with_name("movielens-newton.toml"), str(Path(options.data).absolute())
    commands = {}
    for change in CHANGES:
        out = options.out / change.name
        rounds = f"training.rounds={options.rounds}", f"{DECAY}={options.rounds}"
        settings = (f"name={change.name}", *change.settings, *rounds)
        commands[out] = command(experiment, out, data, options.seeds, settings)
    failed = run_side_by_side(commands, options.jobs, screen)
    if failed:
        return failed
    rows = [["recipe", "validation RMSE", "test RMSE", "accuracy %"]]
    for change in CHANGES:
        found = [
            measured(options.out / change.name, split, "recon_eval", metric)
            for split, metric in (("validation", "rmse"), ("test", "rmse"), ("test", "accuracy"))
        ]
        errors = [spread(x, "{:.3f}".format) for x in found[:2]]
        rows.append([change.what, *errors, spread(found[2], lambda x: f"{100 * x:.1f}")])
    table = markdown(rows)
    write_atomically(options.out / "ablation.md", table + "\n")
    screen.print(table, markup=False)
    screen.print(f"{options.seeds} seeds, {time.monotonic() - started:.0f} s; {options.out / 'ablation.md'}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
