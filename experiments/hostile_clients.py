"""What hostile clients do to RMSE and HR@10 on MovieLens 1M, under each rule of aggregation: docs/results.md.

A share of the training users sends its delta with the sign flipped, or times -10, or praises the item that is
rated least and sends its delta times 10 (promotion). RMSE and HR@10 are those of the test users; HR@10 is of
their latest item among 99 drawn ones, ranked by predicted rating. Beside them stands the share of test users
who get the promoted item among the first 10 of the whole catalogue.

    python -m experiments.hostile_clients path/to/ml-1m --rule mean
"""

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np

import fedrecon as fr
from fedrecon.datasets.ratings import load
from fedrecon.evaluation import Ranking
from fedrecon.models import matrix_factorization
from fedrecon.privacy.attacks import with_hostile_clients

CAP, FACTORS, ROUNDS, COHORT = 300, 8, 60, 100
NOBODY = "none"
ATTACKS = {"sign flip": -1.0, "scaled": -10.0, "promotion": 10.0}
RULES: dict[str, Any] = {
    "mean": None,
    "norm_bound": fr.algorithms.NormBound(),
    "median": fr.algorithms.Median(),
    "trimmed_mean": fr.algorithms.TrimmedMean(0.2),
    "krum": fr.algorithms.Krum(0.2, 1),
    "multi_krum": fr.algorithms.Krum(0.2),
}


def algorithm_of(num_items: int, mean: float, factor: float, rule: Any) -> fr.Algorithm:
    """The recipe of movielens-newton.toml with fewer factors."""
    model = matrix_factorization(
        num_items,
        FACTORS,
        item_bias=True,
        user_bias=True,
        global_bias=mean,
        init="normal",
        init_scale=0.1,
        user_penalty=20.0,
        user_bias_penalty=5.0,
    )
    update = fr.Solver(fr.optimizer("sgd", learning_rate=1.0), None, reduction="sum")
    adam, split = fr.optimizer("adam", learning_rate=0.02), fr.splits.RandomFraction(0.5)
    plain = fr.fedrecon(model, fr.Newton(), update, adam, split, client_weight=fr.algorithms.uniform)
    attacked = with_hostile_clients(plain, factor)
    return attacked if rule is None else fr.algorithms.robust(attacked, rule)


def with_hostile(train: fr.Clients, share: float, praised: int | None) -> fr.Clients:
    """The training clients, a random share of them marked as hostile.

    Args:
        train: The training clients.
        share: The share of them that is hostile.
        praised: An item that half of a hostile client's examples praise; None for none.
    """
    generator = np.random.default_rng(0)
    hostile = np.zeros(len(train), bool)
    hostile[generator.permutation(len(train))[: round(share * len(train))]] = True
    marks = hostile[train.owners()]
    columns: dict[str, Any] = {name: np.array(train.column(name)) for name in ("item", "rating")}
    if praised is not None:
        praising = marks & (train.positions() % 2 == 0)
        columns["item"][praising], columns["rating"][praising] = praised, 5.0
    return train.with_columns(**columns, hostile=marks.astype(np.int8)).select("item", "rating", "hostile")


def promoted(algorithm: fr.Algorithm, state: fr.ServerState, test: fr.Clients, item: int) -> float:
    """The share of test users who get an item among the first 10 of the catalogue."""
    # The item is the only one held out, next to all that the user has rated.
    num_items = len(test.vocabularies["item"])
    counts = np.array(test.num_examples)
    offsets = np.concatenate([[0], np.cumsum(counts + 1)])
    last = offsets[1:] - 1
    items = np.full(offsets[-1], item, np.int32)
    held = np.zeros(offsets[-1], np.int8)
    held[last] = 1
    rating = np.full(offsets[-1], 3.0, np.float32)
    own = np.ones(offsets[-1], bool)
    own[last] = False
    items[own], rating[own] = test.column("item"), test.column("rating")
    columns = {"item": items, "rating": rating, "held_out": held}
    asked = fr.Clients.from_columns(test.ids, offsets, columns, dict(test.vocabularies))
    scoring = Ranking(num_items, (("hr", 10),))
    found = fr.evaluate(algorithm, state, asked, split=fr.splits.HeldOut(), scoring=scoring)
    return found.over_clients()["hr@10"]


def rows(
    path: Path, name: str, rounds: int, shares: list[float], attacks: list[str]
) -> Iterator[dict[str, Any]]:
    """One trained model after the other."""
    sets = load(path, seed=0, cap=CAP, fractions={"train": 0.8, "validation": 0.1, "test": 0.1})
    train, test = sets["train"], sets["test"].select("item", "rating")
    mean = float(train.column("rating").mean(dtype=np.float64))
    num_items = len(train.vocabularies["item"])
    counts = np.bincount(np.asarray(train.column("item")), minlength=num_items)
    target = int(np.argmin(counts))
    held = (test.positions() == test.num_examples[test.owners()] - 1).astype(np.int8)
    ranked = test.with_columns(held_out=held)
    cases = [(attack, share) for attack in attacks for share in (shares if attack in ATTACKS else [0.0])]
    for attack, share in cases:
        praised = target if attack == "promotion" else None
        algorithm = algorithm_of(num_items, mean, ATTACKS.get(attack, 1.0), RULES[name])
        result = fr.train(algorithm, with_hostile(train, share, praised), rounds, sampling=fr.Passes(COHORT))
        scoring = Ranking(num_items, (("hr", 10),), negatives=99)
        hits = fr.evaluate(algorithm, result.state, ranked, split=fr.splits.HeldOut(), scoring=scoring)
        yield {
            "rule": name,
            "attack": attack,
            "share": share,
            "rmse": fr.evaluate(algorithm, result.state, test).over_examples()["rmse"],
            "hr@10": hits.over_clients()["sampled_hr@10"],
            "promoted": promoted(algorithm, result.state, test, target),
        }
        jax.clear_caches()


def main() -> None:
    """Measures and prints one line of JSON for each trained model."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("path", type=Path, help="the folder of MovieLens 1M")
    parser.add_argument("--rule", choices=list(RULES), action="append", help="may be given several times")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help=f"of {COHORT} clients each")
    parser.add_argument("--share", type=float, action="append", help="of hostile clients; several times")
    parser.add_argument("--attack", choices=[NOBODY, *ATTACKS], action="append", help="several times")
    arguments = parser.parse_args()
    for name in arguments.rule or list(RULES):
        attacks, shares = arguments.attack or [NOBODY, *ATTACKS], arguments.share or [0.01, 0.05, 0.2]
        for row in rows(arguments.path, name, arguments.rounds, shares, attacks):
            print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
