"""The recipe `ratings` on generated ratings of many scales, sizes and strengths of taste, without tuning.

    python -m benchmarks.rating_scales --sets 20                    # some minutes
    python -m benchmarks.rating_scales --sets 1000 --json all.json  # hours
    python -m benchmarks.rating_scales --sets 1000 --size 3         # those of one size alone

Each set is trained as `fedrecon run --data FILE` would train it. There are twenty sizes, which sets take in
turn; those of one size are trained one after the other by the same compiled programs. The exit status is 1 if
a set diverges, is worse than its clients' shrunk means by more than half a percent, or no better where items
explain enough.
"""

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from fedrecon import Clients
from fedrecon.evaluation._rating_baselines import CLIENT_MEAN
from fedrecon.experiment.config import RATINGS, Config, load, override
from fedrecon.experiment.tasks._task import Task
from fedrecon.experiment.training.build import spec_of, task_of
from fedrecon.experiment.training.run import run
from fedrecon.simulation._shared_programs import SharedPrograms

SCALES = ((1.0, 5.0), (0.0, 100.0), (-10.0, 10.0), (0.0, 1e-3))
# Shares of the ratings' variance that items and tastes explain; levels of clients explain a fifth.
ITEM_SHARES = (0.0, 0.02, 0.05, 0.1, 0.25)
TASTE_SHARES = (0.0, 0.05, 0.15)
LEVEL_SHARE = 0.2
FACTORS = 3
NUM_CLIENTS = 1000
# Most of the clients are tested on, so that chance decides no comparison of half a percent.
FRACTIONS = {"train": 0.4, "validation": 0.1, "test": 0.5}
# Where items explain this share, a result must be better than the clients' shrunk means.
ENOUGH = 0.05
# How much worse than these a result may be.
SLACK = 1.005
# Ratings of an item at least, on average: with fewer nothing can be learnt of it.
PER_ITEM = 5
# So many sets differ in their numbers of items and ratings. All others have those of one of these, so that
# their programs have the same shapes and are compiled once.
SIZES = 20


class RatingSet(NamedTuple):
    """The sizes of a generated set of ratings.

    Attributes:
        seed: The seed of all draws but the clients' numbers of ratings.
        size: The seed of these, so that sets of one size have the same ones.
        scale: The lowest and the highest rating.
        items: The number of items.
        least: The fewest ratings of a client.
        most: The most ratings of a client; their numbers are uniform on a logarithmic scale.
        item_share: The share of the variance that items explain.
        taste_share: The share that products of factors explain.
    """

    seed: int
    size: int
    scale: tuple[float, float]
    items: int
    least: int
    most: int
    item_share: float
    taste_share: float


def rating_sets(count: int) -> Iterator[RatingSet]:
    """So many sets, which take turns in their sizes, scales and shares that items explain."""
    for seed in range(count):
        turn, size = divmod(seed, SIZES)
        random = np.random.default_rng([7, size])
        most = round(float(np.exp(random.uniform(np.log(12), np.log(300)))))
        least = min(3, most)
        ratings = FRACTIONS["train"] * NUM_CLIENTS * (most - least) / np.log(most / least)
        items = float(np.exp(random.uniform(np.log(20), np.log(5000))))
        yield RatingSet(
            seed=seed,
            size=size,
            # After twenty turns a size has had each scale with each share.
            scale=SCALES[(turn + size) % len(SCALES)],
            items=max(20, round(min(items, ratings / PER_ITEM))),
            least=least,
            most=most,
            item_share=ITEM_SHARES[(turn + size) % len(ITEM_SHARES)],
            taste_share=float(np.random.default_rng([7, seed]).choice(TASTE_SHARES)),
        )


