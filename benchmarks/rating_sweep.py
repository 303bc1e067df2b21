"""The recipe `ratings`, untuned, beside the best of a sweep of it on the same split.

    python -m benchmarks.rating_sweep PATH --seeds 3 --trials 30 --out FOLDER

PATH is a file of ratings, as for `fedrecon run --data`. Each seed has a split of its own: the recipe is
trained on it, and a sweep tunes factors, penalties and learning rate on the validation users as `fedrecon
sweep` does. Both are then measured on the test users, which took no part. The sweeps lie in FOLDER and go on
when it is run again.
"""

import argparse
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from fedrecon.experiment.config import RATINGS, Config, load
from fedrecon.experiment.sweep import space as spaces
from fedrecon.experiment.sweep.run import sweep
from fedrecon.experiment.sweep.search import BEST
from fedrecon.experiment.training.build import spec_of, task_of
from fedrecon.experiment.training.run import run

SPACE = {
    "model": {
        "factors": {"choices": [8, 16, 32, 64]},
        "user_penalty": {"low": 5.0, "high": 80.0, "log": True},
        "user_bias_penalty": {"low": 1.0, "high": 16.0, "log": True},
        "item_penalty": {"low": 0.5, "high": 32.0, "log": True},
    },
    "algorithm": {"server_optimizer": {"learning_rate": {"low": 0.003, "high": 0.03, "log": True}}},
}
# The largest mean ratio of the recipe to the best of a sweep.
BOUND = 1.01


def test_rmse(config: Config) -> float:
    """Trains a configuration, and measures the RMSE over the ratings of its test users."""
    result = run(spec_of(config, task_of(config)))
    return float(result.evaluations["test"].over_examples()["rmse"])


def measure(path: str, seed: int, trials: int, out: Path, changes: Sequence[str]) -> dict[str, Any]:
    """The test RMSE of the recipe, and that of the best of a sweep on the same split.

    Args:
        path: The file of ratings.
        seed: The seed of the split, of all draws and of the search.
        trials: The number of trials of the sweep.
        out: The folder of the sweep.
        changes: Settings that the recipe and the sweep have otherwise, such as `"data.unrated=0"`.
    """
    begun = time.perf_counter()
    config = load(None, [f"data.path={json.dumps(path)}", f"seed={seed}", *changes], packaged=RATINGS)
    recipe = test_rmse(config)
    seconds = time.perf_counter() - begun
    sweep(config, spaces.parse(SPACE, config, "SPACE"), out, Console(stderr=True), trials)
    best = test_rmse(load(out / BEST))
    return {"seed": seed, "recipe": recipe, "best": best, "ratio": recipe / best, "recipe_seconds": seconds}


def main() -> int:
    """Measures the seeds one after the other; the status is 1 where the mean ratio is above the bound."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("path", metavar="PATH", help="a file of ratings")
    parser.add_argument("--seeds", type=int, default=3, metavar="COUNT", help="how many; default: 3")
    parser.add_argument("--first", type=int, default=0, metavar="N", help="the first of them; default: 0")
    parser.add_argument("--trials", type=int, default=30, metavar="COUNT", help="of a sweep; default: 30")
    parser.add_argument(
        "--set", action="append", default=[], metavar="NAME=VALUE", help="a setting, as of `run`"
    )
    parser.add_argument("--out", type=Path, default=Path("runs/rating-sweep"), metavar="FOLDER")
    options = parser.parse_args()
    rows = []
    for seed in range(options.first, options.first + options.seeds):
        rows.append(measure(options.path, seed, options.trials, options.out / str(seed), options.set))
        row = rows[-1]
        print(
            f"seed {seed}: recipe {row['recipe']:.4f}, best of {options.trials} trials {row['best']:.4f}, "
            f"ratio {row['ratio']:.4f}; the recipe took {row['recipe_seconds']:.0f} s",
            flush=True,
        )
    mean = sum(row["ratio"] for row in rows) / len(rows)
    print(f"mean ratio {mean:.4f}, at most {BOUND}: {'yes' if mean <= BOUND else 'no'}")
    return 0 if mean <= BOUND else 1


if __name__ == "__main__":
    sys.exit(main())