def generate(made: RatingSet, clients: int = NUM_CLIENTS) -> Clients:
    """Clients with ratings of a set: whole numbers where the scale has at least five of them."""
    most = min(made.most, made.items)
    sizes = np.random.default_rng([13, made.size])
    counts = np.exp(sizes.uniform(np.log(made.least), np.log(most + 1), clients)).astype(np.int64)
    counts = np.clip(counts, made.least, most)
    random = np.random.default_rng([11, made.seed])
    popularity = random.normal(0, 1.2, made.items)
    chosen = [np.argsort(-(popularity + random.gumbel(size=made.items)))[:count] for count in counts]
    items = np.concatenate([random.permutation(c) for c in chosen])
    owners = np.repeat(np.arange(clients), counts)
    noise = 1 - LEVEL_SHARE - made.item_share - made.taste_share
    tastes = random.normal(0, np.sqrt(made.taste_share / FACTORS), (clients, FACTORS))
    score = random.normal(0, np.sqrt(LEVEL_SHARE), clients)[owners]
    score += random.normal(0, np.sqrt(made.item_share), made.items)[items]
    score += np.sum(tastes[owners] * random.normal(size=(made.items, FACTORS))[items], 1)
    score += random.normal(0, np.sqrt(noise), len(items))
    low, high = made.scale
    rating = np.clip((low + high) / 2 + score * (high - low) / 5, low, high)
    rating = np.rint(rating) if high - low >= 4 else rating
    offsets = np.concatenate([[0], np.cumsum(counts)])
    columns = {"item": items.astype(np.int32), "rating": rating.astype(np.float32)}
    return Clients.from_columns(np.arange(clients), offsets, columns, {"item": np.arange(made.items)})


def built(
    made: RatingSet, path: Path, programs: SharedPrograms, clients: int = NUM_CLIENTS
) -> tuple[Config, Task]:
    """The recipe for a set, and its task, which measures the ratings.

    Args:
        made: The sizes of the set.
        path: The client file that is written for it.
        programs: The compiled programs of sets of the same size.
        clients: The number of clients; 1,000 by default.
    """
    generate(made, clients).write(path)
    config = override(load(packaged=RATINGS), {"data": {"path": str(path), "fractions": FRACTIONS}})
    with programs.used([]):
        return config, task_of(config)


def measure(made: RatingSet, path: Path, programs: SharedPrograms) -> dict[str, Any]:
    """Trains the recipe on a set, and compares its RMSE with that of the clients' shrunk means.

    Args:
        made: The sizes of the set.
        path: The client file that is written for it.
        programs: The compiled programs of sets of the same size.
    """
    begun = time.perf_counter()
    config, task = built(made, path, programs)
    # What the ratings decided of the model is a constant in its programs.
    with programs.used([x for x in task.settings_from_data.values() if isinstance(x, float)]):
        result = run(spec_of(config, task))
    rmse = result.evaluations["test"].over_examples()["rmse"]
    baseline = result.baselines["test"][CLIENT_MEAN].over_examples()["rmse"]
    ratio = rmse / baseline
    good = not result.diverged and ratio <= SLACK and (made.item_share < ENOUGH or ratio < 1)
    return {
        **made._asdict(),
        "rmse": rmse,
        "client_mean": baseline,
        "ratio": ratio,
        "diverged": result.diverged,
        "good": bool(good),
        "seconds": time.perf_counter() - begun,
    }


def main() -> int:
    """Measures the sets one after the other, and prints a line for each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--sets", type=int, default=20, metavar="COUNT", help="how many; default: 20")
    parser.add_argument("--first", type=int, default=0, metavar="N", help="the first of them; default: 0")
    parser.add_argument("--size", type=int, choices=range(SIZES), metavar="N", help="sets of one size alone")
    parser.add_argument("--json", type=Path, metavar="FILE", help="a file for all numbers")
    options = parser.parse_args()
    rows: list[dict[str, Any]] = []
    chosen = list(rating_sets(options.first + options.sets))[options.first :]
    chosen = [made for made in chosen if options.size in (None, made.size)]
    programs, size = SharedPrograms(), -1
    with tempfile.TemporaryDirectory() as folder:
        for made in sorted(chosen, key=lambda made: (made.size, made.seed)):
            if made.size != size:
                programs, size = SharedPrograms(), made.size
            rows.append(measure(made, Path(folder) / f"{made.seed}.arrow", programs))
            row = rows[-1]
            print(
                f"set {made.seed:4}: {made.scale[0]:g} to {made.scale[1]:g}, {made.items:5,} items, up to "
                f"{made.most:3} ratings, items {made.item_share:.0%}, tastes {made.taste_share:.0%}: ratio "
                f"{row['ratio']:.4f} in {row['seconds']:.0f} s{'' if row['good'] else '  <- fails'}",
                flush=True,
            )
    failed = [row["seed"] for row in rows if not row["good"]]
    diverged = [row["seed"] for row in rows if row["diverged"]]
    named = f": {failed}" if failed else ""
    print(f"{len(rows)} sets: {len(diverged)} diverged, {len(failed)} fail{named}")
    if options.json is not None:
        options.json.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
